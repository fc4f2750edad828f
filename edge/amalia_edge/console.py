"""What a person or a machine sees: results on standard output, everything else on standard error."""

import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from amalia_edge.errors import AmaliaError, DoesNotFit

SCHEMA = 1  # of every JSON object we print

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def emit(command: str, result: Any) -> None:
    """Print a command's result for a machine."""
    _print({"schema": SCHEMA, "command": command, "result": result})


def emit_failure(command: str, error: AmaliaError, result: Any = None) -> None:
    """Print an error for a machine, and what had come before it."""
    what: dict[str, Any] = {"code": error.code, "where": error.where, "found": error.found, "advice": error.advice}
    if isinstance(error, DoesNotFit) and error.shortage is not None:
        what |= dataclasses.asdict(error.shortage)
    told = {} if result is None else {"result": result}
    _print({"schema": SCHEMA, "command": command, **told, "error": what})


def _print(content: Any) -> None:
    text = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace").decode()  # a path may be no text
    print(re.sub("[^ -~]", _spelt, text), flush=True)


def _spelt(found: re.Match[str]) -> str:
    """Spell a character that could steer a terminal, as JSON does."""
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1].replace("\x7f", "\\u007f")


class Bar:
    """A count that a person may be watching."""

    def __init__(self, progress: Progress | None, task: Any = None) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: float) -> None:
        if self._progress is not None:
            self._progress.advance(self._task, amount)


@contextmanager
def progress(description: str, total: float, *, in_bytes: bool = True) -> Iterator[Bar]:
    """Show a bar on standard error while the block runs; nothing when nobody watches."""
    if not sys.stderr.isatty():
        yield Bar(None)
        return
    columns = [DownloadColumn(binary_units=False), TransferSpeedColumn()] if in_bytes else []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn(), console=err, transient=True
    ) as bars:
        yield Bar(bars, bars.add_task(description, total=total))


def megabytes(nbytes: float) -> str:
    """Give a size as people say it: 15.2 MB, 5.58 GB."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def plain(text: str) -> str:
    """Replace what is no printable letter, so that nothing in a file steers a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def as_text(values: Mapping[str, Any]) -> str:
    """Lay out names and values in two columns, 80 wide."""
    width = max(map(len, values), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in values.items())
