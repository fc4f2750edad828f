"""Machines that are not at hand, as far as a prediction needs them: bandwidth, memory, cores."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amalia_edge.errors import UsageError
from amalia_edge.host import Host
from amalia_edge.native import BackendDevice

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEVICES = Path(__file__).parent / "devices.toml"
FREE = 0.85  # of a machine's memory, where nothing else is known
CPU_FEATURES = ("REPACK", "DOTPROD", "NEON")  # what a build by `amalia setup` has on a small ARM machine


@dataclass(frozen=True)
class Target:
    """A machine to predict for."""

    name: str
    gbps: float  # nominal, 10⁹ bytes/s
    memory: float = 0.0  # 10⁹ bytes; 0: not known, and nothing is said of what fits
    free: float = 0.0
    cores: int = 4
    gpu: bool = False
    title: str = ""
    source: str = "given with --bandwidth"

    @property
    def host(self) -> Host | None:
        """Give the machine as a plan sees it."""
        if not self.memory:
            return None
        total, free = int(self.memory * 1e9), int(self.free * 1e9)
        gpus = (BackendDevice("CUDA0", self.title, "integrated-gpu", total, free),) if self.gpu else ()
        return Host(
            total, free, self.cores, CPU_FEATURES, gpus, shared=self.gpu, jetson=self.gpu, headless=True, name=self.name
        )


def target_names() -> list[str]:
    return list(_table())


def find_target(name: str, gbps: float | None = None, memory: float | None = None) -> Target:
    """Find a machine in the table; what is given counts instead, and makes one that is not there."""
    for what, value in (("--bandwidth", gbps), ("--memory", memory)):
        if value is not None and not 0 < value < 1e6:
            raise UsageError(what, f"{value}", "give GB/s or GB, above zero")
    known = _table().get(name)
    if known is None and gbps is None:
        raise UsageError(
            f"--device {name}",
            "not a machine we know the bandwidth of",
            f"give --bandwidth GB/s, or one of {', '.join(target_names())}",
        )
    found = Target(name, **known) if known else Target(name, gbps or 0.0)
    if gbps is not None:
        found = replace(found, gbps=gbps, source="given with --bandwidth")
    if memory is not None:
        share = found.free / found.memory if found.memory else FREE
        found = replace(found, memory=memory, free=memory * share)
    return found


def _table() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = tomllib.loads(DEVICES.read_text("utf-8"))
    return found
