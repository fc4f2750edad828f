"""config.json's numbers: each one there, of the right kind and within bounds, or an error that names its key."""

from dataclasses import dataclass

from amalia_convert.checkpoint import Checkpoint, Json
from amalia_edge.errors import CheckpointIncomplete, ModelUnsupported

MOST = 2**31 - 1  # what libllama keeps in 32 bits with a sign
LEAST_REAL, MOST_REAL = 1e-20, 1e20  # what f32 holds with all its digits, products of a few too


@dataclass(frozen=True)
class Configuration:
    """An object of config.json, and where it stands."""

    where: str
    entries: Json

    def whole(self, key: str, default: int | None = None, most: int = MOST) -> int:
        value = self._find(key, default)
        if type(value) is not int or not 0 < value <= most:
            raise ModelUnsupported(self.where, f"{key} is {str(value)[:40]}", f"wanted a whole number from 1 to {most}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self._find(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not LEAST_REAL < value < MOST_REAL:
            raise ModelUnsupported(self.where, f"{key} is {str(value)[:40]}", "wanted a positive number")
        return float(value)

    def has(self, key: str) -> bool:
        return self.entries.get(key) is not None

    def part(self, key: str) -> "Configuration":
        """Give the object under a key; an absent one is empty."""
        value = {} if self.entries.get(key) is None else self.entries[key]
        if not isinstance(value, dict):
            raise ModelUnsupported(self.where, f"{key} is not an object", "download the file again")
        return Configuration(f"{self.where}: {key}", value)

    def _find(self, key: str, default: object) -> object:
        value = self.entries.get(key)
        if value is None and default is None:
            raise CheckpointIncomplete(self.where, f"has no {key}", "download the file again")
        return default if value is None else value


def configuration(checkpoint: Checkpoint) -> Configuration:
    return Configuration(str(checkpoint.folder / "config.json"), checkpoint.config)
