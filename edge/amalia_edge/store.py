"""Names of models → files: a path, a stored name, or a source another room brings (the embedded one)."""

import os
from importlib.metadata import entry_points
from pathlib import Path

from amalia_edge.errors import ModelNotFound, UsageError

DEFAULT_LEVEL = "Q4_K_M"


def data_folder() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "amalia"


def models_folder() -> Path:
    """Give the folder of converted and fetched models; it need not exist yet."""
    return data_folder() / "models"


def find(name: str) -> Path:
    """Give the file a name stands for: an existing file first, then a source (`fadinho:Q8_0`), then a stored name."""
    try:
        path = Path(name).expanduser()
        if path.is_file() or name.endswith(".gguf") or os.sep in name:
            return path
    except (OSError, RuntimeError) as problem:  # a name too long, a folder that may not be entered, nobody's home
        raise ModelNotFound(name[:80], str(problem)[:120], "give a GGUF file, a stored name, or fadinho") from None
    stem, _, level = name.partition(":")
    for source in entry_points(group="amalia.sources"):
        if source.name == stem:
            return Path(source.load()(level.upper() or DEFAULT_LEVEL))
    return _stored(stem, level)


def _stored(stem: str, level: str) -> Path:
    candidates = sorted(path for path in models_folder().glob("*.gguf") if not path.name.endswith(".imatrix.gguf"))
    exact = f"{stem}-{level or DEFAULT_LEVEL}".lower()
    beginning = (f"{stem}-{level}" if level else stem).lower()
    found = [path for path in candidates if path.stem.lower() == exact]
    found = found or [path for path in candidates if path.stem.lower().startswith(beginning)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            stem, "several models: " + ", ".join(path.stem for path in found), "add the level, as in NAME:Q8_0"
        )
    raise ModelNotFound(stem, "no such file, stored model or source", "give a GGUF file, or: amalia convert SOURCE")
