"""A checkpoint in Hub layout: configuration and weights by name, read one block of rows at a time.

Blocks are read with `pread`, not mapped: memory then stays what the blocks take (mapped pages would count as resident
until the kernel wants them back), and a file cut while we read is a short read, where a mapping would kill the process.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from amalia_convert.shard import StoredTensor, parse_tensors
from amalia_edge.errors import CheckpointIncomplete, ModelCorrupt, ModelUntrusted

TEXT_LIMIT = 64_000_000  # bytes of a configuration or template file; tokenizer.json of 17 MB exist
LISTED = 40  # names in one error
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

Json = dict[str, object]


class Stream(Protocol):
    """A file of weights, opened: bytes from its front to its back."""

    def read(self, nbytes: int, /) -> bytes:
        """Give so many bytes, fewer only where the file ends."""

    def close(self) -> None: ...


class File(Protocol):
    """A file of weights, wherever it lies."""

    @property
    def path(self) -> Path: ...  # or, for a file that is not here, the name it goes by
    @property
    def nbytes(self) -> int: ...
    @property
    def sha256(self) -> str | None: ...  # what it must be, where somebody knows
    @property
    def stamp(self) -> str: ...  # the same file, unchanged, has the same stamp
    def open(self) -> Stream: ...
    def read(self, offset: int, nbytes: int) -> bytes: ...
    def reject(self) -> str: ...  # its content is wrong: do what can be done, and say what the user can


@dataclass(frozen=True)
class LocalFile:
    """A file of weights on this machine."""

    path: Path
    sha256: str | None = None

    @property
    def nbytes(self) -> int:
        return self._stat().st_size

    @property
    def stamp(self) -> str:
        found = self._stat()
        return f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"

    def open(self) -> Stream:
        try:
            return self.path.open("rb", buffering=0)
        except OSError as error:
            raise CheckpointIncomplete(str(self.path), f"cannot be read ({error.strerror})", "check it") from None

    def read(self, offset: int, nbytes: int) -> bytes:
        stream = self.open()
        try:
            return os.pread(stream.fileno(), nbytes, offset)  # type: ignore[attr-defined]
        finally:
            stream.close()

    def reject(self) -> str:
        return "copy or download it again"

    def _stat(self) -> os.stat_result:
        try:
            return self.path.stat()
        except OSError as error:
            raise CheckpointIncomplete(str(self.path), f"cannot be read ({error.strerror})", "check it") from None


@dataclass(frozen=True)
class Shard:
    """A file of weights and the tensors in it, in the order of their bytes."""

    file: File
    tensors: tuple[StoredTensor, ...]
    stamp: str = ""  # the file's when its header was read


@dataclass(frozen=True)
class Checkpoint:
    """Hold what a folder promises: its configuration and where each tensor lies. No weight has been read yet."""

    folder: Path
    config: Json
    shards: tuple[Shard, ...] = ()

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        return {tensor.name: tensor for shard in self.shards for tensor in shard.tensors}


@dataclass(frozen=True)
class Piece:
    """Some whole rows of a tensor: `first` is the index of the first of them."""

    tensor: StoredTensor
    first: int
    content: bytes
    end: int = 0  # where its bytes end, counted through all shards from the first one's start
    digest: Any = None  # hashlib's, of its shard up to there


def open_checkpoint(folder: Path, weights: dict[str, File] | None = None) -> Checkpoint:
    """Read config.json and every shard's header; `weights` are the files by name where they are not in the folder."""
    if not (folder / "config.json").is_file():
        raise CheckpointIncomplete(str(folder), "there is no config.json", "name a folder in the Hub's layout")
    config = read_json(folder / "config.json")
    files = _shard_files(folder, weights)
    shards = tuple(open_shard(file) for file in files)
    _check_names(folder, shards)
    return Checkpoint(folder, config, shards)


def open_shard(file: File) -> Shard:
    """Read a safetensors file's header."""
    stamp = file.stamp
    return Shard(file, tuple(parse_tensors(file.path, file.nbytes, file.read)), stamp)


def read_json(path: Path) -> Json:
    """Read a JSON object from a file of a checkpoint."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelCorrupt(str(path), f"is not JSON ({str(error)[:120]})", "download the file again") from None
    if not isinstance(value, dict):
        raise ModelCorrupt(str(path), f"holds a {type(value).__name__}, not an object", "download the file again")
    return value


def read_text(path: Path) -> str:
    """Read a text file of a checkpoint, up to a limit."""
    try:
        if path.stat().st_size > TEXT_LIMIT:
            raise ModelCorrupt(str(path), f"is larger than {TEXT_LIMIT} bytes", "check where it came from")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise CheckpointIncomplete(str(path), f"cannot be read ({error.strerror})", "check the file") from None
    except UnicodeDecodeError as error:
        raise ModelCorrupt(str(path), f"byte {error.start}: not UTF-8", "download the file again") from None


def check_links(folder: Path, names: Sequence[str]) -> None:
    """Refuse a link that leads out of its folder: only the Hub's cache keeps a snapshot's files elsewhere, in blobs/."""
    allowed = [folder.resolve()]
    if folder.parent.name == "snapshots":
        allowed.append(folder.parent.parent.resolve() / "blobs")
    for name in names:
        try:
            target = (folder / name).resolve()
        except (OSError, RuntimeError):  # a link to itself
            raise ModelUntrusted(str(folder / name), "is a link to nowhere", "put the file itself there") from None
        if not any(target.is_relative_to(place) for place in allowed):
            found = f"is a link out of the folder, to {target}"
            raise ModelUntrusted(str(folder / name), found, "put the file itself there")


class Reader:
    """Read a checkpoint's weights once, in the order they lie in, and hash every file as it passes."""

    def __init__(
        self, shards: Sequence[Shard], rows_of: dict[str, int], start: int = 0, hashes: dict[str, str] | None = None
    ) -> None:
        """Take how many rows of each tensor make a piece; a tensor left out is hashed and not handed on.

        `start` is how far a former run came, counted through all shards; of shards that end before it, and whose
        hashes it knew, not a byte is read. A shard it stopped in is read from its start, for the hash.
        """
        self._shards, self._rows_of, self._start = shards, rows_of, start
        self._known = hashes or {}
        self.hashes = dict(self._known)  # complete when `pieces` has ended

    def pieces(self) -> Iterator[Piece]:
        for shard, base in self._placed():
            if not self._is_done(shard, base):
                yield from self._pieces(shard, base)

    @property
    def skipped(self) -> int:
        """Count the bytes of wanted tensors that `pieces` will not read again."""
        done = [shard for shard, base in self._placed() if self._is_done(shard, base)]
        return sum(tensor.nbytes for shard in done for tensor in shard.tensors if tensor.name in self._rows_of)

    def _placed(self) -> Iterator[tuple[Shard, int]]:
        base = 0
        for shard in self._shards:
            yield shard, base
            base += shard.file.nbytes

    def _is_done(self, shard: Shard, base: int) -> bool:
        return base + shard.file.nbytes <= self._start and shard.file.path.name in self._known

    def _pieces(self, shard: Shard, base: int) -> Iterator[Piece]:
        digest, stream = hashlib.sha256(), shard.file.open()
        try:
            for tensor, first, offset, nbytes in _cuts(shard, self._rows_of):
                content = _read(stream, shard.file.path, offset, nbytes)
                digest.update(content)
                if tensor is not None:
                    yield Piece(tensor, first, content, base + offset + nbytes, digest.copy())
        finally:
            stream.close()
        found = digest.hexdigest()
        if shard.file.sha256 not in (None, found):
            wrong = f"its SHA-256 is {found}, and must be {shard.file.sha256}"
            raise ModelCorrupt(str(shard.file.path), wrong, shard.file.reject())
        if shard.stamp not in ("", shard.file.stamp):
            raise ModelCorrupt(str(shard.file.path), "it changed while it was read", "wait for whoever writes it")
        self.hashes[shard.file.path.name] = found


def _cuts(shard: Shard, rows_of: dict[str, int]) -> Iterator[tuple[StoredTensor | None, int, int, int]]:
    """Cut a file into (tensor, first row, offset, bytes): by rows where they are wanted, by a megabyte where not."""
    at = 0
    for tensor in shard.tensors:
        yield from ((None, 0, *cut) for cut in _gap(at, tensor.offset))
        rows = rows_of.get(tensor.name)
        if rows:
            row = tensor.nbytes // tensor.rows
            for begin in range(0, tensor.nbytes, rows * row):
                nbytes = min(rows * row, tensor.nbytes - begin)
                yield tensor, begin // row, tensor.offset + begin, nbytes
        else:
            yield from ((None, 0, *cut) for cut in _gap(tensor.offset, tensor.offset + tensor.nbytes))
        at = tensor.offset + tensor.nbytes
    yield from ((None, 0, *cut) for cut in _gap(at, shard.file.nbytes))


def _gap(begin: int, end: int) -> Iterator[tuple[int, int]]:
    return ((offset, min(1 << 20, end - offset)) for offset in range(begin, end, 1 << 20))


def _read(stream: Stream, path: Path, offset: int, nbytes: int) -> bytes:
    try:
        content = stream.read(nbytes)
        while len(content) < nbytes:  # one call reads 2 GiB at most, and less over a network
            more = stream.read(nbytes - len(content))
            if not more:
                left = len(content)
                raise CheckpointIncomplete(str(path), f"byte {offset}: wanted {nbytes}, {left} left", "copy it again")
            content += more
    except OSError as error:
        raise CheckpointIncomplete(str(path), f"byte {offset}: {error.strerror}", "check the disk") from None
    return content


def shard_names(folder: Path) -> list[str]:
    """Name the files of weights: those of the index, or the single one."""
    return sorted(set(_weight_map(folder).values())) if (folder / INDEX).is_file() else [SINGLE]


def _shard_files(folder: Path, weights: dict[str, File] | None) -> list[File]:
    names = shard_names(folder)
    if weights is None:
        check_links(folder, names)
        weights = {name: LocalFile(folder / name) for name in names if (folder / name).is_file()}
    missing = [name for name in names if name not in weights]
    if missing == [SINGLE]:
        names = [*weights, *(path.name for path in folder.glob("*.bin"))]
        torch = "; pytorch .bin weights are programs, and not opened" if any(n.endswith(".bin") for n in names) else ""
        raise CheckpointIncomplete(str(folder), f"no {SINGLE} and no {INDEX}{torch}", "download the .safetensors")
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        found = f"shards missing: {', '.join(missing[:LISTED])}{more}"
        raise CheckpointIncomplete(str(folder), found, "download them")
    return [weights[name] for name in names]


def _weight_map(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelCorrupt(str(path), "has no weight_map", "download the file again")
    for name in weight_map.values():
        # A shard is a file of this folder: no path, nothing hidden, nothing of another kind.
        sound = isinstance(name, str) and len(name) < 200 and name.isprintable() and not set(name) & set("/\\")
        if not sound or name.startswith(".") or not name.endswith(".safetensors"):
            raise ModelCorrupt(str(path), f"names the shard {str(name)[:80]!r}", "check where it came from")
    return weight_map


def _check_names(folder: Path, shards: Sequence[Shard]) -> None:
    seen: dict[str, str] = {}
    for shard in shards:
        for tensor in shard.tensors:
            if tensor.name in seen:
                found = f"tensor {tensor.name!r} lies in {seen[tensor.name]} too"
                raise ModelCorrupt(str(tensor.path), found, "check where the files came from")
            seen[tensor.name] = tensor.path.name
    if (folder / INDEX).is_file():
        absent = [name for name, shard in _weight_map(folder).items() if seen.get(name) != shard]
        if absent:
            found = f"{len(absent)} tensors of {INDEX} are not where it says, the first: {absent[0][:80]!r}"
            raise CheckpointIncomplete(str(folder), found, "download the shards again")
