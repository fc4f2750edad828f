"""What was seen of a machine and of the library becomes advice."""

import dataclasses
import json
from pathlib import Path
from typing import Any

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


def board(**changes: Any) -> str:
    """Give what is said of the Orin Nano, some of its facts replaced."""
    seen = recorded("orin-nano")
    assert seen.jetson is not None
    jetson = dataclasses.replace(seen.jetson, **{key: changes.pop(key) for key in [*changes] if key in JETSON})
    library = changes.pop("library", CUDA)
    return "\n".join(hazards(dataclasses.replace(seen, jetson=jetson, **changes), library, WORKS))


JETSON = {field.name for field in dataclasses.fields(machine.Jetson)}
CUDA = Library(
    "0.3.36",
    ("CUDA", "ARCHS = 870", "CPU", "NEON"),
    {"compiler": "gcc 11.4.0", "flags": ["-DGGML_CUDA=ON", "-DGGML_CUDA_NO_VMM=ON", "-DCMAKE_CUDA_ARCHITECTURES=87"]},
    (CPU, BackendDevice("CUDA0", "Orin", "integrated-gpu", 8 << 30, 6 << 30)),
)


def test_a_jetson_s_hazards_end_in_exact_commands() -> None:
    said = board()
    for command in (
        "sudo systemctl disable --now nvzramconfig",
        "sudo mkswap /swapfile",
        "sudo systemctl set-default multi-user.target",
        "sudo nvpmodel -m 2 (MAXN_SUPER)",
    ):
        assert command in said, command
    assert "Built without" not in said and "does not support" not in said


def test_a_board_that_is_set_up_has_no_hazards() -> None:
    assert board(zram=0, desktop=False, power_mode="MAXN_SUPER") == ""


def test_a_power_mode_s_number_is_the_board_s_own() -> None:
    seen = recorded("orin-nx")
    assert "sudo nvpmodel -m 0 (MAXN)" in "\n".join(hazards(seen, CUDA, WORKS))


def test_an_l4t_that_does_not_support_orin_is_told() -> None:
    assert "L4T 38.2.0 does not support Orin" in board(l4t="38.2.0")
    assert "does not support" not in board(l4t="39.2.0") + board(l4t="38.2.0", soc="tegra264")


def test_a_cuda_build_without_what_orin_needs_is_told() -> None:
    flags = {
        "compiler": "gcc 11.4.0",
        "flags": ["-DGGML_CUDA=ON", "-DGGML_CUDA_NO_VMM=OFF", "-DCMAKE_CUDA_ARCHITECTURES=86"],
    }
    said = board(library=dataclasses.replace(CUDA, build=flags, features=("CUDA", "CPU")))
    assert "Built without GGML_CUDA_NO_VMM" in said and "Built without CUDA architecture 87" in said


def test_a_recorded_machine_is_told_of_without_its_library() -> None:
    found = device.examine_recorded(recorded("orin-nano"))
    assert any("zram" in hazard for hazard in found.hazards) and not any("setup" in hazard for hazard in found.hazards)


def test_a_diagnosis_is_json() -> None:
    found = device.examine()
    assert json.loads(json.dumps(found.as_dict()))["self_test"]["ok"] is True
    assert found.lines()["library"] == "llama-cpp-python 0.3.36"


def test_recording_into_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        device.record(tmp_path / "nowhere" / "x.tar.gz")


def test_cores_are_at_least_one_and_at_most_those_allowed() -> None:
    assert 1 <= device.usable_cores() <= machine.look().threads
