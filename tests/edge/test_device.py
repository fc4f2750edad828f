"""What was seen of a machine and of the library becomes advice."""

import dataclasses
import json
from pathlib import Path

import pytest

from amalia_edge import device, machine
from amalia_edge.device import Library, hazards
from amalia_edge.errors import UsageError
from amalia_edge.machine import Machine
from amalia_edge.native import BackendDevice
from amalia_edge.selftest import SelfTest

MACHINES = Path(__file__).parents[1] / "machines"
CPU = BackendDevice("CPU", "a CPU", "cpu", 8 << 30, 4 << 30)
GOOD = Library("0.3.36", ("CPU", "AMX_INT8"), {"compiler": "zig 0.16.0"}, (CPU,))
WORKS = SelfTest(True, "", 0.1, "fine")


def recorded(name: str) -> Machine:
    return machine.look(MACHINES / name)


def test_a_sound_server_has_no_hazards() -> None:
    assert hazards(recorded("amx-server-gcc12"), GOOD, WORKS) == []


def test_an_amx_cpu_under_a_build_without_it_is_told() -> None:
    slow = dataclasses.replace(GOOD, features=("CPU", "AVX512"))
    assert "AMX" in hazards(recorded("amx-server-gcc12"), slow, WORKS)[0]


def test_an_amx_build_by_an_old_gcc_is_told() -> None:
    old = dataclasses.replace(GOOD, build={"compiler": "gcc 12.2.0"})
    assert "crashes" in " ".join(hazards(recorded("amx-server-gcc12"), old, WORKS))


def test_a_gpu_that_the_build_does_not_use_is_told() -> None:
    assert "GPU" in " ".join(hazards(recorded("desktop-gpu"), GOOD, WORKS))


def test_a_missing_library_says_amalia_setup() -> None:
    missing = Library("", (), {}, (), "not installed")
    assert hazards(recorded("x86-laptop"), missing, None) == ["llama-cpp-python: not installed. Run: amalia setup"]


def test_a_self_test_that_died_is_told() -> None:
    died = SelfTest(False, "SIGSEGV", 0.1, "no message")
    assert "SIGSEGV" in " ".join(hazards(recorded("x86-laptop"), GOOD, died))


def test_little_memory_is_told() -> None:
    tight = dataclasses.replace(recorded("x86-laptop"), available=1_000_000_000)
    assert "1.00 GB of memory" in " ".join(hazards(tight, GOOD, WORKS))


def test_a_diagnosis_is_json() -> None:
    found = device.examine()
    assert json.loads(json.dumps(found.as_dict()))["self_test"]["ok"] is True
    assert found.lines()["library"] == "llama-cpp-python 0.3.36"


def test_recording_into_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        device.record(tmp_path / "nowhere" / "x.tar.gz")


def test_cores_are_at_least_one_and_at_most_those_allowed() -> None:
    assert 1 <= device.usable_cores() <= machine.look().threads
