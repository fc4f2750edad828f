"""Where an answer appears: wrapped at words and made safe on a terminal, as it is in a pipe."""

import os
import re
import shutil
import sys

from rich.cells import cell_len
from rich.text import Text

from amalia_edge.console import err

WIDEST = 80  # columns: longer lines are tiring to read, however wide the terminal
# What could steer a terminal, or turn a line around: control characters but newline and tab, and bidirectional overrides.
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
INDENT = re.compile(r"\s*(?:[-*•+]|\d{1,3}[.)])?\s*")
FENCE = "```"
DIM, PLAIN = "\x1b[2m", "\x1b[22m"


def harmless(text: str) -> str:
    """Take out of a text what would steer a terminal; newlines and tabs stay."""
    return STEERING.sub("\ufffd", text.replace("\r", ""))


class Wrap:
    """Break a text that comes in pieces into lines, between words only.

    A word waits until it is whole. The text's own newlines stay, a list's lines go on below its first word, and between
    fences nothing is broken, for it is code.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._word, self._gap = "", ""  # what waits, and the white space before it
        self._line = ""  # what the terminal's line holds
        self._indent: str | None = None  # of the lines that go on the text's own line; None until there is one
        self._begins, self._code = True, False
        self._fence = False  # whether the line began with one

    def push(self, text: str) -> str:
        """Give what can be shown so far."""
        shown = ""
        for part in re.findall(r"\n|[ \t]+|[^ \t\n]+", text):
            if part == "\n":
                shown += self.finish() + "\n"
                self._line, self._gap, self._indent, self._begins = "", "", None, True
            elif part[0] in " \t":
                shown += self.finish()
                self._gap += part.replace("\t", "    ")
            else:
                self._word += part
                if len(self._word) > self._width:  # no line can hold it: no use in waiting
                    shown += self.finish()
        return shown

    def finish(self) -> str:
        """Give the word that waits, on a new line if it has no room on this one."""
        if not self._word:
            return ""
        if self._begins:
            self._fence = self._word.startswith(FENCE)
            self._code ^= self._fence
        if self._fence and "`" in (self._word.lstrip("`") if self._begins else self._word):
            self._code = False  # code within the line
        whole = self._gap + self._word
        if self._gap and self._line.strip() and not self._code and cell_len(self._line + whole) > self._width:
            whole = self._go_on() + self._word
        self._line += whole.removeprefix("\n")
        self._word, self._gap, self._begins = "", "", False
        return whole

    def _go_on(self) -> str:
        """Give the break before a word that has no room."""
        if self._indent is None:
            found = INDENT.match(self._line)
            self._indent = " " * min(cell_len(found[0]) if found else 0, self._width // 2)
        self._line = ""
        return "\n" + self._indent


class Screen:
    """Standard output, as a person or a program wants an answer there."""

    def __init__(self, *, quiet: bool = False, reasoning: bool = True) -> None:
        self._quiet = quiet or sys.stdout is None  # a shell may close it
        self._reasoning = reasoning
        self._terminal = not self._quiet and sys.stdout.isatty()
        self._dims = self._terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self.begin()

    def begin(self) -> None:
        """Make ready for an answer; the terminal may have been resized."""
        self._wrap, self._thinks = _wrap(), False

    def say(self, text: str, *, reasoning: bool = False) -> None:
        """Show a piece of an answer, or of the reasoning before it: dim, and only to a person."""
        if self._quiet or not text or (reasoning and not (self._reasoning and self._terminal)):
            return
        if not self._terminal:
            self._write(text)
            return
        if reasoning != self._thinks:
            self._part(reasoning)
        self._write(self._wrap.push(harmless(text)))

    def end(self) -> None:
        """End an answer, whole or interrupted, with its line."""
        if not self._quiet:
            self._write(self._wrap.finish())
            self._thinks = False
            self._write("\n")

    def note(self, text: str) -> None:
        """Tell the person something that is no answer."""
        if sys.stderr.isatty():
            wrap = _wrap()
            text = wrap.push(harmless(text)) + wrap.finish()
        err.print(Text(text), style="dim")

    def _part(self, reasoning: bool) -> None:
        """Put an empty line between the reasoning and the answer."""
        shown = self._wrap.finish()
        self._write(shown + "\n\n" if self._thinks else shown)
        self._thinks = reasoning
        self._wrap = _wrap()

    def _write(self, text: str) -> None:
        if not text:
            return
        sys.stdout.write(f"{DIM}{text}{PLAIN}" if self._thinks and self._dims else text)
        sys.stdout.flush()


def _wrap() -> Wrap:
    return Wrap(min(shutil.get_terminal_size().columns or WIDEST, WIDEST))  # Python 3.10 passes on a terminal's 0
