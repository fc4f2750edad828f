"""GGUFs that Ollama and LM Studio hold on this machine: read where they lie, and never written to.

Ollama    MODELS/manifests/HOST/NAMESPACE/MODEL/TAG  JSON, whose layer of weights is  MODELS/blobs/sha256-…
LM Studio MODELS/PUBLISHER/REPOSITORY/FILE.gguf

A manifest may have come from anywhere: its size is bounded, a digest is a digest and never a path, and what it leads to
lies in the same folder of models. LM Studio's links are those a person made with `lms import --symbolic-link`.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from amalia_edge.errors import UsageError
from amalia_edge.gguf_names import ModelFiles, group, level_of
from amalia_edge.home import home, in_home
from amalia_edge.stored_model import StoredModel

LARGEST_MANIFEST = 1 << 20
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_WEIGHTS = "application/vnd.ollama.image.model"
_ADAPTER = "application/vnd.ollama.image.adapter"


def neighbours() -> list[StoredModel]:
    """List what other tools hold, one of each name; without a home, what lies elsewhere."""
    found: dict[str, StoredModel] = {}
    for models in (_ollama(), _lmstudio()):
        with suppress(UsageError):
            for model in models:
                found.setdefault(model.name, model)
    return list(found.values())


def ollama_folders() -> list[Path]:
    """Give the folders Ollama keeps models in: a person's own, and the one of its service on Linux."""
    if told := os.environ.get("OLLAMA_MODELS"):
        return [in_home(told)]
    return [home() / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models")]


def lmstudio_folders() -> list[Path]:
    """Give the folders LM Studio keeps models in: where its settings say, and where it does by itself."""
    own = home() / ".lmstudio"
    told = _read_json(own / "settings.json").get("downloadsFolder")
    chosen = [Path(told)] if isinstance(told, str) and told and Path(told).is_absolute() else []
    return [*chosen, own / "models", home() / ".cache" / "lm-studio" / "models"]


def _ollama() -> Iterator[StoredModel]:
    for root in ollama_folders():
        for manifest in _walk(root / "manifests", depth=4):
            host, space, model, tag = manifest.relative_to(root / "manifests").parts
            shown = [part for part in (host, space) if part not in ("registry.ollama.ai", "ollama.com", "library")]
            yield _ollama_model(root, manifest, "/".join(("ollama", *shown, model)), tag)


def _ollama_model(root: Path, manifest: Path, key: str, tag: str) -> StoredModel:
    try:
        layers = _layers(_read_json(_inside(root, manifest), strict=True))
        weights = [layer["digest"] for layer in layers if layer["mediaType"] == _WEIGHTS]
        if len(weights) != 1:
            raise ValueError("it has no weights here" if not weights else "its weights are in several files")
        if any(layer["mediaType"] == _ADAPTER for layer in layers):
            raise ValueError("it is another model with an adapter, which only Ollama applies")
        blob = _blob(root, weights[0])
        level = _ollama_level(root, layers[0]["digest"]) or level_of(tag)
        return StoredModel((key,), tag, level, "ollama", (blob,), blob.stat().st_size)
    except (OSError, ValueError, RuntimeError) as problem:  # the last is a link that leads to itself
        return StoredModel((key,), tag, level_of(tag), "ollama", fault=_reason(problem))


def _layers(manifest: dict[str, Any]) -> list[dict[str, str]]:
    """Take the layers out of a manifest, its configuration first."""
    layers = manifest.get("layers")
    found = [manifest.get("config"), *(layers if isinstance(layers, list) else [])]
    if not all(isinstance(layer, dict) for layer in found):
        raise ValueError("its manifest is none")
    return [{name: str(layer.get(name)) for name in ("digest", "mediaType")} for layer in found]


def _ollama_level(root: Path, digest: str) -> str:
    try:
        level = _read_json(_blob(root, digest)).get("file_type")
    except (OSError, ValueError, RuntimeError):
        return ""
    return level.upper()[:16] if isinstance(level, str) else ""


def _blob(root: Path, digest: str) -> Path:
    """Give the file of a digest; anything else that stands in its place is no path to follow."""
    found = _DIGEST.fullmatch(digest)
    if not found:
        raise ValueError("its manifest names no digest")
    return _inside(root, root / "blobs" / f"sha256-{found[1]}")


def _lmstudio() -> Iterator[StoredModel]:
    for root in lmstudio_folders():
        paths = {path.relative_to(root).as_posix(): path for path in _walk(root, depth=3) if path.suffix == ".gguf"}
        for files in group(paths):
            yield _lmstudio_model(root, files)


def _lmstudio_model(root: Path, files: ModelFiles) -> StoredModel:
    keys = (f"lmstudio/{files.name}",)
    try:
        if not files.is_whole:
            raise ValueError(f"{len(files.files)} of {files.count} parts are here")
        paths = tuple(root / name for name in files.files)
        return StoredModel(keys, "", files.level, "lmstudio", paths, sum(path.stat().st_size for path in paths))
    except (OSError, ValueError) as problem:
        return StoredModel(keys, "", files.level, "lmstudio", fault=_reason(problem))


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """List what lies exactly that many folders deep, by name; a folder that may not be entered is empty."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except (OSError, ValueError):
        return
    for entry in entries:
        if depth == 1:
            yield entry
        else:
            yield from _walk(entry, depth - 1)


def _inside(root: Path, path: Path) -> Path:
    """Give the path if what it leads to is a file under this root."""
    real = path.resolve(strict=True)
    if not real.is_relative_to(root.resolve()):
        raise ValueError(f"{path.name} leads out of {root}")
    if not real.is_file():
        raise ValueError(f"{path.name} is not a file")
    return path


def _read_json(path: Path, *, strict: bool = False) -> dict[str, Any]:
    """Read a small JSON object; what is none is empty, or an error where that matters."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_MANIFEST + 1)
        table = json.loads(content) if len(content) <= LARGEST_MANIFEST else None
        if isinstance(table, dict):
            return table
    except (OSError, ValueError, RecursionError):
        if strict:
            raise ValueError("its manifest can not be read") from None
    if strict:
        raise ValueError("its manifest is none")
    return {}


def _reason(problem: Exception) -> str:
    return (problem.strerror if isinstance(problem, OSError) else None) or str(problem)
