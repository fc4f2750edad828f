"""A model on this machine: what it is called, where it lies, and whose it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Place = Literal["amalia", "hub", "ollama", "lmstudio"]


@dataclass(frozen=True)
class StoredModel:
    """A model that can be named; with a fault, one that can not be run and why."""

    keys: tuple[str, ...]  # what it is called: its whole name first, then others that will do
    tag: str  # what is written behind the colon: a level, a file, another tool's tag
    level: str
    place: Place
    files: tuple[Path, ...] = ()  # in order, where there are parts
    nbytes: int = 0
    fault: str = ""

    @property
    def name(self) -> str:
        return f"{self.keys[0]}:{self.tag}" if self.tag else self.keys[0]

    def names_of(self, keys: tuple[str, ...]) -> set[str]:
        """List what may be typed for it, in lower case: the tag as people write it, as file names have it, or the file."""
        tags = {self.tag, self.tag.removeprefix("UD-"), *(path.name for path in self.files[:1])} if self.tag else set()
        written = {f"{key}:{tag}" for key in keys for tag in tags} | {f"{key}-{self.tag}" for key in keys if self.tag}
        return {name.lower() for name in written or keys}

    def as_dict(self) -> dict[str, object]:
        told = {"name": self.name, "level": self.level, "nbytes": self.nbytes, "place": self.place}
        return {**told, "files": [str(path) for path in self.files], "fault": self.fault}
