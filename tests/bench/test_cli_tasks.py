"""`amalia bench tasks` from the outside."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from amalia_bench import records
from amalia_bench import tasks as measuring
from amalia_bench.cli.door import bench
from amalia_edge.errors import BenchError, UsageError

CLOZE = '{"sentence": "Pôs a chave na", "last_word": "porta."}\n{"sentence": "Foi à", "last_word": "rua."}\n'


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "own.jsonl"
    path.write_text(CLOZE, "utf-8")
    return str(path)


def tasks(*words: str) -> Result:
    return CliRunner().invoke(bench, ["tasks", *words], catch_exceptions=False, standalone_mode=False)


def rows_of(*words: str) -> list[dict[str, Any]]:
    told = json.loads(tasks(*words, "--json").output)
    assert (told["schema"], told["command"]) == (1, "bench tasks")
    rows: list[dict[str, Any]] = told["result"]["rows"]
    return rows


def test_json_gives_a_row_for_each_model(own: str, tiny: Path) -> None:
    first, second = rows_of(own, str(tiny), "--base", str(tiny), "-t", "1")
    assert (first["task"], first["items"], first["against"]) == ("cloze", 2, None)
    assert (second["against"], second["delta"], second["agreement"]) == ("Q8_0", 0.0, 1.0)


def test_a_person_reads_a_table_and_a_sentence(own: str, tiny: Path) -> None:
    lines = tasks(own, str(tiny), "-t", "1").output.rstrip().splitlines()
    assert lines[0].startswith("own.jsonl: 2 questions, bare text, no system prompt")
    assert lines[-1].endswith("add --base MODEL16 to see what quantization took.")


def test_records_are_appended_and_taken_over(own: str, tiny: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    words = (own, str(tiny), "-t", "1", "--records", str(kept))
    measured = rows_of(*words)
    assert records.read(kept) == measured
    assert rows_of(*words, "--resume") == measured
    assert len(records.read(kept)) == 1


def test_resume_wants_a_file_of_records(own: str, tiny: Path) -> None:
    with pytest.raises(UsageError, match="--resume: no --records FILE"):
        tasks(own, str(tiny), "--resume")


def test_an_interrupt_keeps_what_was_answered(own: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    kept = tmp_path / "kept.jsonl"
    whole = measuring.ask

    def stopped(*words: Any) -> Iterator[measuring.Answer | None]:
        yield next(whole(*words))
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "ask", stopped)
    done = tasks(own, str(tiny), "-t", "1", "--records", str(kept))
    assert done.return_value == 130
    assert "stopped: not every question was put" in done.stdout
    assert [(row["items"], row["complete"]) for row in records.read(kept)] == [(1, False)]


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the second model fail."""
    whole, asked = measuring.ask, list[Path]()

    def ask(path: Path, *words: Any) -> Iterator[measuring.Answer | None]:
        asked.append(path)
        if len(asked) == 2:
            raise BenchError("own.jsonl: line 2", "the model's logits are no numbers", "convert the model again")
        yield from whole(path, *words)

    monkeypatch.setattr(measuring, "ask", ask)


@pytest.mark.usefixtures("failing")
def test_what_was_measured_before_a_failure_is_shown(own: str, tiny: Path) -> None:
    done = CliRunner().invoke(bench, ["tasks", own, str(tiny), "--base", str(tiny), "-t", "1"], standalone_mode=False)
    assert isinstance(done.exception, BenchError)
    assert "own.jsonl: 2 questions" in done.stdout


@pytest.mark.usefixtures("failing")
def test_what_was_measured_before_a_failure_is_told_to_a_machine(own: str, tiny: Path) -> None:
    done = tasks(own, str(tiny), "--base", str(tiny), "-t", "1", "--json")
    told = json.loads(done.stdout)
    assert (done.return_value, told["command"]) == (BenchError.exit_code, "bench tasks")
    assert [row["items"] for row in told["result"]["rows"]] == [2]
    assert told["error"]["found"] == "the model's logits are no numbers"


def test_records_in_an_impossible_place_end_it_before_it_begins(own: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(measuring, "identify", None)
    with pytest.raises(BenchError, match=r"below\.jsonl: cannot be written"):
        tasks(own, str(tiny), "--records", f"{own}/below.jsonl")
    with pytest.raises(click.BadParameter, match="is a directory"):
        tasks(own, str(tiny), "--records", str(tmp_path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_where_the_disk_is_full_the_figures_are_shown(own: str, tiny: Path) -> None:
    words = ["tasks", own, str(tiny), "-t", "1", "--records", "/dev/full"]
    done = CliRunner().invoke(bench, words, standalone_mode=False)
    assert isinstance(done.exception, BenchError)
    assert "own.jsonl: 2 questions" in done.stdout


def test_help_says_that_no_system_prompt_is_put_before() -> None:
    assert "no chat template, no system prompt" in tasks("--help").output
