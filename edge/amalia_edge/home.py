"""The person's home, where there is one: a container that is run as a number may have none."""

from pathlib import Path

from amalia_edge.errors import UsageError


def home() -> Path:
    return in_home("~")


def in_home(path: str) -> Path:
    """Give a path with what `~` stands for in its place."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError("HOME", f"not set, and {path} is in a home", "set it, or give a whole path") from None
