"""Where a checkpoint comes from: a folder, a 16-bit GGUF, the Hub, a configuration alone, or the product itself."""

import hashlib
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from amalia_convert.checkpoint import INDEX, File, LocalFile, Stream, check_links, shard_names
from amalia_edge import console
from amalia_edge.errors import ModelNotFound, UsageError

if TYPE_CHECKING:
    from amalia_edge.hub import HubFile, Repository

EMBEDDED = "fadinho"
# What a conversion reads beside the weights.
TEXTS = ("config.json", "generation_config.json", "tokenizer.model", "tokenizer.json", "tokenizer_config.json",
         "added_tokens.json", "special_tokens_map.json", "chat_template.jinja", "README.md", INDEX)  # fmt: skip
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
    weights: "Repository | None" = None  # what the Hub tells of the weights; None: they are not from there
    stream: bool = True  # read the Hub's weights where they lie, and do not keep them
    embedded: bool = False

    @property
    def folder(self) -> Path:
        return self.path if self.kind == "folder" else self.path.parent

    @property
    def files(self) -> "dict[str, File] | None":
        """Give the Hub's weights by name, or None where the folder is all there is."""
        if self.weights is None:
            return None
        files = self.weights.files.values()
        if self.stream:
            return {file.name: RemoteFile(self.weights, file) for file in files}
        return {file.name: LocalFile(self.folder / file.name, file.sha256) for file in files}

    def file_name(self, level: str) -> str:
        """Name a file by GGUF's convention, in ASCII: `AMALIA-9B-0626-DPO-Q4_K_M.gguf`."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-.") or "model"
        return f"{plain}-{level}.gguf"


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
        return f"{self.repository.commit} {self.file.name} {self.file.sha256}"

    def open(self) -> Stream:
        from amalia_edge.hub import RemoteStream

        return RemoteStream(self.repository, self.file)

    def read(self, offset: int, nbytes: int) -> bytes:
        from amalia_edge.hub import read_range

        return read_range(self.repository, self.file, offset, nbytes)


def find_source(wanted: str) -> Source:
    """Find a checkpoint by what a person typed: `fadinho`, a folder, a GGUF, a config.json, or a name on the Hub."""
    if wanted == EMBEDDED:
        return Source(EMBEDDED, embedded_folder(), embedded=True)
    path = Path(wanted).expanduser()
    hub = _HUB_NAME.fullmatch(wanted)
    if not path.exists() and hub:
        return _hub_source(hub["name"], hub["revision"])
    if path.is_dir():
        return _folder_source(path.resolve())
    if path.suffix == ".gguf" and path.is_file():
        from amalia_convert.gguf_source import model_name

        return Source(model_name(path), path.absolute(), "gguf")
    if path.suffix == ".json" and path.is_file():
        named = path.absolute().parent.name if path.name == "config.json" else path.stem
        return Source(named or "model", path.absolute(), "config")
    if path.exists():
        advice = "name the folder that holds config.json and the .safetensors, or a .gguf"
        raise UsageError(wanted, "is a file", advice)
    advice = "name a checkpoint's folder, a .gguf, org/name from the Hub, or fadinho"
    raise ModelNotFound(wanted, "there is no such folder", advice)


def bring(source: Source, *, stream: bool | None) -> Source:
    """Download the Hub's weights, unless they are to be read without keeping them; None decides by the room there is."""
    if source.weights is None:
        if stream:
            raise UsageError("--stream", f"{source.path} is not on the Hub", "it is for org/name[@revision]")
        return source
    from amalia_edge import hub

    repository = source.weights
    names = [name for name in shard_names(source.folder) if name in repository.files]
    if stream is None:
        stream, why = _choose(repository, names)
        console.err.print(f"{repository.name}: {why}", markup=False)
    if stream:
        return source
    with console.progress(repository.name, sum(repository.files[name].nbytes for name in names)) as bar:
        hub.fetch(repository, names, bar.advance)
    return replace(source, stream=False)


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
    from amalia_convert.levels import find_level
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
    return {name: hash_file(folder / name) for name in TEXTS if (folder / name).is_file()}


def hash_file(path: Path) -> str:
    """Give a file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _folder_source(folder: Path) -> Source:
    check_links(folder, TEXTS)
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
    folder = hub.fetch(repository, [text for text in TEXTS if text in repository.files])
    return Source(name.split("/")[1], folder, repository=name, commit=repository.commit, weights=repository)


def _choose(repository: "Repository", names: list[str]) -> tuple[bool, str]:
    """Decide between streaming the weights and keeping them, and say why."""
    from amalia_edge import hub

    if hub.is_cached(repository, names):
        return False, "the weights are in the Hub's cache already"
    needed = sum(repository.files[name].nbytes for name in names)
    cache = hub.cache_folder()
    while not cache.exists():
        cache = cache.parent
    free = shutil.disk_usage(cache).free
    sizes = f"{console.megabytes(needed)} of weights, {console.megabytes(free)} free in the Hub's cache"
    if needed > free:
        return True, f"{sizes}: streamed, and not kept (--no-stream keeps them)"
    return False, f"{sizes}: downloaded and kept (--stream does not keep them)"
