"""The kernel's own word on what it was asked for: `hg` among the flags of a stretch of memory."""

import ctypes
import mmap
import sys
from pathlib import Path

from amalia_edge.large_pages import LEAST, prefer_large_pages
from amalia_edge.model import LoadConfig, Model
from models import HIDDEN, tiny_model

WIDE = 16 << 20  # bytes: what malloc would not take from what was given back before
THERE_ARE = sys.platform == "linux" and Path("/sys/kernel/mm/transparent_hugepage").exists()


def flags() -> list[tuple[range, list[str]]]:
    """Each stretch of this process's memory, and the kernel's flags for it."""
    found, stretch = [], range(0)
    for line in Path("/proc/self/smaps").read_text().splitlines() if THERE_ARE else ():
        first, *rest = line.split()
        if first == "VmFlags:":
            found.append((stretch, rest))
        elif "-" in first:
            stretch = range(*(int(side, 16) for side in first.split("-")))
    return found


def asked(least: int = 0) -> int:
    """Bytes of anonymous memory that large pages are wanted for, in stretches of at least so many."""
    return sum(len(stretch) for stretch, words in flags() if "hg" in words and len(stretch) >= least)


def test_large_memory_gets_large_pages_and_less_than_was_said_stays_as_it_is() -> None:
    with mmap.mmap(-1, 4 * LEAST, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        place = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert prefer_large_pages(least=1 << 60) == 0
        assert not any("hg" in words for stretch, words in flags() if place in stretch)
        assert prefer_large_pages() >= 4 * LEAST or not THERE_ARE
        assert all("hg" in words for stretch, words in flags() if place in stretch)


def test_weights_that_are_copied_get_them_unless_they_are_unwanted(tmp_path: Path) -> None:
    many = tuple(f"palavra{number}" for number in range(2 * WIDE // HIDDEN // 4))
    path = tiny_model(tmp_path / "wide.gguf", kind="F32", pieces=many)
    for large_pages in (False, True):
        before = asked(WIDE)
        with Model.open(path, LoadConfig(mapped=False, large_pages=large_pages, gpu_layers=0)):
            grown = asked(WIDE) - before
        assert (grown >= 2 * WIDE) is (large_pages and THERE_ARE)
