"""The runs on record: readable, of this project's own machines, and what the README says."""

import runpy
from pathlib import Path

import pytest

from amalia_bench import records

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "kernels_bench" / "results"
FILES = sorted(RESULTS.glob("*.jsonl"))
ORDER = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_line_is_a_record_and_names_no_folder(path: Path) -> None:
    assert records.read(path)
    assert not [line for line in path.read_text("utf-8").splitlines() if '"/' in line]


def test_the_readme_has_the_records_table() -> None:
    script = runpy.run_path(str(RESULTS / "readme_table.py"))
    told = (ROOT / "README.md").read_text("utf-8")
    assert script["written"](told) == told


@pytest.mark.parametrize("text", ["pt-PT", "en"])
def test_fewer_bits_lose_more(text: str) -> None:
    rows = [row for path in FILES for row in records.read(path) if row["kind"] == "quality" and row["text"] == text]
    lost = {row["model"]["level"]: row["mean_kld"] for row in rows}
    assert sorted(ORDER, key=lost.__getitem__) == list(ORDER)


def test_the_embedded_models_figures_say_what_they_are() -> None:
    page = (RESULTS / "report.html").read_text("utf-8")
    assert "fadinho" in page
    assert "says nothing about" in page or "say nothing about" in page
