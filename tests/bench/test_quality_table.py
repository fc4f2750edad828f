"""The table puts levels below each other and texts side by side; the sentence names the level to take."""

from typing import Any

from rich.console import Console

from amalia_bench import quality_table


def row(
    level: str, text: str = "pt-PT", *, loss: float = 0.005, high: float | None = None, **more: Any
) -> dict[str, Any]:
    nbytes = {"Q8_0": 8_000_000, "Q4_K_M": 5_000_000, "Q2_K": 3_000_000}[level]
    return {
        "model": {"file": f"toy-{level}.gguf", "level": level, "bytes": nbytes, "sha256": level},
        "base": {"file": "toy-BF16.gguf"}, "against": "BF16", "text": text, "context": 512, "windows": 40,
        "windows_of_text": 40, "quick": False, "ppl_base": 8.5, "ppl_base_stderr": 0.1, "ppl_ratio": 1 + loss,
        "ppl_ratio_ci95": [1 + loss / 2, 1 + (loss * 1.5 if high is None else high)], "mean_kld": loss,
        "kld_ci95": [loss / 2, loss * 2], "same_top": 0.95, "same_top_ci95": [0.94, 0.96], **more,
    }  # fmt: skip


def shown(rows: list[dict[str, Any]], width: int = 130) -> str:
    console = Console(width=width, highlight=False, markup=False)
    with console.capture() as capture:
        console.print(quality_table.heading(rows), soft_wrap=True)
        console.print(quality_table.table(rows))
    return capture.get()


def test_texts_stand_side_by_side() -> None:
    told = shown([row("Q8_0"), row("Q8_0", "en", loss=0.02), row("Q2_K", loss=0.4)])
    (line,) = [line for line in told.splitlines() if line.startswith(" Q8_0")]
    assert "+0.50 %" in line
    assert "+2.00 %" in line
    (line,) = [line for line in told.splitlines() if line.startswith(" Q2_K")]
    assert "–" in line  # not measured on the other text


def test_it_says_against_what_and_on_how_much() -> None:
    assert "Against BF16 (toy-BF16.gguf), windows of 512 tokens: pt-PT 40 windows" in shown([row("Q8_0")])
    told = shown([row("Q4_K_M", against="Q8_0", base={"file": "toy-Q8_0.gguf"})])
    assert "Against Q8_0 (toy-Q8_0.gguf)" in told
    told = shown([row("Q4_K_M", against="x.logits", base={"logits_file": "x.logits"})])
    assert "Against x.logits (x.logits)" in told


def test_a_first_answer_is_marked() -> None:
    rows = [row("Q8_0", quick=True, windows=8)]
    assert "First answer" in shown(rows)
    assert "8 of 40 windows" in shown(rows)
    assert "measure without --quick" in quality_table.advice(rows)


def test_the_interval_stands_below_its_value() -> None:
    assert "[+0.25, +0.75]" in shown([row("Q8_0")])


def test_a_missing_bound_leaves_the_value() -> None:
    assert "+0.50 %" in shown([row("Q8_0", ppl_ratio_ci95=[None, None], kld_ci95=[None, None])])


def test_two_files_of_one_level_are_told_apart() -> None:
    other = row("Q8_0") | {"model": {"file": "other.gguf", "level": "Q8_0", "bytes": 1, "sha256": "else"}}
    told = shown([row("Q8_0"), other])
    assert "toy-Q8_0.gguf" in told
    assert "other.gguf" in told


def test_the_smallest_that_surely_stays_near_is_named() -> None:
    rows = [row("Q8_0", loss=0.001), row("Q4_K_M", loss=0.004), row("Q2_K", loss=0.4)]
    assert quality_table.advice(rows).startswith("Take Q4_K_M (+0.40 % on pt-PT): the smallest")


def test_near_on_one_text_is_not_enough() -> None:
    rows = [row("Q8_0"), row("Q8_0", "en"), row("Q4_K_M"), row("Q4_K_M", "en", loss=0.05)]
    assert quality_table.advice(rows).startswith("Take Q8_0")


def test_an_interval_that_reaches_too_far_is_not_near() -> None:
    assert quality_table.advice([row("Q8_0"), row("Q4_K_M", high=0.02)]).startswith("Take Q8_0")


def test_where_none_is_near_the_nearest_is_named_and_said_to_be_far() -> None:
    told = quality_table.advice([row("Q4_K_M", loss=0.1), row("Q2_K", loss=0.4)])
    assert told.startswith("Take Q4_K_M")
    assert "none surely stays within 1 %" in told


def test_the_largest_file_stands_first_whatever_was_measured_first() -> None:
    told = shown([row("Q2_K"), row("Q8_0"), row("Q4_K_M")])
    assert [line.split()[0] for line in told.splitlines() if line.startswith(" Q")] == ["Q8_0", "Q4_K_M", "Q2_K"]


def test_a_name_in_a_file_steers_no_terminal() -> None:
    assert "\x1b" not in shown([row("Q8_0", "bad\x1b[31m")])
    assert "[red]" in shown([row("Q8_0", "[red]")])
