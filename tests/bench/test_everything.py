"""One command for every figure of a model."""

import json
from pathlib import Path

import pytest

from amalia_bench.everything import EverythingConfig, commands, make_levels
from amalia_convert.imatrix import ImatrixConfig, collect_imatrix
from amalia_edge.cli.door import run_door
from amalia_edge.errors import UsageError
from amalia_edge.gguf import read_header
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
    assert lines[0].startswith("amalia bench speed fadinho fadinho:Q8_0 fadinho:Q4_K_M")
    assert not list(tmp_path.iterdir())
