"""A sensor's file: one line of text, or a whole number, or nothing that can be used."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from amalia_edge.root_files import read

LONGEST = 80  # characters of a label


def line(place: Path) -> str:
    """Read the first line, without what could steer a terminal; empty where there is no such file."""
    first = read(place.parent, place.name).strip("\0 \n").partition("\n")[0][:LONGEST]
    return "".join(letter for letter in first if letter.isprintable())


def integer(place: Path) -> int | None:
    text = line(place)
    return int(text) if re.fullmatch(r"-?[0-9]{1,20}", text) else None


def found(root: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """Give what the patterns match below a root, once: the kernel shows one device under several names."""
    seen = set()
    for pattern in patterns:
        for place in sorted(root.glob(pattern)):
            if place.resolve() not in seen:
                seen.add(place.resolve())
                yield place
