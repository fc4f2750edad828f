"""A report as one page that needs nothing beside it: no network, no script; on a phone, in print, in the dark."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from amalia_bench.plots import DARK, DARK_TEXT, LIGHT, LIGHT_TEXT, NARROW, Picture, colours
from amalia_bench.report import Report, Section
from amalia_bench.tables import Table
from amalia_edge import __version__

TEMPLATE = Path(__file__).with_name("page.html")
LONG = 26  # letters from which on a cell is folded on a phone
MANY = 6  # columns, above which intervals stand below their values


def render(report: Report, pictures: Sequence[Picture]) -> str:
    """Write the page; whatever stood in a record is text in it."""
    return Template(TEMPLATE.read_text("utf-8")).substitute(
        title=escape(report.title),
        light=colours(LIGHT, LIGHT_TEXT),
        dark=colours(DARK, DARK_TEXT),
        header=_header(report),
        main="\n".join(_section(section, pictures) for section in report.sections),
        footer=_footer(report),
    )


def _header(report: Report) -> str:
    links = "".join(f'<li><a href="#{section.name}">{escape(section.title)}</a></li>' for section in report.sections)
    notes = "".join(f'<p class="note">{escape(note)}</p>\n' for note in report.notes)
    when = f'<p class="lead">Measured {escape(report.measured)}.</p>\n' if report.measured else ""
    return f'<h1>{escape(report.title)}</h1>\n{when}{notes}<nav aria-label="Sections"><ul>{links}</ul></nav>'


def _footer(report: Report) -> str:
    places = "".join(f"<li>{escape(where)}{escape(f': {features}' if features else '')}</li>" for where, features in report.places)  # fmt: skip
    return f"<p>Machines and libraries</p>\n<ul>{places}</ul>\n<p>Written by amalia bench report {escape(__version__)}.</p>"


def _section(section: Section, pictures: Sequence[Picture]) -> str:
    drawn = [_figure(picture) for picture in pictures if picture.section == section.name]
    laid = [_table(table, f"{section.name}-{at}", section.title) for at, table in enumerate(section.tables)]
    parts = [f'<p class="lead">{escape(section.lead)}</p>', *drawn, *laid]
    heading = f'<h2 id="{section.name}">{escape(section.title)}</h2>'
    return f'<section aria-labelledby="{section.name}">\n{heading}\n' + "\n".join(parts) + "\n</section>"


def _figure(picture: Picture) -> str:
    wide = picture.svg().replace("<svg ", '<svg class="wide" ', 1)
    narrow = picture.svg(NARROW).replace("<svg ", '<svg class="narrow" ', 1)
    return (
        f"<figure>\n<h3>{escape(picture.title)}</h3>\n{wide}\n{narrow}\n"
        f"<figcaption>{escape(picture.caption)}</figcaption>\n</figure>"
    )


def _table(table: Table, name: str, above: str) -> str:
    """Write a table within a box of its own, which scrolls where the table is wider."""
    of_text = [table.is_text(at) for at in range(len(table.headings))]
    heads = "".join(
        f'<th scope="col"{_class(at, of_text)}>{escape(heading)}</th>' for at, heading in enumerate(table.headings)
    )
    lines = "".join(f"<tr>{''.join(_cell(cell, at, of_text) for at, cell in enumerate(line))}</tr>\n" for line in table.lines)  # fmt: skip
    title = "" if table.title == above else f'<h3 id="{name}">{escape(table.title)}</h3>\n'
    told = f'aria-labelledby="{name}"' if title else f'aria-label="{escape(table.title)}"'
    many = ' class="many"' if len(table.headings) > MANY else ""
    below = " ".join(filter(None, (f"{table.place}." if table.place else "", table.note)))
    return (
        f'{title}<div class="box" role="region" tabindex="0" {told}>\n<table{many}>\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{lines}</tbody>\n</table>\n</div>" + (f'\n<p class="place">{escape(below)}</p>' if below else "")
    )


def _class(at: int, of_text: Sequence[bool], *more: str) -> str:
    names = [*(["text"] if at and of_text[at] else []), *more]
    return f' class="{" ".join(names)}"' if names else ""


def _cell(cell: str, at: int, of_text: Sequence[bool]) -> str:
    if at == 0:
        return f'<th scope="row">{escape(cell)}</th>'
    if re.fullmatch(r"[0-9a-f]{64}", cell):
        return f'<td class="hash">{cell}</td>'
    value, bracket, between = cell.partition(" [")
    if bracket and between.endswith("]"):
        return f"<td{_class(at, of_text, 'long')}>{escape(value)} <small>[{escape(between)}</small></td>"
    return f"<td{_class(at, of_text, *['long'] * (len(cell) > LONG))}>{escape(cell)}</td>"
