"""What a person asked before, kept between sessions: one JSON text in each line, readable by its owner only."""

import contextlib
import json
import os
from pathlib import Path

from amalia_edge.home import in_home
from amalia_edge.whole_file import write_whole

KEPT = 1000  # lines
LONGEST = 20_000  # characters of one entry; a longer one was a document, not a question


def history_file() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or in_home("~/.local/state")) / "amalia" / "chat_history"


class History:
    """The file of past questions; a home that cannot be written loses them without a word."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> list[str]:
        """Give the last ones, the oldest first, and drop the rest from the file."""
        try:
            lines = self._path.read_text("utf-8", "replace").rstrip("\n").split("\n")  # a text may hold other line ends
        except OSError:
            return []
        if len(lines) > KEPT:
            with contextlib.suppress(OSError):
                write_whole(self._path, "".join(f"{line}\n" for line in lines[-KEPT:]).encode("utf-8", "replace"))
        return [entry for line in lines[-KEPT:] if (entry := _entry(line))]

    def add(self, text: str) -> None:
        """Append one at once: another session may be writing too, and this one may be killed."""
        if len(text) > LONGEST:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(self._path, "a", encoding="utf-8", opener=_private) as file:
                file.write(json.dumps(text, ensure_ascii=False) + "\n")
        except (OSError, UnicodeError):
            return


def _private(path: str, flags: int) -> int:
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)  # it may have been there, made with another mode
    return descriptor


def _entry(line: str) -> str:
    """Give a line's entry; none for what is damaged, or no text that a terminal's line can hold."""
    try:
        entry = json.loads(line)
        return entry if isinstance(entry, str) and entry.encode() and "\0" not in entry else ""
    except (ValueError, RecursionError):
        return ""
