"""`amalia bench variety` from the outside."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from amalia_bench import records
from amalia_bench.cli import variety as command
from amalia_bench.cli.door import bench
from amalia_edge.errors import BenchError, UsageError

OWN = """class = "clitics"
strength = "categorical"

[[pair]]
id = "clitics-001"
european = "O pai disse-me que vinha."
brazilian = "O pai me disse que vinha."
norm = "disse-me / me disse"
register = "neutral"

[[pair]]
id = "clitics-002"
european = "A mãe deu-lhe pão."
brazilian = "A mãe lhe deu pão."
norm = "deu-lhe / lhe deu"
register = "neutral"
"""


@pytest.fixture(autouse=True)
def _notes_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(OWN, "utf-8")
    return path


def variety(*words: str) -> Result:
    return CliRunner().invoke(bench, ["variety", *words], catch_exceptions=False, standalone_mode=False)


def rows_of(*words: str) -> list[dict[str, Any]]:
    told = json.loads(variety(*words, "--json").output)
    assert (told["schema"], told["command"]) == (1, "bench variety")
    rows: list[dict[str, Any]] = told["result"]["rows"]
    return rows


def test_a_base_and_a_level_are_scored_under_both_prompts(tiny: Path, own: Path) -> None:
    rows = rows_of(str(tiny), str(tiny), "--pairs", str(own), "-t", "1")
    assert [(row["prompt"], row["against"]) for row in rows] == [
        ("bare", None), ("default", None), ("bare", "Q8_0"), ("default", "Q8_0"),
    ]  # fmt: skip


def test_the_output_ends_in_a_sentence_to_act_on(tiny: Path, own: Path) -> None:
    output = variety(str(tiny), "--pairs", str(own), "--prompt", "bare", "-t", "1").output
    assert output.strip().splitlines()[-1].startswith("Tiny Q8_0 prefers the European wording in")


def test_what_was_measured_is_appended_and_taken_over(tiny: Path, own: Path, tmp_path: Path) -> None:
    kept = tmp_path / "r.jsonl"
    words = (str(tiny), "--pairs", str(own), "--prompt", "bare", "-t", "1", "--records", str(kept))
    first = rows_of(*words)
    assert records.read(kept) == first
    assert rows_of(*words, "--resume") == first
    assert len(records.read(kept)) == 1


def test_resuming_needs_a_file(tiny: Path) -> None:
    with pytest.raises(UsageError, match="no --records FILE"):
        variety(str(tiny), "--resume")


def test_a_file_that_cannot_be_written_is_refused_before_the_measurement(
    tiny: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(command, "measure_variety", lambda *_: pytest.fail("measured"))
    with pytest.raises(BenchError, match="cannot be written"):
        variety(str(tiny), "--pairs", str(own), "--records", str(tmp_path / "file" / "r.jsonl"))


def test_an_error_is_told_beside_what_came_before_it(tiny: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = command.measure_variety

    def failing(*words: Any) -> Any:
        yield next(iter(measure(*words)))
        raise BenchError("tiny", "NaN", "convert again")

    monkeypatch.setattr(command, "measure_variety", failing)
    done = variety(str(tiny), "--pairs", str(own), "-t", "1", "--json")
    told = json.loads(done.output)
    assert (len(told["result"]["rows"]), told["error"]["found"], done.return_value) == (1, "NaN", 8)


def test_an_interrupt_keeps_what_was_measured(tiny: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = command.measure_variety

    def interrupted(*words: Any) -> Any:
        yield next(iter(measure(*words)))
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "measure_variety", interrupted)
    result = variety(str(tiny), "--pairs", str(own), "-t", "1")
    assert result.return_value == 130
    assert "prefers the European wording" in result.output
