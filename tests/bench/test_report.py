"""What was measured, put together, and as Markdown."""

import re

from amalia_bench.report import make_report, markdown, markdown_table
from amalia_bench.tables import Table
from bench.example_records import everything, quality_body, row, speed_body

ROWS = everything()


def test_a_section_without_records_is_absent() -> None:
    names = [section.name for section in make_report([row("speed", speed_body())]).sections]
    assert names == ["speed", "files"]


def test_a_whole_run_has_every_section() -> None:
    names = [section.name for section in make_report(ROWS).sections]
    assert names == ["choice", "quality", "variety", "tasks", "speed", "shape", "kernels", "energy", "files"]


def test_fadinhos_figures_are_said_to_prove_the_method_only() -> None:
    (note,) = make_report([row("quality", quality_body(), name="fadinho")]).notes
    assert "nothing about AMÁLIA's quality" in note


def test_other_models_figures_carry_no_such_note() -> None:
    assert make_report([row("quality", quality_body())]).notes == ()


def test_predictions_and_random_weights_are_noted() -> None:
    assert len(make_report(ROWS).notes) == 2


def test_every_machine_is_listed_with_what_is_compiled_in() -> None:
    assert [features for _, features in make_report(ROWS).places] == ["AVX2 AMX_INT8"] * 2


def test_markdown_rows_have_as_many_cells_as_their_heading() -> None:
    lines = [line for line in markdown(make_report(ROWS)).splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    rules = [at for at, line in enumerate(lines) if line.startswith("| ---")]
    assert len(rules) > 10
    assert all(widths[at - 1] == widths[at] == widths[at + 1] for at in rules)


def test_a_models_name_is_text_in_markdown() -> None:
    told = markdown(make_report([row("speed", speed_body(), name="<script>a|b*c")]))
    assert "<script" not in told and "&lt;script&gt;a\\|b\\*c" in told


def test_a_title_that_says_what_the_section_says_is_left_out() -> None:
    table = Table("Speed", ("a",), (("1",),), "here")
    assert (markdown_table(table, "Speed").startswith("| a |"), markdown_table(table).startswith("**Speed**")) == (
        True,
        True,
    )


def test_a_column_of_words_stands_at_the_left() -> None:
    assert "| --- | ---: | --- |" in markdown_table(Table("", ("a", "b", "c"), (("x", "1", "words"),), ""))
