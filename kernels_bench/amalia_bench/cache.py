"""The machine's last-level caches: what fits into them tells nothing of the memory behind them."""

from pathlib import Path

from amalia_edge.root_files import read

UNKNOWN = 128 << 20  # bytes, where the system does not say (macOS): more than what its machines have
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def last_level_caches(root: Path = Path("/")) -> int:
    """Give the bytes of all caches of the highest level together."""
    sizes: dict[tuple[int, str], int] = {}  # by the level, and the processors that share the cache
    for folder in root.glob("sys/devices/system/cpu/cpu[0-9]*/cache/index[0-9]*"):
        level, size, kind, shared = (
            read(root, str(folder.relative_to(root) / name)).strip()
            for name in ("level", "size", "type", "shared_cpu_list")
        )
        if level.isdigit() and kind != "Instruction" and size[:-1].isdigit() and size[-1] in _UNITS:
            sizes[int(level), shared] = int(size[:-1]) * _UNITS[size[-1]]
    highest = max((level for level, _ in sizes), default=0)
    return sum(size for (level, _), size in sizes.items() if level == highest) or UNKNOWN
