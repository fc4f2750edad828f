"""The README's table, made of the records beside this file; written into the README, or held against it with --check.

.venv/bin/python kernels_bench/results/readme_table.py
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from amalia_bench import records
from amalia_bench.figures import bracketed, interval, number, rate
from amalia_edge.console import megabytes

HERE = Path(__file__).resolve().parent
README = HERE.parents[1] / "README.md"
BEGINS, ENDS = "<!-- make bench -->\n", "<!-- /make bench -->\n"
LEVELS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")
HEADINGS = (
    "level",
    "AMÁLIA-9B's shape: file",
    "reads, tokens/s",
    "writes, tokens/s",
    "EuroLLM-1.7B's shape: writes",
    "fadinho: KL divergence, Portuguese",
    "English",
)


def table() -> str:
    """Lay the records out, a level a line; what was not measured is a dash."""
    rows = [row for file in sorted(HERE.glob("*.jsonl")) for row in records.read(file)]
    lines = ["| " + " | ".join(HEADINGS) + " |", "| --- " + "| ---: " * (len(HEADINGS) - 1) + "|"]
    for level in LEVELS:
        cells = (level, *_cells(rows, level))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cells(rows: list[records.Row], level: str) -> Iterator[str]:
    large = [row for row in rows if _is_shape(row, "amalia-9b", level)]
    small = [row for row in rows if _is_shape(row, "eurollm-1.7b", level)]
    size = next((row["model"]["bytes"] for row in large), None)
    yield megabytes(size) if size else "–"
    yield _rate([row for row in large if row["n_prompt"]])
    yield _rate([row for row in large if row["n_gen"]])
    yield _rate([row for row in small if row["n_gen"]])
    for text in ("pt-PT", "en"):
        found = [row for row in rows if _is_loss(row, text, level)]
        yield bracketed(number(found[-1], "mean_kld"), interval(found[-1], "kld_ci95")) if found else "–"


def _is_loss(row: records.Row, text: str, level: str) -> bool:
    """Tell whether a row says what fadinho lost against its 16 bits."""
    return (
        row["kind"] == "quality"
        and row["against"] == "BF16"
        and row["model"]["name"] == "fadinho"
        and (row["text"], row["model"]["level"]) == (text, level)
    )


def _is_shape(row: records.Row, shape: str, level: str) -> bool:
    return row["kind"] == "shape" and not row.get("prediction") and (row["shape"], row["level"]) == (shape, level)


def _rate(found: list[records.Row]) -> str:
    return rate(found[-1]["engine_ts"], found[-1]["engine_stddev_ts"]) if found else "–"


def written(readme: str) -> str:
    """Give a README with the table as the records have it."""
    before, _, rest = readme.partition(BEGINS)
    return before + BEGINS + table() + ENDS + rest.partition(ENDS)[2]


def main() -> int:
    told = README.read_text("utf-8")
    if "--check" in sys.argv[1:]:
        return int(told != written(told))
    README.write_text(written(told), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
