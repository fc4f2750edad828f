"""A file that is whole or absent: written beside its place under a hidden name, synced, read back, renamed.

`.NAME.partial` holds the bytes and `.NAME.journal` how many of them count (journal.py); both are gone at the end. The
journal is also the lock: whoever holds it writes NAME.
"""

import errno
import fcntl
import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from amalia_convert.journal import Mark, first_line, last_mark, mark_line
from amalia_convert.metadata import Metadata, pack, pack_text
from amalia_edge.errors import ConvertError

ALIGNMENT = 32  # GGUF's default; every tensor begins at a multiple, and the file ends at one
MAGIC, VERSION = b"GGUF", 3

TensorRow = tuple[str, tuple[int, ...], int, int]  # name, shape (rows, columns), ggml type, bytes


def padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def header_bytes(metadata: Metadata, tensors: Sequence[TensorRow]) -> bytes:
    """Give everything before the tensors' bytes: magic, counts, key/values, tensor table, padding."""
    parts, offset = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(metadata)), pack(metadata)], 0
    for name, shape, kind, nbytes in tensors:
        rank = len(shape)
        parts += [pack_text(name), struct.pack(f"<I{rank}QIQ", rank, *reversed(shape), kind, offset)]
        offset += padded(nbytes)
    content = b"".join(parts)
    return content + bytes(padded(len(content)) - len(content))


class Target:
    """A file being written in any order; `finish` puts it in its place, leaving it otherwise removes or keeps the work."""

    def __init__(self, path: Path, nbytes: int, key: str = "") -> None:
        """Take what the bytes depend on as `key`: what a stopped writer left is gone on with only if it is the same."""
        self.path, self.nbytes, self.key = path, nbytes, key
        self.place, self._journal = hidden(path, "partial"), hidden(path, "journal")  # where the bytes lie until then
        self.mark = Mark()  # how far a former run came, and at the end this one
        self.noted = False  # the journal holds a mark: there is something to go on with
        self.published = False  # the file is in its place, and only the journal remains of the work
        self._file = self._lock = -1

    @property
    def sealed(self) -> bool:
        """Tell whether every byte is written."""
        return bool(self.mark.sealed)

    def __enter__(self) -> "Target":
        try:
            self._lock = _open_locked(self._journal)
            try:
                self._go_on_or_begin()
            except BaseException:
                self.leave()
                raise
        except OSError as error:
            raise _failure(self.path, error) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def write(self, offset: int, content: bytes | memoryview) -> None:
        """Write bytes at their place; threads may do so at once."""
        try:
            rest = memoryview(content).cast("B")
            while rest:
                written = os.pwrite(self._file, rest, offset)
                rest, offset = rest[written:], offset + written
        except OSError as error:
            raise _failure(self.path, error) from None

    def note(self, mark: Mark) -> None:
        """Sync what has been written, and then say so in the journal."""
        try:
            os.fsync(self._file)
            os.write(self._lock, mark_line(mark))
            os.fsync(self._lock)
        except OSError as error:
            raise _failure(self.path, error) from None
        self.noted = True
        if mark.sealed:
            self.mark = mark

    def hash(self, advance: Callable[[int], None] = lambda _: None) -> str:
        """Sync, read all of it back, and give the SHA-256; `advance` hears of bytes, and may stop it by an error."""
        try:
            os.fsync(self._file)
            digest = hashlib.sha256()
            for offset in range(0, self.nbytes, 1 << 20):
                block = os.pread(self._file, 1 << 20, offset)
                digest.update(block)
                advance(len(block))
        except OSError as error:
            raise _failure(self.path, error) from None
        return digest.hexdigest()

    def publish(self) -> None:
        """Put the file in its place."""
        if self.published:
            return
        try:
            self.place.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise _failure(self.path, error) from None
        self.published = True

    def forget(self) -> None:
        """Drop the journal: nothing is left to go on with."""
        self._journal.unlink(missing_ok=True)
        self._close()

    def leave(self) -> None:
        """Stop for now, and let the next run go on where the journal says; without a mark in it, nothing is kept."""
        if self.noted:
            self._close()
        else:
            self.remove()

    def remove(self) -> None:
        """Stop, and leave nothing of the work; of a finished file, or one that is not open, nothing happens."""
        if self._lock < 0:
            return
        if self._file >= 0 and not self.published:
            self.place.unlink(missing_ok=True)
        self._journal.unlink(missing_ok=True)
        self._close()

    def finish(self) -> str:
        """Hash, publish and forget; give the SHA-256."""
        digest = self.hash()
        self.publish()
        self.forget()
        return digest

    def _go_on_or_begin(self) -> None:
        found = last_mark(_read_all(self._lock), self.key)
        self.noted = found is not None and found.done > 0  # until we know better, it is not ours to remove
        if found is not None and found.sealed and not self.place.exists() and self.path.is_file():
            self.published = hash_file(self.path) == found.sealed.get(self.path.name)
            if self.published:
                self.mark = found
                return
        self._file = os.open(self.place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        if found is not None and os.fstat(self._file).st_size == self.nbytes:
            self.mark = found
            return
        self.noted = False
        os.ftruncate(self._file, 0)  # what another conversion left
        os.ftruncate(self._file, self.nbytes)
        os.ftruncate(self._lock, 0)
        os.write(self._lock, first_line(self.key))

    def _close(self) -> None:
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1


def hidden(path: Path, end: str) -> Path:
    return path.with_name(f".{path.name}.{end}")


def hash_file(path: Path, advance: Callable[[int], None] = lambda _: None) -> str:
    """Give a file's SHA-256 in hexadecimal; `advance` hears of bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def existing_folder(folder: Path) -> Path:
    """Give the nearest folder above that is there: whose disk it will be on."""
    folder = folder.absolute()
    while not os.path.isdir(folder):  # noqa: PTH112  (Path.is_dir raises where a folder may not be entered)
        folder = folder.parent
    return folder


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


def _open_locked(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Had another conversion ended between our two calls, we would hold the lock of a file that is no longer there.
        if os.fstat(descriptor).st_ino != path.stat().st_ino:
            raise BlockingIOError(errno.EWOULDBLOCK, "ended meanwhile")
    except FileNotFoundError:
        os.close(descriptor)
        raise BlockingIOError(errno.EWOULDBLOCK, "ended meanwhile") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _read_all(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _failure(path: Path, error: OSError) -> ConvertError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ConvertError(str(path), "the disk is full", "free some space, or name another folder with --out")
    if error.errno == errno.EFBIG:
        return ConvertError(str(path), "the file is larger than may be written here", "see ulimit -f, or another --out")
    if error.errno == errno.EWOULDBLOCK:
        return ConvertError(str(path), "another conversion is writing it", "wait for that one, or name another --out")
    return ConvertError(str(path), f"cannot be written ({error.strerror})", "name another folder with --out")
