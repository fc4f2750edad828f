"""Which file was measured: its name, its contents' hash, what it holds."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.errors import LiveError

from amalia_edge.build import cache_folder
from amalia_edge.console import Bar, progress
from amalia_edge.gguf import Header, read_header
from amalia_edge.whole_file import write_whole

PIECE = 1 << 22  # bytes read at once
MOST_KNOWN = 1000  # files remembered
LARGE = 1_000_000_000  # bytes: what is hashed for seconds is seen to be


@dataclass(frozen=True)
class Identity:
    """A model file, told from any other."""

    file: str  # its name, no folder
    name: str
    level: str
    architecture: str
    bytes: int
    parameters: int
    sha256: str
    vocabulary_sha256: str  # two levels of one model have the same
    template_sha256: str


def identify(path: Path) -> Identity:
    """Read what a file is; its hash is remembered until it changes."""
    header = read_header(path)
    digests = [_file_hash(part) for part in header.parts]
    template = str(header.metadata.get("tokenizer.chat_template", ""))
    return Identity(
        file=path.name,
        name=header.name,
        level=header.level,
        architecture=header.architecture,
        bytes=sum(part.stat().st_size for part in header.parts),
        parameters=header.parameters,
        sha256=digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest(),
        vocabulary_sha256=_vocabulary_hash(header),
        template_sha256=hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest(),
    )


def _vocabulary_hash(header: Header) -> str:
    """Hash the tokens as they lie in the file."""
    start, end = header.spans.get("tokenizer.ggml.tokens", (0, 0))
    with header.path.open("rb") as file:
        file.seek(start)
        return hashlib.sha256(file.read(end - start)).hexdigest()


def _file_hash(path: Path) -> str:
    """Hash a file, once for each size and time of change."""
    known_at, status = cache_folder() / "hashes.json", path.stat()
    key = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
    try:
        known = dict(json.loads(known_at.read_bytes()))
    except (OSError, ValueError, TypeError):
        known = {}
    if not isinstance(known.get(key), str):
        known = dict(list(known.items())[-MOST_KNOWN:]) | {key: _hash(path)}
        known_at.parent.mkdir(parents=True, exist_ok=True)
        write_whole(known_at, json.dumps(known).encode())
    return str(known[key])


def _hash(path: Path) -> str:
    digest, buffer = hashlib.sha256(), bytearray(PIECE)
    with path.open("rb", buffering=0) as file, _shown(path.stat().st_size) as bar:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            bar.advance(count)
    return digest.hexdigest()


@contextlib.contextmanager
def _shown(nbytes: int) -> Iterator[Bar]:
    """Show how far a large file is; nothing below another bar, where rich has room for one only."""
    with contextlib.ExitStack() as stack:
        bar = Bar(None)
        if nbytes >= LARGE:
            with contextlib.suppress(LiveError):
                bar = stack.enter_context(progress("hashing", nbytes))
        yield bar
