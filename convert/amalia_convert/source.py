"""Where a checkpoint comes from: a folder on this machine, or the one that comes with the product."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from amalia_edge.errors import HubError, ModelNotFound, UsageError

EMBEDDED = "fadinho"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_HUB_CACHE = re.compile(r"models--(?P<user>[\w.-]+?)--(?P<name>[\w.-]+)")


@dataclass(frozen=True)
class Source:
    """A checkpoint's folder, the name its files get, and the Hub repository it is a copy of, where that is known."""

    name: str
    folder: Path
    repository: str | None = None
    embedded: bool = False

    def file_name(self, level: str) -> str:
        """Name a file by GGUF's convention, in ASCII: `AMALIA-9B-0626-DPO-Q4_K_M.gguf`."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-.") or "model"
        return f"{plain}-{level}.gguf"


def find_source(wanted: str) -> Source:
    """Find a checkpoint by what a person typed: `fadinho`, or a folder's path."""
    if wanted == EMBEDDED:
        return Source(EMBEDDED, embedded_folder(), embedded=True)
    folder = Path(wanted).expanduser()
    if folder.is_dir():
        return _folder_source(folder.resolve())
    if folder.exists():
        raise UsageError(wanted, "is a file", "name the folder that holds config.json and the .safetensors")
    if _HUB_NAME.fullmatch(wanted):
        repository = wanted.partition("@")[0]
        local = repository.split("/")[1]
        found = "there is no such folder, and convert does not fetch from the Hub yet"
        raise HubError(wanted, found, f"hf download {repository} --local-dir {local}, then convert that")
    raise ModelNotFound(wanted, "there is no such folder", "name a checkpoint's folder, or fadinho")


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
    """Hash every file a conversion reads."""
    return {path.name: hash_file(path) for path in source_files(folder)}


def source_files(folder: Path) -> list[Path]:
    """List the files a conversion reads."""
    texts = ("config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json", "added_tokens.json",
             "chat_template.jinja", "README.md", "model.safetensors.index.json")  # fmt: skip
    return [folder / name for name in texts if (folder / name).is_file()] + sorted(folder.glob("*.safetensors"))


def hash_file(path: Path) -> str:
    """Give a file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _folder_source(folder: Path) -> Source:
    # In the Hub's cache the folder is called by its commit; the name stands two folders above.
    cached = _HUB_CACHE.fullmatch(folder.parent.parent.name) if folder.parent.name == "snapshots" else None
    if cached:
        return Source(cached["name"], folder, f"{cached['user']}/{cached['name']}")
    return Source(folder.name, folder)
