"""Memory read bandwidth: how many bytes a second the cores can read, the limit every token's time is held against.

Each thread folds its own part of one large buffer into a single number (exclusive or, 64 bits at a time), which numpy does
without Python's lock and far faster than memory delivers. The buffer is many times the caches, and lies in large pages
where the system gives them, as weights do: in small ones a fifth less was read.
"""

import mmap
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amalia_bench.cache import last_level_caches
from amalia_edge import machine as edge_machine
from amalia_edge.errors import BenchError
from amalia_edge.large_pages import prefer_large_pages

CACHES = 8  # times the last-level caches: what is left in them of the pass before counts for little
LEAST, SMALLEST = 1 << 30, 64 << 20  # bytes: wanted however small the caches are, and what there must be
SHARE = 4  # at most one part in so many of the memory that is available
SAMPLE_S = 0.05  # a sample lasts at least so long, that starting threads counts for nothing
SAMPLES = 5  # at least

Part = NDArray[np.uint64]


@dataclass(frozen=True)
class Bandwidth:
    """The median of the faster half of the samples: what a neighbour took meanwhile is not the machine's limit."""

    threads: int
    read_gbps: float  # 10⁹ bytes a second
    samples_gbps: tuple[float, ...]
    nbytes: int = 0  # of the buffer


def measure_bandwidth(threads: int, seconds: float = 1.0) -> Bandwidth:
    """Measure for about `seconds`, after the buffer was made and read once."""
    nbytes = buffer_size()
    with Readers(nbytes, threads) as readers:
        times = max(1, round(SAMPLE_S / readers.read()))
        samples: list[float] = []
        end = time.monotonic() + seconds
        while len(samples) < SAMPLES or time.monotonic() < end:
            samples.append(times * readers.nbytes / readers.read(times) / 1e9)
        return Bandwidth(threads, typical(samples), tuple(samples), readers.nbytes)


def buffer_size(root: Path = Path("/")) -> int:
    """Choose how much to read: many times the caches, and a share of the memory that is available."""
    available = edge_machine.glance(root).available
    nbytes = min(max(LEAST, CACHES * last_level_caches(root)), available // SHARE)
    if nbytes < SMALLEST:
        found, wanted = f"{available >> 20} MiB of memory available", SMALLEST * SHARE >> 20
        raise BenchError("memory bandwidth", found, f"free {wanted} MiB: close programs")
    return nbytes


def typical(samples: Sequence[float]) -> float:
    """Give the median of the faster half."""
    return statistics.median(sorted(samples)[len(samples) // 2 :])


class Readers:
    """A buffer and the threads that read it, each its own part, which it also wrote first: so it lies near to it."""

    def __init__(self, nbytes: int, threads: int) -> None:
        if threads < 1:
            raise BenchError("memory bandwidth", f"{threads} threads", "give at least one")
        words = nbytes // 8 // threads
        self.nbytes = words * 8 * threads
        self._pages = mmap.mmap(-1, self.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON)
        prefer_large_pages(self.nbytes)
        self._parts = np.frombuffer(self._pages, np.uint64).reshape(threads, words)
        self.folded = np.zeros(threads, np.uint64)  # what each part came to: nothing that was read may be left out

    def __enter__(self) -> "Readers":
        self._together(self._write)
        return self

    def __exit__(self, *_: object) -> None:
        del self._parts, self._pages  # not closed: after a second Ctrl-C a thread may still be reading

    def read(self, times: int = 1) -> float:
        """Read the whole buffer `times` times, and give the seconds this took."""
        return self._together(lambda index: self._fold(index, times))

    def _write(self, index: int) -> None:
        self._parts[index].fill(index + 1)  # pages that nobody wrote to are all the same page of zeros
        self._parts[index, 0] = index + 8

    def _fold(self, index: int, times: int) -> None:
        for _ in range(times):
            self.folded[index] ^= np.bitwise_xor.reduce(self._parts[index])

    def _together(self, work: Callable[[int], None]) -> float:
        with ThreadPoolExecutor(len(self._parts)) as pool:  # waits for its threads, after Ctrl-C too
            start = time.perf_counter()
            for _ in pool.map(work, range(len(self._parts))):
                pass
            return time.perf_counter() - start
