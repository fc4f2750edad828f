"""Memory read bandwidth."""

import ctypes
import shutil
import signal
import subprocess
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from amalia_bench import bandwidth
from amalia_bench.bandwidth import Readers, buffer_size, measure_bandwidth, typical
from amalia_bench.cache import last_level_caches
from amalia_edge.errors import BenchError

NBYTES = 48 << 20
LOOP = """
#include <stddef.h>
#include <stdint.h>
uint64_t read_words(const uint64_t *words, size_t count) {
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++) sum += words[i];
    return sum;
}
"""


def machine(root: Path, available: int, cache: str) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: {available // 1024} kB\nMemAvailable: {available // 1024} kB\n")
    folder = root / "sys/devices/system/cpu/cpu0/cache/index3"
    folder.mkdir(parents=True)
    for name, text in {"level": "3", "size": cache, "shared_cpu_list": "0", "type": "Unified"}.items():
        (folder / name).write_text(text)
    return root


def test_the_buffer_is_many_times_the_caches(tmp_path: Path) -> None:
    assert buffer_size(machine(tmp_path, 64 << 30, "491520K")) == 8 * 491520 * 1024


def test_small_caches_are_no_reason_for_a_small_buffer(tmp_path: Path) -> None:
    assert buffer_size(machine(tmp_path, 64 << 30, "4M")) == 1 << 30


def test_the_buffer_takes_at_most_a_quarter_of_what_is_available(tmp_path: Path) -> None:
    assert buffer_size(machine(tmp_path, 2 << 30, "491520K")) == 512 << 20


def test_too_little_memory_is_said_and_not_measured(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="100 MiB of memory available; free 256 MiB"):
        buffer_size(machine(tmp_path, 100 << 20, "4M"))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_byte_is_read_in_every_pass(threads: int) -> None:
    with Readers(1 << 20, threads) as readers:
        rng = np.random.default_rng(1)
        readers._parts[:] = rng.integers(0, 1 << 63, readers._parts.shape, np.uint64)
        once = np.bitwise_xor.reduce(readers._parts, axis=1)
        readers.read()
        assert (readers.folded == once).all()
        readers.read(2)  # two more passes cancel each other
        assert (readers.folded == once).all()
        readers.read(1)
        assert (readers.folded == 0).all()


def test_what_is_not_a_whole_number_of_words_is_left_out() -> None:
    with Readers(1000, 3) as readers:
        assert readers.nbytes == 984
        assert len(readers._parts) == 3


def test_no_thread_measures_nothing() -> None:
    with pytest.raises(BenchError, match="0 threads; give at least one"):
        Readers(NBYTES, 0)


def test_the_slower_half_of_the_samples_is_left_out() -> None:
    assert typical([10.0, 1.0, 12.0, 2.0, 11.0]) == 11.0
    assert typical([5.0]) == 5.0


def test_it_agrees_with_its_own_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "buffer_size", lambda: NBYTES)
    found = measure_bandwidth(1, seconds=0.1)
    assert found.threads == 1
    assert found.nbytes == NBYTES
    assert len(found.samples_gbps) >= 5
    assert min(found.samples_gbps) <= found.read_gbps <= max(found.samples_gbps)


@pytest.fixture
def _ctrl_c() -> Iterator[None]:
    """Ctrl-C as at a terminal: what runs in the background is deaf to it from its start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
def test_an_interruption_waits_for_those_who_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with Readers(1 << 20, 2) as readers:
        both, read = threading.Barrier(2), []

        def fold(index: int, times: int) -> None:
            part = readers._parts[index]
            if both.wait() == 0:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.1)
            read.append(int(part[0]) + times)

        monkeypatch.setattr(readers, "_fold", fold)
        with pytest.raises(KeyboardInterrupt):
            readers.read()
        assert len(read) == 2


def test_the_buffer_goes_with_its_readers() -> None:
    with Readers(1 << 20, 2) as readers:
        readers.read()
        pages = weakref.ref(readers._pages)
    assert pages() is None


def test_a_plain_c_loop_reads_the_same_memory_about_as_fast(tmp_path: Path) -> None:
    """The best of six turns each: what a neighbour takes is in neither. checks/bandwidth_against_c.py asks for 10 %."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler")
    source, built = tmp_path / "read.c", tmp_path / "read.so"
    source.write_text(LOOP)
    words = [compiler, "-O3", "-march=native", "-shared", "-fPIC", "-o", built, source]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("the C compiler cannot build a library for this processor")
    loop = ctypes.CDLL(str(built)).read_words
    loop.argtypes, loop.restype = (ctypes.c_void_p, ctypes.c_size_t), ctypes.c_uint64
    ours, theirs = [], []
    with Readers(min(max(256 << 20, 3 * last_level_caches()), buffer_size()), 1) as readers:
        for _ in range(6):
            ours.append(readers.read())
            start = time.perf_counter()
            loop(readers._parts.ctypes.data, readers.nbytes // 8)
            theirs.append(time.perf_counter() - start)
    assert 0.8 < min(theirs) / min(ours) < 1.25
