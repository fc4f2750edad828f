"""A GGUF that is whole or absent: written beside its place under a hidden name, synced, read back, renamed."""

import errno
import fcntl
import hashlib
import io
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from amalia_convert.metadata import Metadata
from amalia_edge.errors import ConvertError, ModelCorrupt

ALIGNMENT = 32  # GGUF's default; every tensor begins at a multiple, and the file ends at one

TensorRow = tuple[str, tuple[int, ...], int, int]  # name, shape (rows, columns), ggml type, bytes


def padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def header_bytes(metadata: Metadata, tensors: Sequence[TensorRow]) -> bytes:
    """Give everything before the tensors' bytes: magic, counts, key/values, tensor table, padding."""
    import gguf

    writer = gguf.GGUFWriter(None, str(metadata["general.architecture"].content))
    writer.kv_data = [{}]  # our own order
    for key, value in metadata.items():
        kind = gguf.GGUFValueType[value.kind.upper()]
        if isinstance(value.content, tuple):
            writer.add_key_value(key, list(value.content), gguf.GGUFValueType.ARRAY, sub_type=kind)
        else:
            writer.add_key_value(key, value.content, kind)
    for name, shape, kind, nbytes in tensors:
        # The type we name decides; float32 only keeps gguf from reading the shape as a count of bytes.
        writer.add_tensor_info(name, shape, np.dtype(np.float32), nbytes, raw_dtype=gguf.GGMLQuantizationType(kind))
    buffer = io.BytesIO()
    writer.fout, writer.state = [buffer], gguf.gguf_writer.WriterState.EMPTY  # into memory, where the size is known
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    except (UnicodeEncodeError, OverflowError, struct.error) as error:
        found = f"the checkpoint's texts hold a value GGUF cannot ({str(error)[:120]})"
        raise ModelCorrupt("metadata", found, "look at README.md, generation_config.json and the tokenizer") from None
    content = buffer.getvalue()
    return content + bytes(padded(len(content)) - len(content))


class Target:
    """A file being written in any order; `finish` puts it in its place, leaving without it removes it."""

    def __init__(self, path: Path, nbytes: int) -> None:
        self.path, self.nbytes = path, nbytes
        self._neighbour = path.with_name(f".{path.name}.partial")
        self._descriptor = -1

    def __enter__(self) -> "Target":
        try:
            self._open()
        except OSError as error:
            raise _failure(self.path, error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor >= 0:
            self._neighbour.unlink(missing_ok=True)
            self._close()

    def write(self, offset: int, content: bytes | memoryview) -> None:
        """Write bytes at their place; threads may do so at once."""
        try:
            rest = memoryview(content).cast("B")
            while rest:
                written = os.pwrite(self._descriptor, rest, offset)
                rest, offset = rest[written:], offset + written
        except OSError as error:
            raise _failure(self.path, error) from None

    def finish(self) -> str:
        """Sync, read back, rename; give the SHA-256 of what lies on the disk."""
        try:
            os.ftruncate(self._descriptor, self.nbytes)  # the last tensor's padding
            os.fsync(self._descriptor)
            digest = hashlib.sha256()
            for offset in range(0, self.nbytes, 1 << 20):
                digest.update(os.pread(self._descriptor, 1 << 20, offset))
            self._neighbour.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise _failure(self.path, error) from None
        self._close()
        return digest.hexdigest()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._neighbour, flags, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Had another conversion renamed it between our two calls, we would hold, and empty, its finished file.
            if os.fstat(descriptor).st_ino != self._neighbour.stat().st_ino:
                raise BlockingIOError(errno.EWOULDBLOCK, "renamed meanwhile")
            os.ftruncate(descriptor, 0)  # what a killed conversion left
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file so that it is whole or absent."""
    with Target(path, len(content)) as target:
        target.write(0, content)
        target.finish()


def make_folder(folder: Path) -> None:
    """Make the folder outputs go into, and say plainly where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConvertError(str(folder), f"cannot be made ({error.strerror})", "name another --out") from None


def sync_folder(folder: Path) -> None:
    """Make a rename last through a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failure(path: Path, error: OSError) -> ConvertError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ConvertError(str(path), "the disk is full", "free some space, or name another folder with --out")
    if error.errno == errno.EFBIG:
        return ConvertError(str(path), "the file is larger than may be written here", "see ulimit -f, or another --out")
    if error.errno == errno.EWOULDBLOCK:
        return ConvertError(str(path), "another conversion is writing it", "wait for that one, or name another --out")
    return ConvertError(str(path), f"cannot be written ({error.strerror})", "name another folder with --out")
