"""One command for every figure of a model."""

import json
import shutil
from pathlib import Path

import pytest

from amalia_bench import records
from amalia_bench.everything import EverythingConfig, commands, make_levels
from amalia_convert.conversion import ConvertConfig, convert
from amalia_convert.imatrix import ImatrixConfig, collect_imatrix
from amalia_convert.levels import LEVELS
from amalia_convert.source import embedded_folder
from amalia_edge.cli.door import run_door
from amalia_edge.errors import ModelUnsupported, UsageError
from amalia_edge.gguf import read_header
from amalia_edge.store import models_folder
from models import tiny_model


def test_each_step_goes_on_where_it_was_stopped_and_the_report_comes_last() -> None:
    config = EverythingConfig("m.gguf", ("Q8_0",), Path("out"))
    steps = commands(config, Path("m.gguf"), [Path("m-Q8_0.gguf")])
    measuring = [words for words in steps if words[0] != "report"]
    assert [words[0] for words in measuring] == ["speed", "quality", "variety"]
    assert all(words[-3:] == ["--records", str(Path("out/records.jsonl")), "--resume"] for words in measuring)
    assert [words[0] for words in steps[len(measuring) :]] == ["report", "report"]


def test_a_level_that_is_already_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    model = tiny_model(tmp_path / "tiny.gguf", kind="F16")
    _, first = make_levels(EverythingConfig(str(model), ("Q8_0",)))
    before = first[0].stat().st_mtime_ns
    base, second = make_levels(EverythingConfig(str(model), ("Q8_0", "Q4_0")))
    assert base == model
    assert second[0] == first[0]
    assert second[0].stat().st_mtime_ns == before
    assert [path.suffix for path in second] == [".gguf", ".gguf"]


@pytest.mark.parametrize("name", ["fadinho", "fadinho:BF16", "checkpoint"])
def test_the_base_is_the_16_bit_model_however_it_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    if name == "checkpoint":
        shutil.copytree(embedded_folder(), tmp_path / name, ignore=shutil.ignore_patterns("texts", "dialogues"))
        name = str(tmp_path / name)
    base, levels = make_levels(EverythingConfig(name, ("Q8_0", "bf16")))
    assert read_header(base).metadata["general.file_type"] == LEVELS["BF16"].file_type
    assert [read_header(path).metadata["general.file_type"] for path in levels] == [LEVELS["Q8_0"].file_type]


def test_a_stored_16_bit_model_is_the_base_and_a_quantized_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    convert(ConvertConfig(str(tiny_model(tmp_path / "tiny.gguf", kind="F16")), ("BF16", "Q4_K_M"), models_folder()))
    base, _ = make_levels(EverythingConfig("tiny", ("Q8_0",)))
    assert base == models_folder() / "tiny-BF16.gguf"
    with pytest.raises(ModelUnsupported, match="quantized already"):
        make_levels(EverythingConfig("tiny:Q8_0", ("Q4_0",)))


def test_a_level_made_with_other_importance_data_is_not_taken_for_the_one_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    model, importance = tiny_model(tmp_path / "tiny.gguf", kind="F16"), tmp_path / "tiny.imatrix.gguf"
    collect_imatrix(ImatrixConfig(str(model), out=importance, chunk_size=32, chunks=2, threads=1))
    make_levels(EverythingConfig(str(model), ("Q4_0",), importance=importance))
    make_levels(EverythingConfig(str(model), ("Q4_0",), importance=importance))
    with pytest.raises(UsageError, match="with importance data; remove it: amalia rm tiny:Q4_0"):
        make_levels(EverythingConfig(str(model), ("Q4_0",)))


def test_all_is_measured_against_the_16_bit_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "out"
    assert (
        run_door(["bench", "all", "fadinho", "--levels", "Q8_0", "--quick", "-r", "1", "-o", str(out), "--json"]) == 0
    )
    rows = records.read(out / "records.jsonl")
    levels = {row["model"]["level"]: row.get("against") for row in rows if row["kind"] in ("quality", "variety")}
    assert levels == {"BF16": None, "Q8_0": "BF16"}
    assert {row["model_filename"] for row in rows if row["kind"] == "speed"} == {
        "fadinho-BF16.gguf",
        "fadinho-Q8_0.gguf",
    }
    assert "Q8_0" in (out / "report.html").read_text("utf-8")


def test_the_smallest_levels_are_made_with_importance_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    model = tiny_model(tmp_path / "tiny.gguf", kind="F16")
    with pytest.raises(UsageError, match="IQ2_XS"):
        make_levels(EverythingConfig(str(model), ("IQ2_XS",)))
    importance = tmp_path / "tiny.imatrix.gguf"
    collect_imatrix(ImatrixConfig(str(model), out=importance, chunk_size=32, chunks=2, threads=1))
    _, levels = make_levels(EverythingConfig(str(model), ("IQ2_XS",), importance=importance))
    assert read_header(levels[0]).metadata["quantize.imatrix.file"]


def test_no_level_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="levels"):
        EverythingConfig("m.gguf", ())


def test_a_dry_run_names_the_commands_and_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_door(["bench", "all", "fadinho", "--levels", "Q8_0,Q4_K_M", "--dry-run", "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)["result"]["commands"]
    assert lines[0].startswith("amalia bench speed fadinho:BF16 fadinho:Q8_0 fadinho:Q4_K_M")
    assert not list(tmp_path.iterdir())
