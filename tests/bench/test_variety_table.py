"""What a person reads of variety: the tables, and the sentence to act on."""

import io
from typing import Any

import pytest
from rich.console import Console

from amalia_bench.variety_table import sentence, table


def figures(share: float, margin: float, delta: float | None = None, half: float = 0.05) -> dict[str, Any]:
    return {
        "strength": "categorical", "pairs": 877, "prefers_european": share, "prefers_european_ci95": [share - 0.03, share + 0.03],
        "margin": margin, "margin_ci95": [margin - 0.5, margin + 0.5], "delta_margin": delta,
        "delta_margin_ci95": None if delta is None else [delta - half, delta + half],
    }  # fmt: skip


def row(level: str, delta: float | None = None, prompt: str = "default", **more: Any) -> dict[str, Any]:
    moved = delta or 0.0
    classes = {"lexicon": figures(0.9, 6, delta), "clitics": figures(0.7, 4, delta and 2 * delta)}
    return {
        "prompt": prompt, "against": None if delta is None else "BF16", "model": {"name": "Toy", "level": level},
        "overall": figures(0.8 + moved / 10, 5 + moved, delta), "classes": classes,
        "gradients": {"motion": figures(0.6, 1, delta)}, "generated": None,
    } | more  # fmt: skip


def shown(*rows: dict[str, Any]) -> str:
    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(table(rows))
    return screen.export_text()


def test_a_drift_names_its_size_its_class_and_what_to_take() -> None:
    told = sentence([row("BF16"), row("Q8_0", 0.01), row("Q2_K", -0.4)])
    assert told == (
        "Q2_K: a drift towards Brazilian Portuguese (Q2_K by −0.400 nats a pair, most in clitics; "
        "76.0 % European instead of 80.0 %): where that matters, take Q8_0."
    )


def test_the_level_that_drifts_most_is_named() -> None:
    assert "(Q2_K by −0.400 nats" in sentence([row("BF16"), row("Q3_K_M", -0.2), row("Q2_K", -0.4)])


def test_where_every_level_drifts_the_base_is_kept() -> None:
    assert sentence([row("BF16"), row("Q3_K_M", -0.2), row("Q2_K", -0.4)]).endswith("stay with BF16.")


def test_without_a_drift_the_choice_is_free() -> None:
    told = sentence([row("BF16"), row("Q8_0", 0.01), row("Q4_K_M", -0.02)])
    assert (
        told
        == "Q8_0 and Q4_K_M: no drift towards Brazilian Portuguese in 877 pairs together: choose by size and speed."
    )


def test_a_class_that_moved_alone_is_named() -> None:
    told = sentence([row("BF16"), row("Q4_K_M", -0.03)])  # clitics moved twice as far
    assert told.endswith("together, but in clitics Q4_K_M moved by −0.060 nats: read some answers of both.")


def test_a_move_towards_portugal_is_no_drift() -> None:
    assert "no drift" in sentence([row("BF16"), row("Q4_K_M", 0.4)])


def test_a_base_alone_names_its_weakest_class() -> None:
    assert "80.0 % of 877 pairs, least in clitics (70.0 %)" in sentence([row("BF16")])


def test_the_sentence_is_of_the_default_prompt_where_both_were_measured() -> None:
    rows = [row("BF16", prompt="bare"), row("BF16"), row("Q2_K", -0.4, prompt="bare"), row("Q2_K", 0.0)]
    assert "no drift" in sentence(rows)


def test_gradients_alone_lead_to_no_claim() -> None:
    assert "add pairs" in sentence([row("BF16", overall=None, classes={})])
    assert "motion (gradient)" in shown(row("BF16", overall=None, classes={}))


def test_what_is_beyond_chance_is_marked() -> None:
    text = shown(row("BF16"), row("Q8_0", 0.01), row("Q2_K", -0.4))
    assert "−0.400*" in text
    assert "+0.010 " in text


def test_the_table_fits_eighty_columns() -> None:
    assert (
        max(map(len, shown(row("BF16"), row("Q8_0", 0.01), row("Q4_K_M", -0.1), row("Q2_K", -0.4)).splitlines())) <= 80
    )


def test_of_many_levels_none_is_cut_off() -> None:
    levels = [row(f"IQ{number}_XXS", -0.123) for number in range(12)]
    text = shown(row("BF16"), *levels)
    assert "…" not in text
    assert all(text.count(f"Δ {level['model']['level']}") == 1 for level in levels)


@pytest.mark.parametrize(
    ("rate", "told"),
    [(1.84, "9 Brazilian markers in 5,100 words: 1.8 [0.8, ∞] in 1,000"), (None, "60 answers without a word")],
)
def test_answers_are_told_per_thousand_words(rate: float | None, told: str) -> None:
    generated = {"answers": 60, "words": 5100, "markers": 9, "per_1000_words": rate, "per_1000_words_ci95": [0.8, None]}
    assert told in shown(row("BF16", generated=generated))
