"""`amalia bench tasks` from the outside."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from amalia_bench import records
from amalia_bench import tasks as measuring
from amalia_bench.cli.door import bench
from amalia_edge.errors import UsageError

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


def test_help_says_that_no_system_prompt_is_put_before() -> None:
    assert "no chat template, no system prompt" in tasks("--help").output
