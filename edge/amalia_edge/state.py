"""States on disk: what a model made of a prompt's beginning, kept so that the next start need not read it again.

A state is used only where all it depends on is the same: the model, the library, how both are set up, and the ids
themselves. A store never fails a chat: what it cannot use or write it tells, and the text is read as if it were new.
"""

import contextlib
import hashlib
import itertools
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from amalia_edge.build import cache_folder
from amalia_edge.chat import Message
from amalia_edge.engine import Engine
from amalia_edge.errors import AmaliaError, ModelCorrupt
from amalia_edge.model import Model
from amalia_edge.sampler import SamplingConfig
from amalia_edge.state_file import file_nbytes, matching, read_state, remove_if_left, write_state
from amalia_edge.state_key import state_key

log = logging.getLogger("amalia.state")

MOST_BYTES = 4 << 30  # some 20 texts of 1,000 tokens for AMÁLIA
LEAST_TOKENS = 64  # a large model needs seconds for them on a CPU, a file some milliseconds
PROBES = ("a", "7", "É", "\n?")  # what users may write, unlike each other from the first letter on


@dataclass(frozen=True)
class Warmth:
    """Say what it took to have a prompt's beginning in memory, in tokens."""

    held: int = 0  # were there already
    restored: int = 0
    read: int = 0
    saved: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Stored:
    path: Path
    nbytes: int
    used_s: float  # when it was last used, in seconds since 1970


@dataclass(frozen=True)
class StateStore:
    """A folder of states, of `most_bytes` together: the one unused for longest makes room for a new one."""

    folder: Path = field(default_factory=lambda: cache_folder() / "states")
    most_bytes: int = MOST_BYTES
    warn: Callable[[str], None] = log.warning  # hears, in a line, of what could not be used or written

    def warm(self, model: Model, ids: Sequence[int]) -> Warmth:
        """Bring these ids into the engine's memory: from disk as far as that goes, then by reading, to be saved if long."""
        began = time.perf_counter()
        ids, engine = list(ids), model.engine
        held = engine.holds(ids) if ids else 0
        if held >= len(ids) - 1:  # a prompt's last token is always read anew
            return Warmth(held)
        key = b""
        with self._telling(model.header.path):
            key = state_key(model)
        restored = self._restore(engine, key, ids, held) if key else 0
        read = saved = 0
        if restored < len(ids):
            sequence = engine.submit(ids, SamplingConfig(limit=0))
            for _ in engine.stream(sequence):
                pass
            read = len(ids) - sequence.reused
            if key and read >= LEAST_TOKENS:
                saved = self._save(engine, key, ids)
        return Warmth(0 if restored else held, restored, read, saved, time.perf_counter() - began)

    def states(self) -> list[Stored]:
        """List the states that are kept, of all models, the one unused for longest first."""
        found = []
        for path in self._files(".state"):
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                status = path.lstat()
                if stat.S_ISREG(status.st_mode):
                    found.append(Stored(path, status.st_size, status.st_mtime))
        return sorted(found, key=lambda state: state.used_s)

    def clear(self, most_bytes: int = 0) -> int:
        """Remove states until those left take no more than `most_bytes`, and what killed writers left; give the bytes freed."""
        for partial in self._files(".state.partial"):
            remove_if_left(partial)
        states = self.states()
        total = kept = sum(state.nbytes for state in states)
        for state in states:
            if kept <= most_bytes:
                break
            state.path.unlink(missing_ok=True)
            kept -= state.nbytes
        return total - kept

    def _restore(self, engine: Engine, key: bytes, ids: list[int], held: int) -> int:
        """Restore the longest beginning of these ids that is stored; give its length, 0 where there is none of use."""
        for count, path in self._stored(key, ids):
            if count < held + LEAST_TOKENS:
                break
            with self._telling(path, state=path), contextlib.suppress(FileNotFoundError):
                memory = read_state(path, key, ids[:count])
                if engine.restore(ids[:count], memory):
                    with contextlib.suppress(OSError):
                        os.utime(path)
                    return count
                self.warn(f"{path.name}: libllama does not take it now; the text is read anew")
        return 0

    def _stored(self, key: bytes, ids: list[int]) -> list[tuple[int, Path]]:
        """Find the states made under this key that hold a beginning of these ids, the longest first."""
        found = []
        with self._telling(self.folder):
            for path in self._files(".state", _name(key) + "-"):
                with self._telling(path, state=path), contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    if path.lstat().st_size > self.most_bytes:
                        self.warn(f"{path.name}: larger than all states may be; the text is read anew")
                    elif count := matching(path, key, ids):
                        found.append((count, path))
        return sorted(found, reverse=True)

    def _save(self, engine: Engine, key: bytes, ids: list[int]) -> int:
        """Keep the memory of these ids, which were just read; give how many are kept."""
        path = self.folder / f"{_name(key)}-{_name(np.asarray(ids, '<i4').tobytes())}.state"
        with self._telling(self.folder):
            memory = engine.saved(ids)
            if memory is None or not memory.nbytes:
                return 0
            nbytes = file_nbytes(key, ids, memory)
            if nbytes > self.most_bytes:
                self.warn(f"{self.folder}: a state of {nbytes:,} bytes is more than all may take; it is not kept")
                return 0
            self.folder.mkdir(0o700, parents=True, exist_ok=True)
            self.clear(self.most_bytes - nbytes)
            return len(ids) if write_state(path, key, ids, memory) else 0
        return 0

    def _files(self, end: str, start: str = "") -> list[Path]:
        with contextlib.suppress(FileNotFoundError):  # no state was ever saved
            return sorted(
                path for path in self.folder.iterdir() if path.name.startswith(start) and path.name.endswith(end)
            )
        return []

    @contextlib.contextmanager
    def _telling(self, place: Path, state: Path | None = None) -> Iterator[None]:
        """Turn trouble into a warning, and remove the state it is with where that is surely ours and broken."""
        try:
            yield
        except AmaliaError as problem:
            self.warn(str(problem))
            if state and isinstance(problem, ModelCorrupt):
                with contextlib.suppress(OSError):
                    state.unlink()
        except (OSError, MemoryError) as problem:
            found = getattr(problem, "strerror", None) or "not enough memory"
            self.warn(f"{place}: {found}; the text is read anew at each start")


def common_prefix(conversation: Callable[[Sequence[Message]], list[int]], messages: Sequence[Message]) -> list[int]:
    """Give the ids a conversation begins with, whatever the user will say after these messages."""
    asked = [conversation([*messages, {"role": "user", "content": text}]) for text in PROBES]
    alike = itertools.takewhile(lambda ids: len(set(ids)) == 1, zip(*asked, strict=False))
    return [ids[0] for ids in alike]


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
