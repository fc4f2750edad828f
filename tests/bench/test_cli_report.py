"""`amalia bench report, compare, advise, card` from the outside."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from amalia_bench import records
from amalia_bench.cli.door import bench
from amalia_edge.errors import BenchError, NotComparable, UsageError
from bench.example_records import everything, quality_body, row, speed_body


def run(*words: object) -> Result:
    return CliRunner().invoke(bench, list(map(str, words)), catch_exceptions=False, standalone_mode=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(
        tmp_path / "a.jsonl",
        [
            row("speed", speed_body()),
            row("quality", quality_body()),
            row("quality", quality_body(0.001), "Q8_0"),
            row("speed", speed_body(11), "Q8_0"),
        ],
    )


def write(path: Path, rows: list[records.Row]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def test_report_writes_one_page_others_may_read(file: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert run("report", file, "-o", page).stdout == f"Open {page} in a browser; it needs no network.\n"
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>") and page.stat().st_mode & 0o777 == 0o644


def test_report_prints_markdown_and_nothing_else_on_standard_output(file: Path) -> None:
    told = run("report", file, "--md")
    assert told.stdout.startswith("# Measured: Toy 9B") and told.stdout.rstrip().endswith("Measured 2026-01-02.")
    assert told.stderr.endswith("names the level for this machine.\n")


def test_report_writes_markdown_where_the_file_is_called_so(file: Path, tmp_path: Path) -> None:
    run("report", file, "-o", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text("utf-8").startswith("# Measured")


def test_report_writes_plots_as_svg_and_png(file: Path, tmp_path: Path) -> None:
    told = json.loads(run("report", file, "--plots", tmp_path / "plots", "--json").stdout)
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["pareto-toy-9b.png", "pareto-toy-9b.svg", "percentiles-toy-9b.png", "percentiles-toy-9b.svg"]
    assert len(told["result"]["written"]) == 4


def test_report_says_where_no_folder_of_plots_can_be(file: Path) -> None:
    with pytest.raises(UsageError, match="Not a directory; name another folder"):
        run("report", file, "--plots", file / "plots")


def test_report_gives_markdown_within_json(file: Path) -> None:
    told = json.loads(run("report", file, "--md", "--json").stdout)["result"]
    assert told["markdown"] == run("report", file, "--md").stdout


def test_report_joins_several_files(file: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "b.jsonl", [row("speed", speed_body(), name="Other")])
    assert run("report", file, other, "--md").stdout.startswith("# Measured: Toy 9B, Other")


def test_report_of_nothing_says_how_to_measure(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="amalia bench speed MODEL --records FILE"):
        run("report", write(tmp_path / "empty.jsonl", []))


@pytest.mark.parametrize("name", ["page.pdf", "gone/page.html"])
def test_report_refuses_a_place_it_cannot_write(file: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        run("report", file, "-o", tmp_path / name)


def test_a_record_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="update amalia-edge"):
        run("report", write(tmp_path / "new.jsonl", [row("speed", speed_body()) | {"amalia_format": 99}]))


def test_compare_sets_two_levels_of_one_file_against_each_other(file: Path) -> None:
    told = run("compare", f"{file}:Q4_K_M", f"{file}:Q8_0").stdout.splitlines()
    assert any(line.split()[:2] == ["mean", "KLD"] and line.endswith("B") for line in told)
    assert told[-1].startswith("A is better at speed tg128") and told[-1].endswith(".")
    assert max(map(len, told[:-1])) <= 80


def test_compare_gives_json(file: Path) -> None:
    told = json.loads(run("compare", f"{file}:Q4_K_M", f"{file}:Q8_0", "--json").stdout)
    assert {one["verdict"] for one in told["result"]["differences"]} == {"A is better", "B is better"}


def test_compare_refuses_another_text(file: Path, tmp_path: Path) -> None:
    a, b = (write(tmp_path / f"{at}.jsonl", [row("quality", quality_body(text_sha256=str(at) * 64))]) for at in (1, 2))
    with pytest.raises(NotComparable, match="other text"):
        run("compare", a, b)


def test_compare_names_the_levels_that_are_there(file: Path) -> None:
    with pytest.raises(BenchError, match="no level or machine 'Q2_K'; it holds Q4_K_M, Q8_0"):
        run("compare", f"{file}:Q2_K", file)


def test_compare_refuses_one_side_twice(file: Path) -> None:
    with pytest.raises(NotComparable, match="the same on both sides"):
        run("compare", file, file)


def test_advise_ends_in_a_sentence_with_its_figures(file: Path) -> None:
    told = run("advise", "--records", file, "-c", "512").stdout.splitlines()
    assert told[-1].startswith("Take Q8_0: it loses 0.00100 nats") and told[-1].endswith("starts it.")


def test_advise_gives_json(file: Path) -> None:
    told = json.loads(run("advise", "--records", file, "--json").stdout)["result"]
    assert told["choice"]["level"] == "Q8_0" and len(told["candidates"]) == 2 and told["missing"]


def test_card_is_written_and_says_what_is_missing(file: Path, tmp_path: Path) -> None:
    told = run("card", "--records", file, "-o", tmp_path / "README.md", "--license", "apache-2.0").stdout
    assert told.endswith("is written: give --base-model, --repository to complete it.\n")
    assert 'license: "apache-2.0"' in (tmp_path / "README.md").read_text("utf-8")


def test_card_reads_licence_and_base_from_a_file(file: Path, tiny: Path) -> None:
    assert run("card", "--records", file, "--from", tiny).stdout.startswith("---\nlanguage:\n- pt\n")


def test_a_whole_run_goes_through_every_command(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    for one in everything()[:20]:
        records.append(whole, one)
    assert "## Quality" in run("report", whole, "--md").stdout
