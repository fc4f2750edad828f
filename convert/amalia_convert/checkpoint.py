"""A checkpoint in Hub layout: configuration and weights by name, read one block of rows at a time.

Blocks are read with `pread`, not mapped: memory then stays what the blocks take (mapped pages would count as resident
until the kernel wants them back), and a file cut while we read is a short read, where a mapping would kill the process.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from amalia_convert.shard import StoredTensor, read_tensors
from amalia_edge.errors import CheckpointIncomplete, ModelCorrupt

TEXT_LIMIT = 64_000_000  # bytes of a configuration or template file; tokenizer.json of 17 MB exist
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

Json = dict[str, object]


@dataclass(frozen=True)
class Checkpoint:
    """Hold what a folder promises: its configuration and where each tensor lies. No weight has been read yet."""

    folder: Path
    config: Json
    shards: dict[Path, list[StoredTensor]]  # in the order of the files' names, tensors in the order of their bytes

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        return {tensor.name: tensor for tensors in self.shards.values() for tensor in tensors}


@dataclass(frozen=True)
class Piece:
    """Some whole bytes of a tensor: `first` is the index of its first row."""

    tensor: StoredTensor
    first: int
    content: bytes


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read config.json and every shard's header."""
    if not (folder / "config.json").is_file():
        raise CheckpointIncomplete(str(folder), "there is no config.json", "name a folder in the Hub's layout")
    shards = {path: read_tensors(path) for path in _shard_paths(folder)}
    _check_names(folder, shards)
    return Checkpoint(folder, read_json(folder / "config.json"), shards)


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


class Reader:
    """Read a checkpoint's weights once, in the order they lie in, and hash every file as it passes."""

    def __init__(self, checkpoint: Checkpoint, rows_of: dict[str, int]) -> None:
        """Take how many rows of each tensor make a piece; a tensor left out is hashed and not handed on."""
        self._checkpoint, self._rows_of = checkpoint, rows_of
        self.hashes: dict[str, str] = {}  # complete when `pieces` has ended

    def pieces(self) -> Iterator[Piece]:
        for path, tensors in self._checkpoint.shards.items():
            digest = hashlib.sha256()
            with ExitStack() as stack:
                try:
                    file = stack.enter_context(path.open("rb", buffering=0))
                except OSError as error:
                    raise CheckpointIncomplete(str(path), f"cannot be read ({error.strerror})", "check it") from None
                start = tensors[0].offset if tensors else path.stat().st_size
                digest.update(_read(path, file.fileno(), 0, start))
                for tensor in tensors:
                    wanted = tensor.name in self._rows_of
                    for first, offset, nbytes in _cuts(tensor, self._rows_of.get(tensor.name)):
                        content = _read(path, file.fileno(), offset, nbytes)
                        digest.update(content)
                        if wanted:
                            yield Piece(tensor, first, content)
            self.hashes[path.name] = digest.hexdigest()


def _cuts(tensor: StoredTensor, rows: int | None) -> Iterator[tuple[int, int, int]]:
    """Cut a tensor into (first row, offset, bytes); by rows where they are wanted, by a megabyte where not."""
    total = tensor.shape[0] if len(tensor.shape) > 1 else 1
    row = tensor.nbytes // total if total else 0
    step = rows * row if rows else 1 << 20
    for begin in range(0, tensor.nbytes, max(step, 1)):
        yield begin // row, tensor.offset + begin, min(step, tensor.nbytes - begin)


def _read(path: Path, descriptor: int, offset: int, nbytes: int) -> bytes:
    try:
        content = os.pread(descriptor, nbytes, offset)
        while len(content) < nbytes:  # one call reads 2 GiB at most, and less over a network
            more = os.pread(descriptor, nbytes - len(content), offset + len(content))
            if not more:
                left = len(content)
                raise CheckpointIncomplete(str(path), f"byte {offset}: wanted {nbytes}, {left} left", "copy it again")
            content += more
    except OSError as error:
        raise CheckpointIncomplete(str(path), f"byte {offset}: {error.strerror}", "check the disk") from None
    return content


def _shard_paths(folder: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        if not (folder / SINGLE).is_file():
            torch = "; pytorch .bin weights are programs, and not opened" if list(folder.glob("*.bin")) else ""
            raise CheckpointIncomplete(str(folder), f"no {SINGLE} and no {INDEX}{torch}", "download the weights")
        return [folder / SINGLE]
    names = sorted(set(_weight_map(folder).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointIncomplete(str(folder), f"shards missing: {', '.join(missing)}", "download them")
    return [folder / name for name in names]


def _weight_map(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelCorrupt(str(path), "has no weight_map", "download the file again")
    for name in weight_map.values():
        # A shard is a file of this folder: no path, nothing hidden, nothing of another kind.
        sound = isinstance(name, str) and name.isprintable() and not set(name) & set("/\\")
        if not sound or name.startswith(".") or not name.endswith(".safetensors"):
            raise ModelCorrupt(str(path), f"names the shard {str(name)[:80]!r}", "check where it came from")
    return weight_map


def _check_names(folder: Path, shards: dict[Path, list[StoredTensor]]) -> None:
    seen: dict[str, str] = {}
    for path, tensors in shards.items():
        for tensor in tensors:
            if tensor.name in seen:
                found = f"tensor {tensor.name!r} lies in {seen[tensor.name]} too"
                raise ModelCorrupt(str(path), found, "check where the files came from")
            seen[tensor.name] = path.name
    if (folder / INDEX).is_file():
        absent = [name for name, shard in _weight_map(folder).items() if seen.get(name) != shard]
        if absent:
            found = f"{len(absent)} tensors of {INDEX} are not where it says, the first: {absent[0][:80]!r}"
            raise CheckpointIncomplete(str(folder), found, "download the shards again")
