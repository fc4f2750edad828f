"""The machine a figure belongs to: no rate is shown without it."""

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amalia_edge import machine as edge_machine
from amalia_edge import native
from amalia_edge.build import installed_build
from amalia_edge.decision import VERSION

WORTH_ASKING = ("uname", "nproc", "python3", "sysctl", "nvidia-smi", "nvpmodel", "vm_stat", "sw_vers")


@dataclass(frozen=True)
class Library:
    """The libllama that was measured: what is compiled in, and the devices it found."""

    version: str
    features: tuple[str, ...]
    devices: tuple[str, ...]
    backends: tuple[str, ...]
    compiler: str  # empty if somebody else than `amalia setup` built it


@dataclass(frozen=True)
class Machine:
    cpu: str
    arch: str
    cores: int  # physical
    threads: int  # logical, that this process may use
    memory: int  # bytes
    available: int  # bytes
    system: str
    python: str
    gpus: tuple[str, ...]
    board: str  # a Jetson's model, L4T release and power mode


def this_machine(root: Path = Path("/"), ask: edge_machine.Ask | None = None) -> Machine:
    """Describe the machine below `root`, without asking what a measurement does not depend on."""
    answers = ask or edge_machine.answers(root)

    def quick(words: Sequence[str]) -> str | None:
        return answers(words) if words[0] in WORTH_ASKING else None

    seen = edge_machine.look(root, quick)
    board = seen.jetson
    return Machine(
        cpu=seen.cpu or seen.arch,
        arch=seen.arch,
        cores=seen.cores,
        threads=seen.threads,
        memory=seen.memory,
        available=seen.available,
        system=seen.distribution or seen.system,
        python=seen.python,
        gpus=tuple(gpu.name for gpu in seen.gpus),
        board=f"{board.model}, L4T {board.l4t}, mode {board.power_mode}" if board else "",
    )


def loaded_library() -> Library:
    """Describe the libllama of this process."""
    devices = native.devices()
    return Library(
        version=f"llama-cpp-python {VERSION}",
        features=native.features(),
        devices=tuple(f"{device.name} ({device.description})" for device in devices),
        backends=tuple(dict.fromkeys(device.name.rstrip("0123456789") for device in devices)),
        compiler=str((installed_build() or {}).get("compiler", "")),
    )


def peak_memory(status: Path = Path("/proc/self/status")) -> int:
    """Give the most bytes of memory this process has held so far."""
    try:
        lines = status.read_text("ascii", "replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("VmHWM:"):  # unlike ru_maxrss it starts anew when a process is started
            return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
