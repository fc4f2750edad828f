"""What of a long measurement is known already, kept line by line until the whole of it is a record.

Notes are a convenience: where none can be kept, the measurement goes on without, and half a line is no note.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any


class Notes:
    """Values by name, which a run that was stopped finds again; none are kept without a path."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._values: dict[str, Any] = {}
        with suppress(OSError):
            for line in path.read_bytes().split(b"\n") if path else []:
                with suppress(ValueError):
                    name, self._values[name] = json.loads(line)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = value
        if self._path is not None:
            with suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([name, value], ensure_ascii=False) + "\n")

    def forget(self) -> None:
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink()
