"""Where a checkpoint comes from: a folder, a 16-bit GGUF, the Hub, a configuration alone, or the product itself."""

import os
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from amalia_convert.chat_template import find_templates
from amalia_convert.checkpoint import INDEX, TEXT_LIMIT, File, LocalFile, Shard, Stream, check_links
from amalia_convert.writer import existing_folder, hash_file
from amalia_edge import console
from amalia_edge.errors import HubError, ModelNotFound, UsageError

if TYPE_CHECKING:
    from amalia_edge.hub import HubFile, Repository

EMBEDDED = "fadinho"
LONGEST_NAME = 180  # letters of a file's name, before its level
# What a conversion reads beside the weights and the chat templates.
TEXTS = ("config.json", "generation_config.json", "tokenizer.model", "tokenizer.json", "tokenizer_config.json",
         "added_tokens.json", "README.md", INDEX)  # fmt: skip
_HUB_NAME = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_HUB_CACHE = re.compile(r"models--(?P<user>[\w.-]+?)--(?P<name>[\w.-]+)")

Kind = Literal["folder", "gguf", "config"]


@dataclass(frozen=True)
class Source:
    """A checkpoint's place, the name its files get, and the Hub repository it is from, where that is known."""

    name: str
    path: Path  # the folder; the GGUF, or the config.json, where it is only that
    kind: Kind = "folder"
    repository: str | None = None
    commit: str | None = None
    hub: "Repository | None" = None  # whose weights may still be there and not here
    embedded: bool = False

    @property
    def folder(self) -> Path:
        return self.path if self.kind == "folder" else self.path.parent

    @property
    def files(self) -> dict[str, File] | None:
        """Give the Hub's weights by name, wherever they lie now; None where the folder is all there is."""
        return None if self.hub is None else {name: hub_file(self.hub, name) for name in self.hub.files}

    def file_name(self, level: str) -> str:
        """Name a file by GGUF's convention, in ASCII: `AMALIA-9B-0626-DPO-Q4_K_M.gguf`."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name)[:LONGEST_NAME].strip("-.") or "model"
        return f"{plain}-{level}.gguf"


@dataclass(frozen=True)
class CachedFile(LocalFile):
    """A file of weights in the Hub's cache, where its hash is known."""

    repository: "Repository | None" = None

    @property
    def stamp(self) -> str:
        assert self.repository is not None
        return _pinned(self.repository, self.path.name)

    def reject(self) -> str:
        from amalia_edge import hub

        assert self.repository is not None
        hub.discard(self.repository, self.path.name)
        return "it was removed from the Hub's cache: run the command again to fetch it anew"


@dataclass(frozen=True)
class RemoteFile:
    """A file of weights on the Hub, read where it lies."""

    repository: "Repository"
    file: "HubFile"

    @property
    def path(self) -> Path:
        return Path(self.repository.name) / self.file.name

    @property
    def nbytes(self) -> int:
        return self.file.nbytes

    @property
    def sha256(self) -> str | None:
        return self.file.sha256

    @property
    def stamp(self) -> str:
        return _pinned(self.repository, self.file.name)

    def open(self) -> Stream:
        from amalia_edge.hub_stream import RemoteStream

        return RemoteStream(self.repository, self.file)

    def read(self, offset: int, nbytes: int) -> bytes:
        from amalia_edge.hub_stream import read_range

        return read_range(self.repository, self.file, offset, nbytes)

    def reject(self) -> str:
        return "it changed on its way here: run the command again"


def find_source(wanted: str) -> Source:
    """Find a checkpoint by what a person typed: `fadinho`, a folder, a GGUF, a config.json, or a name on the Hub."""
    if wanted == EMBEDDED:
        return Source(EMBEDDED, embedded_folder(), embedded=True)
    try:
        return _find(wanted)
    except (OSError, RuntimeError) as problem:  # a name too long, a folder that may not be entered, nobody's home
        raise ModelNotFound(wanted[:80], str(problem)[:120], _ADVICE) from None


_ADVICE = "name a checkpoint's folder, a .gguf, org/name from the Hub, or fadinho"


def _find(wanted: str) -> Source:
    path, hub = Path(wanted).expanduser(), _HUB_NAME.fullmatch(wanted)
    if path.is_dir():
        return _folder_source(path.resolve())
    if path.suffix == ".gguf" and path.is_file():
        from amalia_convert.gguf_source import model_name

        return Source(model_name(path), path.absolute(), "gguf")
    if path.suffix == ".json" and path.is_file():
        named = path.absolute().parent.name if path.name == "config.json" else path.stem
        return Source(named or "model", path.absolute(), "config")
    if path.exists():
        raise UsageError(wanted, "is a file", "name the folder that holds config.json and the .safetensors, or a .gguf")
    if hub and path.suffix not in (".gguf", ".json") and not path.parent.is_dir():
        return _hub_source(hub["name"], hub["revision"])
    raise ModelNotFound(wanted, "there is no such folder or file", _ADVICE)


def hub_file(repository: "Repository", name: str) -> File:
    """Give a file of the Hub's: from the cache where it is whole there, else where it lies."""
    from amalia_edge import hub

    file = repository.files[name]
    if hub.is_cached(repository, [name]):
        return CachedFile(hub.snapshot_folder(repository) / name, file.sha256, repository)
    return RemoteFile(repository, file)


def bring(shards: Sequence[Shard], *, stream: bool | None, outputs: int, folder: Path) -> tuple[Shard, ...]:
    """Download the weights that are still on the Hub, unless they are to be read without being kept.

    None decides by the room there is for them, beside `outputs` bytes in `folder`. The tensors stay what they were.
    """
    remote = [shard.file for shard in shards if isinstance(shard.file, RemoteFile)]
    if not remote:
        cached = [shard.file.repository for shard in shards if isinstance(shard.file, CachedFile)]
        if stream and not cached:
            raise UsageError("--stream", "the source is not on the Hub", "it is for org/name[@revision]")
        if cached and cached[0]:
            console.err.print(f"{cached[0].name}: the weights are in the Hub's cache already", markup=False)
        return tuple(shards)
    repository = remote[0].repository
    if stream is None:
        stream, why = _choose(sum(file.nbytes for file in remote), outputs, folder)
        console.err.print(f"{repository.name}: {why}", markup=False)
    if stream:
        for file in remote:
            if file.sha256 is None:
                raise HubError(str(file.path), "the Hub gives no SHA-256 to check it by", "use --no-stream")
        return tuple(shards)
    from amalia_edge import hub

    with console.progress(repository.name, sum(file.nbytes for file in remote)) as bar:
        hub.fetch(repository, [file.file.name for file in remote], bar.advance)
    return tuple(
        Shard(hub_file(repository, shard.file.file.name), shard.tensors, shard.stamp)
        if isinstance(shard.file, RemoteFile)
        else shard
        for shard in shards
    )


def embedded_folder() -> Path:
    """Find the embedded checkpoint beside this file; it is package data."""
    folder = Path(__file__).parent / EMBEDDED
    if not (folder / "config.json").is_file():
        raise ModelNotFound(EMBEDDED, f"the checkpoint is not in {folder}", "install amalia-edge again")
    return folder


def store_embedded(level: str) -> Path:
    """Give the embedded checkpoint's GGUF at a level from the models folder, converting it first where that is due."""
    # Late, because conversion imports this file.
    from amalia_convert.conversion import ConvertConfig, convert
    from amalia_convert.level_table import find_level
    from amalia_convert.receipt import is_current
    from amalia_edge.store import models_folder

    source, name = find_source(EMBEDDED), find_level(level).name
    path = models_folder() / source.file_name(name)
    if not is_current(path, hash_files(source.folder)):
        convert(ConvertConfig(EMBEDDED, (name,), models_folder(), replace=True))
    return path


def hash_files(folder: Path) -> dict[str, str]:
    """Hash every file of a folder that a conversion reads."""
    return hash_texts(folder) | {path.name: hash_file(path) for path in sorted(folder.glob("*.safetensors"))}


def hash_texts(folder: Path) -> dict[str, str]:
    """Hash every file that a conversion reads beside the weights."""
    return {name: hash_file(folder / name) for name in _texts(_names(folder))}


def _folder_source(folder: Path) -> Source:
    check_links(folder, _texts(_names(folder)))
    # In the Hub's cache the folder is called by its commit; the name stands two folders above.
    cached = _HUB_CACHE.fullmatch(folder.parent.parent.name) if folder.parent.name == "snapshots" else None
    if cached:
        repository = f"{cached['user']}/{cached['name']}"
        return Source(cached["name"], folder, repository=repository, commit=folder.name)
    return Source(folder.name, folder)


def _hub_source(name: str, revision: str | None) -> Source:
    """Pin a repository and fetch its texts; the weights stay where they are for now."""
    from amalia_edge import hub

    repository = hub.find_repository(name, revision)
    texts = _texts(repository.files)
    for text in texts:
        if repository.files[text].nbytes > TEXT_LIMIT:
            found = f"is {console.megabytes(repository.files[text].nbytes)}"
            raise HubError(f"{name}/{text}", found, f"at most {console.megabytes(TEXT_LIMIT)} are read")
    folder = hub.fetch(repository, texts)
    return Source(name.split("/")[1], folder, repository=name, commit=repository.commit, hub=repository)


def _names(folder: Path) -> list[str]:
    """List a folder's files, and those of its folders, by their names within it."""
    found = [path for pattern in ("*", "*/*") for path in folder.glob(pattern)]
    return sorted(path.relative_to(folder).as_posix() for path in found if path.is_symlink() or path.is_file())


def _pinned(repository: "Repository", name: str) -> str:
    """Stamp a file of a commit: here and there it is the same."""
    return f"{repository.commit} {name} {repository.files[name].sha256}"


def _texts(names: Collection[str]) -> list[str]:
    return [*(name for name in names if name in TEXTS), *find_templates(names)]


def _choose(needed: int, outputs: int, folder: Path) -> tuple[bool, str]:
    """Decide between streaming the weights and keeping them, and say why."""
    from amalia_edge import hub

    cache, target = existing_folder(hub.cache_folder()), existing_folder(folder)
    free = shutil.disk_usage(cache).free
    beside = outputs if os.stat(cache).st_dev == os.stat(target).st_dev else 0  # noqa: PTH116
    sizes = f"{console.megabytes(needed)} of weights, {console.megabytes(free)} free in the Hub's cache"
    if needed + beside > free:
        return True, f"{sizes}: streamed, and not kept (--no-stream keeps them)"
    return False, f"{sizes}: downloaded and kept (--stream does not keep them)"
