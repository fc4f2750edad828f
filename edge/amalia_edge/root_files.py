"""Files below a root: `/` on this machine, a folder for a recorded one. One that is not there is empty."""

import re
from pathlib import Path

LIMIT = 1 << 20  # bytes read of any one of them


def read(root: Path, name: str) -> str:
    try:
        with (root / name).open("rb") as file:
            return file.read(LIMIT).decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def pairs(text: str) -> dict[str, str]:
    """Read lines of `key: value`; of a key that repeats, as in cpuinfo, the first."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    return found


def first_number(text: str) -> int:
    found = re.search(r"\d+", text)
    return int(found.group()) if found else 0
