"""Names of models → files: a path, a stored name, the Hub's cache, what other tools hold, or a source another room brings."""

import difflib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

from amalia_edge import hub
from amalia_edge.errors import ModelNotFound, UsageError
from amalia_edge.gguf_names import DEFAULT_LEVEL, ModelFiles, group, split_level
from amalia_edge.home import home
from amalia_edge.hub_cache import cached_models, is_locked, remove_cached
from amalia_edge.hub_name import HubName, parse_name
from amalia_edge.neighbours import neighbours
from amalia_edge.stored_model import StoredModel

DEFAULT_TAGS = (DEFAULT_LEVEL, "latest")  # the second is Ollama's


def data_folder() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or home() / ".local" / "share") / "amalia"


def models_folder() -> Path:
    """Give the folder of converted models; it need not exist yet."""
    return data_folder() / "models"


def find(name: str) -> Path:
    """Give the file a name stands for, without a connection: what is not on this machine is not found.

    An existing file first, then a source (`fadinho:Q8_0`), then the stored models: the whole name, a name that will do,
    a unique beginning. Of a model in several files it is the first.
    """
    if path := _path(name):
        return path
    stem, _, level = name.partition(":")
    for source in entry_points(group="amalia.sources"):
        if source.name == stem:
            return Path(source.load()(level.upper() or DEFAULT_LEVEL))
    model = find_model(name, models())
    if model.fault:
        raise ModelNotFound(model.name, model.fault, "amalia models lists what can be run")
    return model.files[0]


def models() -> list[StoredModel]:
    """List every model on this machine that can be run in place, and those that are there but broken."""
    return [*converted_models(), *cached_models(), *neighbours()]


def sources() -> list[str]:
    """Name the models that come with the product."""
    return sorted(source.name for source in entry_points(group="amalia.sources"))


def converted_models() -> list[StoredModel]:
    """List what `amalia convert` has written into the models folder, and what it has begun there."""
    folder = models_folder()
    names = {path.name for path in folder.glob("*")}
    begun = {name[1:].removesuffix(".partial") for name in names if name.startswith(".") and name.endswith(".partial")}
    return [
        *(_converted(files, "") for files in group(names)),
        *(_converted(files, "a conversion that was stopped, or goes on now") for files in group(begun - names)),
    ]


def _converted(files: ModelFiles, fault: str) -> StoredModel:
    base, level = split_level(files.name)
    paths = tuple(models_folder() / name for name in files.files)
    if not files.is_whole:
        fault = f"{len(paths)} of {files.count} parts are here"
    there = [path for one in paths for path in (one, _beside(one)[1]) if path.is_file()]
    return StoredModel((base,), level, level, "amalia", paths, sum(path.stat().st_size for path in there), fault)


def name_on_hub(name: str) -> HubName | None:
    """Understand a name as one on the Hub, unless it is another tool's, or begins with a folder here: a misspelt path."""
    first, wish = name.partition("/")[0], parse_name(name)
    is_plain = wish is not None and name.startswith(wish.repository)
    return None if is_plain and (first in ("ollama", "lmstudio") or Path(first).is_dir()) else wish


def find_model(name: str, stored: Sequence[StoredModel], *, whole: bool = False) -> StoredModel:
    """Find the one model a name means; else say which there are, or which may have been meant.

    With `whole`, for what can not be undone, no beginning will do, nor a default where there are several levels.
    """
    wish = name_on_hub(name)
    wanted = str(replace(wish, file=wish.file.rpartition("/")[2])) if wish else name
    found = _called(wanted, [model for model in stored if not model.fault], whole)
    found = found or [model for model in stored if model.fault and model.name.lower() == wanted.lower()]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(model.name for model in found[:12]) + ", …" * (len(found) > 12)
        raise UsageError(name, f"several models: {listed}", "give the whole name, with what stands behind its colon")
    raise _not_found(name, wish, stored)


def remove(model: StoredModel) -> int:
    """Remove a model that is ours or in the Hub's cache; give the bytes that this has freed."""
    if model.place == "ollama":
        raise UsageError(model.name, "belongs to Ollama", f"ollama rm {model.name.removeprefix('ollama/')}")
    if model.place == "lmstudio":
        raise UsageError(model.name, "belongs to LM Studio", "remove it there, in My Models")
    if model.place == "hub":
        return remove_cached(model)
    try:
        return sum(_remove_converted(path) for path in model.files)
    except OSError as problem:
        raise UsageError(model.name, problem.strerror or str(problem), f"check {models_folder()}") from None


def _path(name: str) -> Path | None:
    """Give the file where the name is a path; None where it is the name of a model."""
    try:
        path = Path(name).expanduser()
        if path.is_file() or (os.sep in name and path.is_dir() and not _models_in(path)):
            return path
        if path.is_dir() and (found := _models_in(path)):
            return _only(path, found)
    except (OSError, RuntimeError) as problem:  # a name too long, a folder that may not be entered, nobody's home
        raise ModelNotFound(name[:80], str(problem)[:120], "give a GGUF file, a stored name, or fadinho") from None
    if parse_name(name) or name.startswith(("ollama/", "lmstudio/")):
        return None
    if os.sep in name or name.lower().endswith(".gguf"):
        raise _no_file(path)
    return None


def _models_in(folder: Path) -> list[ModelFiles]:
    return group(path.name for path in folder.iterdir())


def _only(folder: Path, found: list[ModelFiles]) -> Path:
    """Give the one model of a folder, or its first part."""
    if len(found) > 1:
        listed = ", ".join(files.files[0] for files in found[:12])
        raise UsageError(str(folder), f"a folder of several models: {listed}", "give one of these files")
    return folder / found[0].files[0]


def _no_file(path: Path, otherwise: str = "") -> ModelNotFound:
    """Say that there is no such file, and what its folder holds that is called nearly so."""
    folder = next((folder for folder in path.parents if folder.is_dir()), Path())
    missing = path.relative_to(folder).parts[0]
    with suppress(OSError):
        if close := difflib.get_close_matches(missing, [entry.name for entry in folder.iterdir()], 1):
            return ModelNotFound(str(path), "no such file", f"did you mean {folder / close[0]}?{otherwise}")
    return ModelNotFound(str(path), "no such file", f"give a GGUF file, a stored name, or fadinho{otherwise}")


def _called(name: str, stored: Sequence[StoredModel], whole: bool) -> list[StoredModel]:
    """Find the models of a name: by the whole name, by any name that will do, by a beginning."""
    name = name.lower()
    for first_key_only in (True, False):
        keyed = [(model, model.keys[:1] if first_key_only else model.keys) for model in stored]
        if found := [model for model, keys in keyed if name in model.names_of(keys)]:
            return [model for model in found if name.endswith(model.tag.lower())] or found
        if found := [model for model, keys in keyed if name in map(str.lower, keys)]:
            return [model for model in found if model.tag in DEFAULT_TAGS and not whole] or found
    if whole:
        return []
    return [model for model in stored if any(known.startswith(name) for known in model.names_of(model.keys))]


def _not_found(name: str, wish: HubName | None, stored: Iterable[StoredModel]) -> ModelNotFound:
    known = {key.lower(): key for model in stored for key in (*model.keys, model.name)}
    known |= {source: source for source in sources()}
    close = [known[key] for key in difflib.get_close_matches(name.lower(), known, 3)]
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    if not wish and not meant and parse_name(name):  # it begins with a folder that is here
        return _no_file(Path(name), f"; or hf.co/{name}")
    if not wish:
        return ModelNotFound(name, "no such file, stored model or source", f"{meant}amalia models lists what is here")
    found = "no such file, and no such model in the Hub's cache"
    if hub.is_offline():
        found, advice = f"{found}; HF_HUB_OFFLINE is set", f"unset it, then amalia pull {wish}"
        return ModelNotFound(name, found, f"{meant}{advice}; amalia models lists what is here")
    return ModelNotFound(name, found, f"{meant}amalia pull {wish} brings it from the Hub")


def _remove_converted(path: Path) -> int:
    """Remove a converted file and what belongs to it, unless a conversion is at work on it."""
    receipt, partial, journal = _beside(path)
    if is_locked(journal):
        raise UsageError(path.name, "is being converted now", "wait for it to end")
    freed = 0
    for one in (path, receipt, partial, journal):
        if one.is_file():
            freed += one.stat().st_size
            one.unlink()
    return freed


def _beside(path: Path) -> tuple[Path, Path, Path]:
    """Name what a conversion keeps beside its file: the receipt; until it is done, its bytes and its journal."""
    hidden = path.with_name(f".{path.name}")
    return Path(f"{path}.receipt.json"), Path(f"{hidden}.partial"), Path(f"{hidden}.journal")
