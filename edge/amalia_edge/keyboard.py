"""What is asked: lines of a pipe, or what a person types and pastes at a prompt.

A message is one line; a pasted text of many lines; lines that end in a backslash, at a prompt; or a block between two
`\"\"\"`, which begins with a newline so that it is never taken for a command.
"""

import contextlib
import sys
from collections.abc import Callable

from amalia_edge.errors import UsageError
from amalia_edge.history import History

PROMPT, MORE = "> ", "... "
QUOTES = '"""'

Read = Callable[[str], str]  # takes what to show, gives a line without its end; EOFError at the end of input


def read_message(read: Read, *, joins: bool) -> str:
    """Read one message; `joins` tells whether a backslash at a line's end goes on."""
    line = read(PROMPT)
    if line.lstrip().startswith(QUOTES):
        return _block(line.lstrip().removeprefix(QUOTES), read)
    while joins and line.endswith("\\"):
        line = line[:-1] + "\n" + read(MORE)
    return line.strip()


def _block(text: str, read: Read) -> str:
    lines = [text]
    while QUOTES not in lines[-1]:
        try:
            lines.append(read(MORE))
        except EOFError:
            lines[-1] += QUOTES
    inside, _, after = "\n".join(lines).partition(QUOTES)
    return "\n" + inside + after


class Pipe:
    """Standard input as a script writes it."""

    def ask(self) -> str | None:
        """Give the next message; None at the end."""
        with contextlib.suppress(EOFError):
            return read_message(self._read, joins=False)
        return None

    def _read(self, _shown: str) -> str:
        raw = sys.stdin.buffer.readline() if sys.stdin is not None else b""
        if not raw:
            raise EOFError
        return decode(raw).rstrip("\r\n")


class Keyboard:
    """A person at a terminal: arrow keys, the questions of past sessions, texts pasted whole."""

    def __init__(self, history: History | None = None) -> None:
        self._history = history
        self._shown = PROMPT
        try:
            import readline
        except ImportError:  # a Python without it: lines without arrow keys
            self._readline = None
            return
        self._readline = readline
        readline.parse_and_bind("set enable-bracketed-paste on")  # Python turns it off
        readline.set_auto_history(False)  # whole messages are added, not each of their lines
        for entry in history.load() if history else []:
            readline.add_history(entry)

    def ask(self) -> str | None:
        """Give the next message; None when the person leaves. Ctrl-C clears what was typed, or leaves if nothing was."""
        while True:
            try:
                words = read_message(self._read, joins=True)
            except EOFError:
                print(file=sys.stderr)
                return None
            except KeyboardInterrupt:
                print(file=sys.stderr)
                if not self._began():
                    raise
                continue
            except UnicodeDecodeError:
                print("that was not UTF-8: set the terminal's encoding", file=sys.stderr)
                continue
            if words.strip():
                self._remember(words.strip())
                return words

    def _read(self, shown: str) -> str:
        self._shown = shown
        if sys.stdout.isatty():
            return _whole(input(shown))
        print(shown, end="", file=sys.stderr, flush=True)  # what goes to standard output is a result
        return _whole(input())

    def _began(self) -> bool:
        typed = self._readline.get_line_buffer() if self._readline else ""
        return bool(typed) or self._shown == MORE

    def _remember(self, words: str) -> None:
        if self._readline:
            self._readline.add_history(words)
        if self._history:
            self._history.add(words)


def _whole(text: str) -> str:
    """Replace what stands for bytes that are no text, as Python reads them where no locale is set."""
    return text.encode("utf-8", "replace").decode()


def decode(raw: bytes) -> str:
    """Decode what is piped in; an editor's byte order mark is no part of it."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        found = f"byte {problem.start} is not UTF-8"
        raise UsageError("standard input", found, "convert it: iconv -f latin1 -t utf-8") from None
