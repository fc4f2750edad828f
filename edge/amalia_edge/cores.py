"""Which processors a process may use, and which are worth using: a core once, and no slow ones beside fast ones."""

import re
from pathlib import Path

from amalia_edge.root_files import pairs, read

_CPUS = "sys/devices/system/cpu"
SLOW = 0.75  # of the fastest core's speed: what is slower holds up those that wait for it


def all_cores(root: Path, cpuinfo: str) -> int:
    """Count physical cores; where the kernel shows no topology, as in many containers, count processors."""
    return len(set(_places(root).values())) or len(re.findall(r"(?m)^processor\s*:", cpuinfo)) or 1


def fast_cores(root: Path) -> int:
    """Count the physical cores that this process may use and that are no slower kind; 0 where the kernel shows none."""
    allowed, places = allowed_processors(root), _places(root)
    usable = numbers(allowed) or set(places)
    fast = numbers(read(root, "sys/devices/cpu_core/cpus")) or _fastest(root / _CPUS) or set(places)
    return len({place for cpu, place in places.items() if cpu in fast & usable})


def allowed_processors(root: Path) -> str:
    return pairs(read(root, "proc/self/status")).get("Cpus_allowed_list", "")


def _places(root: Path) -> dict[int, tuple[str, str]]:
    """Give each processor's package and core: two hyper-threads share them."""
    return {
        int(path.parent.parent.name[3:]): (_text(path.with_name("physical_package_id")), _text(path))
        for path in (root / _CPUS).glob("cpu[0-9]*/topology/core_id")
    }


def _fastest(cpus: Path) -> set[int]:
    """Name the processors that are about as fast as the fastest, by what the kernel says of each."""
    for name in ("cpu_capacity", "cpufreq/cpuinfo_max_freq"):
        told = {int(path.relative_to(cpus).parts[0][3:]): _text(path) for path in cpus.glob(f"cpu[0-9]*/{name}")}
        speeds = {cpu: int(speed) for cpu, speed in told.items() if speed.isdigit()}
        if speeds:
            return {cpu for cpu, speed in speeds.items() if speed >= SLOW * max(speeds.values())}
    return set()


def numbers(ranges: str) -> set[int]:
    """Read the kernel's lists: "0-3,8" is 0, 1, 2, 3 and 8."""
    found = re.findall(r"(\d+)(?:-(\d+))?", ranges)
    return {number for first, last in found for number in range(int(first), int(last or first) + 1)}


def _text(path: Path) -> str:
    return read(path.parent, path.name).strip()
