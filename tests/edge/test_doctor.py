"""`amalia doctor MODEL`: the plan, before any download, for this machine or a recorded one."""

import contextlib
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

from amalia_convert.shape import SHAPES
from amalia_edge import machine, native
from amalia_edge.cli.door import run_door
from amalia_edge.errors import LibraryMissing, UsageError
from amalia_edge.outlook import recorded_machine
from models import tiny_model

MACHINES = Path(__file__).parents[1] / "machines"
NANO = str(MACHINES / "orin-nano-headless")


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command; give its exit code and what it printed."""

    def run(*words: str) -> tuple[int, str]:
        code = run_door(["doctor", *words])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def levels(text: str) -> dict[str, dict[str, Any]]:
    return {row["level"]: row for row in json.loads(text)["result"]["levels"]}


def test_a_shape_shows_every_level_in_eighty_columns(told: Any) -> None:
    code, text = told("amalia-9b", "--machine", NANO)
    assert code == 0 and max(len(line) for line in text.splitlines() if not line.startswith("! ")) <= 80
    assert re.search(r"Q4_K_M +5\.58 GB +with --fit +\d{4} +q8_0 +6\.\d\d GB", text) and "Q8_0" in text


def test_a_config_json_is_a_shape_too(told: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((SHAPES / "qwen3-8b.json").read_bytes())
    rows = levels(told(str(tmp_path / "config.json"), "--machine", NANO, "--json")[1])
    assert rows["Q4_K_M"]["nbytes"] == pytest.approx(5.03e9, rel=0.01)


def test_what_takes_a_board_s_memory_is_told_beside_the_plan_in_commands_that_can_be_copied(told: Any) -> None:
    text = told("amalia-9b", "--machine", str(MACHINES / "orin-nano"))[1]
    assert "sudo systemctl disable --now nvzramconfig\n" in text
    assert json.loads(told("amalia-9b", "--machine", NANO, "--json")[1])["result"]["hazards"]


def test_levels_that_ruin_an_ordinary_model_are_not_listed(told: Any) -> None:
    assert not {"TQ1_0", "Q1_0", "Q2_0"} & set(levels(told("amalia-9b", "--machine", NANO, "--json")[1]))


def test_a_shape_is_planned_before_the_library_is_built(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise LibraryMissing("llama-cpp-python", "not installed", "run: amalia setup")

    monkeypatch.setattr(native, "library", missing)
    code, text = told("eurollm-1.7b")
    assert code == 0 and text.startswith("eurollm-1.7b on this machine, once amalia setup has run")


def test_a_wish_counts_in_a_shape_s_table(told: Any) -> None:
    rows = levels(told("amalia-9b", "--machine", NANO, "-c", "1024", "-ctk", "q8_0", "-ctv", "q8_0", "--json")[1])
    assert rows["Q4_K_M"]["fits"] and rows["Q4_K_M"]["context"] == 1024 and not rows["Q8_0"]["fits"]


def test_a_file_s_plan_stands_beside_libllama_s_own_figures(told: Any, tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf")
    result = json.loads(told(str(path), "--json")[1])["result"]
    assert result["config"]["context"] == 1024 and result["needs"][0]["device"] == "CPU"
    simulation = result["simulation"]
    assert simulation["predicted"] == pytest.approx(simulation["simulated"], rel=0.08)
    code, text = told(str(path))
    assert code == 0 and "by its own simulation" in text and "- context: the smaller of" in text
    assert max(map(len, text.splitlines())) <= 80


def test_fit_is_told_in_the_plan(told: Any, tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf")
    assert told(str(path), "-c", "16000000", "-np", "200")[0] == 9
    code, text = told(str(path), "-c", "16000000", "-np", "200", "--fit")
    assert code == 0 and "instead of 16000000" in text


def test_a_recorded_machine_alone_tells_its_hazards(told: Any) -> None:
    code, text = told("--machine", str(MACHINES / "orin-nano"))
    assert code == 0 and "sudo systemctl disable --now nvzramconfig" in text


def test_a_recording_is_read_packed_too(told: Any, tmp_path: Path) -> None:
    file = machine.record(Path(NANO), tmp_path / "m.tar.gz")
    assert told("amalia-9b", "--machine", str(file), "--json")[1] == told("amalia-9b", "--machine", NANO, "--json")[
        1
    ].replace("orin-nano-headless", "m.tar.gz")


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside"])
def test_a_recording_that_would_write_elsewhere_is_refused(name: str, told: Any, tmp_path: Path) -> None:
    file = tmp_path / "evil.tar.gz"
    with tarfile.open(file, "w:gz") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    code, text = told("--machine", str(file))
    assert code == 2 and "outside" in text


@pytest.mark.parametrize("words", [("nothing-like-it",), ("--machine", "/nowhere"), ("/nowhere/config.json",)])
def test_what_is_not_there_is_one_line(words: tuple[str, ...], told: Any) -> None:
    code, text = told(*words)
    assert code in (2, 3) and len(text.strip().splitlines()) == 1


def test_a_damaged_recording_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "m.tar.gz"
    whole = machine.record(MACHINES / "orin-nano", file).read_bytes()
    for place in range(12, len(whole), len(whole) // 50):
        file.write_bytes(whole[:place] + b"\xff\xff\xff" + whole[place + 3 :])
        with contextlib.suppress(UsageError), recorded_machine(file):
            pass
