"""What was measured, put together: sections of tables and pictures, as Markdown here and as a page in page.py."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amalia_bench import tables
from amalia_bench.choices import is_fadinho, is_synthetic, latest, model_of
from amalia_bench.pictures import most_measured
from amalia_bench.place import place
from amalia_bench.tables import Table

Row = Mapping[str, Any]
SECTIONS: tuple[tuple[str, str, str, Callable[[Sequence[Row]], list[Table]]], ...] = (
    ("choice", "Which level", "What each file costs in memory, loses in words, and gives in speed.", lambda rows: tables.choice_tables(rows, most_measured(rows))),
    ("quality", "Quality", "How far each level is from the full model, in Portuguese beside English.", tables.quality_tables),
    ("variety", "European Portuguese", "Whether quantization pulls the model towards Brazilian Portuguese.", tables.variety_tables),
    ("tasks", "Tasks", "Questions from files, answered by likelihood.", tables.task_tables),
    ("speed", "Speed", "How fast each file reads (pp) and writes (tg).", tables.speed_tables),
    ("shape", "Before the download", "What a model of this geometry will do on this device.", tables.shape_tables),
    ("kernels", "Kernels", "How near each type's kernels come to this machine's limits.", tables.kernel_tables),
    ("energy", "Energy", "What a token costs in joules, and how warm the machine grows.", tables.energy_tables),
    ("files", "Files", "Which files these figures belong to.", tables.files_table),
)  # fmt: skip
FADINHO = (
    "Fadinho is a model of 7.6 million parameters made to test this project. Its figures prove the method; they say "
    "nothing about AMÁLIA's quality."
)
SYNTHETIC = "Figures marked “random weights” are of files in a model's geometry without its training: they tell speed and memory, not quality."  # fmt: skip
PREDICTED = "Figures under “Predictions” were computed, not measured."


@dataclass(frozen=True)
class Section:
    name: str
    title: str
    lead: str
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Report:
    title: str
    notes: tuple[str, ...]
    sections: tuple[Section, ...]
    places: tuple[tuple[str, str], ...]  # machine and library; what is compiled in
    measured: str  # from when to when


def make_report(rows: Sequence[Row]) -> Report:
    """Put rows together, of what was measured twice the later; a section nothing was measured for is absent."""
    rows = latest(rows)
    found = [Section(name, title, lead, tuple(make(rows))) for name, title, lead, make in SECTIONS]
    models = dict.fromkeys(model_of(row) for row in rows if row["kind"] not in ("kernels", "bandwidth"))
    days = sorted(str(row["test_time"])[:10] for row in rows if row.get("test_time"))
    notes = [
        FADINHO if any(map(is_fadinho, rows)) else "",
        SYNTHETIC if any(map(is_synthetic, rows)) else "",
        PREDICTED if any(row.get("prediction") for row in rows) else "",
    ]
    return Report(
        title="Measured: " + (", ".join(models) or "this machine"),
        notes=tuple(filter(None, notes)),
        sections=tuple(section for section in found if section.tables),
        places=tuple((str(where), where.features) for where in dict.fromkeys(map(place, rows))),
        measured="" if not days else days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}",
    )


def markdown(report: Report) -> str:
    """Render a report for a README or a terminal; what stands in a record is text there too."""
    lines = [f"# {_text(report.title)}", ""]
    lines += [line for note in report.notes for line in (f"> {_text(note)}", "")]
    for section in report.sections:
        lines += [f"## {_text(section.title)}", "", _text(section.lead), ""]
        for table in section.tables:
            lines += [markdown_table(table, section.title), ""]
    lines += ["## Machines", "", *(f"- {_text(where)}" + f": {_text(features)}" * bool(features) for where, features in report.places)]  # fmt: skip
    return "\n".join([*lines, "", *[f"Measured {report.measured}."] * bool(report.measured)]).rstrip() + "\n"


def markdown_table(table: Table, above: str = "") -> str:
    heads = "| " + " | ".join(map(_text, table.headings)) + " |"
    rule = (
        "| " + " | ".join("---" if at == 0 or table.is_text(at) else "---:" for at in range(len(table.headings))) + " |"
    )
    lines = ["| " + " | ".join(map(_text, line)) + " |" for line in table.lines]
    below = " ".join(filter(None, (f"{table.place}." if table.place else "", table.note)))
    title = [] if table.title == above else [f"**{_text(table.title)}**", ""]
    return "\n".join([*title, heads, rule, *lines, *["", _text(below)] * bool(below)])


def _text(text: str) -> str:
    """Write text that Markdown takes for nothing else."""
    told = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\\", "\\\\")
    for letter in "|*_`[]#~!":
        told = told.replace(letter, f"\\{letter}" if letter in "|*`~" or (letter in "[]" and "](" in told) else letter)
    return told
