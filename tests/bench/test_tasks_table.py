"""What is read of `amalia bench tasks`: its table, and the sentence to act on."""

import io
from typing import Any

import pytest
from rich.console import Console

from amalia_bench.tasks_table import WIDTH, sentence, table


def row(level: str = "BF16", accuracy: float = 0.6, delta: tuple[float, float, float] | None = None, **more: Any) -> dict[str, Any]:  # fmt: skip
    found: dict[str, Any] = {
        "model": {"name": "toy", "level": level}, "file": "exam.jsonl", "task": "choice", "prompt": "continuation",
        "items": 200, "left_out": 0, "complete": True, "chance": 0.25, "accuracy": accuracy,
        "accuracy_ci95": [accuracy - 0.06, accuracy + 0.06], "accuracy_per_byte": 0.55, "nats": -3.25,
        "against": None, "delta": None, "delta_ci95": None,
    }  # fmt: skip
    if delta:
        found |= {"against": "BF16", "delta": delta[0], "delta_ci95": list(delta[1:])}
    return found | more


def shown(*rows: dict[str, Any]) -> str:
    out = io.StringIO()
    Console(file=out, width=WIDTH).print(table(rows))
    return out.getvalue()


def test_a_model_has_its_shares_and_their_interval() -> None:
    line = next(line for line in shown(row()).splitlines() if line.startswith("BF16"))
    assert line.split() == ["BF16", "60.0", "%", "[54.0,", "66.0]", "–", "55.0", "%", "−3.25"]


def test_a_difference_is_in_points_with_its_interval() -> None:
    assert "−4.0  [−7.0, −1.0]" in shown(row(), row("Q2_K", 0.56, (-0.04, -0.07, -0.01)))


def test_a_missing_bound_is_shown_as_infinite() -> None:
    assert "[∞, ∞]" in shown(row(), row("Q2_K", delta=(0.0, None, None)))  # type: ignore[arg-type]


def test_a_cloze_has_no_column_per_byte() -> None:
    assert "per byte" in shown(row())
    assert "per byte" not in shown(row(task="cloze", chance=None))


def test_what_was_left_out_and_what_was_stopped_is_said() -> None:
    told = shown(row(left_out=3, complete=False))
    assert "longer than the context: 3" in told
    assert "stopped: not every question was put" in told


def test_the_table_keeps_to_its_width() -> None:
    assert max(map(len, shown(row(), row("Q4_K_M", 0.56, (-0.04, -0.07, -0.01))).splitlines())) <= WIDTH


def test_no_line_speaks_of_a_system_prompt_that_is_not_there() -> None:
    assert "bare text, no system prompt" in shown(row()).splitlines()[0]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row()], "BF16 answers 60.0 % of 200 questions right: add --base MODEL16 to see what quantization took."),
        ([row(accuracy=0.28)], "no better than guessing (25.0 %), so that levels cannot be told apart by it: try --prompt letters"),
        ([row(accuracy=0.28, prompt="letters")], "try --prompt continuation"),
        ([row(accuracy=0.01, chance=None)], "1.0 % of 200 questions right: add --base"),
        (
            [row(), row("Q8_0", delta=(0.0, -0.02, 0.02)), row("Q4_K_M", delta=(-0.01, -0.04, 0.02))],
            "Q8_0 and Q4_K_M: no loss to be seen in 200 questions, which show one of 3.0 points or more: choose by size",
        ),
        (
            [row(), row("Q4_K_M", delta=(-0.01, -0.04, 0.02)), row("Q2_K", delta=(-0.08, -0.12, -0.04))],
            "Q2_K answers 8.0 points fewer right than BF16, more than chance explains: where that matters, take Q4_K_M.",
        ),
        ([row(), row("Q2_K", delta=(-0.08, -0.12, -0.04))], "where that matters, stay with BF16."),
        ([row(), row(accuracy=0.7, model={"name": "other", "level": "Q8_0"})], "other Q8_0 answers 70.0 %"),
    ],
)  # fmt: skip
def test_the_sentence_says_what_to_do(rows: list[dict[str, Any]], said: str) -> None:
    assert said in sentence(rows)
    assert sentence(rows).endswith(".")
