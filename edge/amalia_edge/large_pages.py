"""Large pages behind the weights: with small ones a processor spends a good part of its reading on looking addresses up.

libllama takes its memory from malloc, which asks for none. The system is asked before the memory is touched for the first
time: from then on it needs no copying, and fewer faults.
"""

import ctypes
import mmap
import re
from pathlib import Path

LEAST = 2 << 20  # bytes of a stretch of memory: one large page
_STRETCH = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p 00000000 00:00 0\s*", re.ASCII)


def prefer_large_pages(least: int = LEAST) -> int:
    """Ask for large pages behind this process's large anonymous memory, from its next touch on; give the bytes asked for.

    What is in use already stays as it is, unless the system finds time to move it. Nothing comes of it where the system
    has no such pages (not Linux, a kernel without them) or its administrator said never.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None:
        return 0
    try:
        maps = Path("/proc/self/maps").read_text("ascii", "replace")
    except OSError:
        return 0
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    asked = 0
    for line in maps.splitlines():
        if stretch := _STRETCH.fullmatch(line):
            start, end = (int(side, 16) for side in stretch.groups())
            if end - start >= least and madvise(start, end - start, advice) == 0:
                asked += end - start
    return asked
