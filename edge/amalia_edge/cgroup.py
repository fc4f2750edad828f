"""What the groups this process is in allow it: processors and memory, in containers and under systemd."""

import re
from pathlib import Path

from amalia_edge.root_files import first_number, read


def group_limits(root: Path) -> tuple[float, int, int]:
    """Give the tightest CPU quota (in CPUs) and memory limit (bytes) over this process's groups, 0 for none.

    Then what is taken of that memory and cannot be had back: the pages of files can.
    """
    quotas: list[float] = []
    limits: list[tuple[int, int]] = []
    for group in _cgroups(root):
        quota, _, period = read(root, f"{group}/cpu.max").strip().partition(" ")  # "max 100000" or "150000 100000"
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
        limit = read(root, f"{group}/memory.max").strip()
        if limit.isdigit():
            limits.append((int(limit), _taken(root, f"{group}/memory.current", "")))
    # the first version's files, still met under older container engines
    quota, period = (read(root, f"sys/fs/cgroup/cpu/cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if quota.isdigit() and period.isdigit() and int(period):
        quotas.append(int(quota) / int(period))
    memory = "sys/fs/cgroup/memory/memory"
    limit = read(root, f"{memory}.limit_in_bytes").strip()
    if limit.isdigit() and int(limit) < 1 << 60:  # "no limit" is written as a huge number
        limits.append((int(limit), _taken(root, f"{memory}.usage_in_bytes", "total_")))
    tightest = min(limits, key=lambda pair: pair[0] - pair[1], default=(0, 0))
    return min(quotas, default=0.0), *tightest


def _taken(root: Path, usage: str, prefix: str) -> int:
    """Take the files' pages off what is used; the first version calls those of the groups below too `total_`."""
    stat = read(root, f"{usage.rpartition('/')[0]}/memory.stat")
    files = sum(map(int, re.findall(rf"(?m)^{prefix}(?:in)?active_file (\d+)$", stat)))
    return max(0, first_number(read(root, usage)) - files)


def _cgroups(root: Path) -> list[str]:
    own = re.search(r"(?m)^0::/(.*)$", read(root, "proc/self/cgroup"))
    parts = [part for part in (own.group(1) if own else "").split("/") if part not in ("", "..")]
    return ["/".join(["sys/fs/cgroup", *parts[:depth]]) for depth in range(len(parts) + 1)]
