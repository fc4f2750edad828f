"""The machine a figure belongs to: no rate is shown without it."""

import ctypes
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amalia_edge import machine as edge_machine
from amalia_edge import native
from amalia_edge.build import installed_build
from amalia_edge.decision import VERSION

GPU_SHARE = 0.9  # of its memory: the rest is the driver's and the display's
WORTH_ASKING = ("uname", "nproc", "python3", "sysctl", "nvidia-smi", "nvpmodel", "vm_stat", "sw_vers")


@dataclass(frozen=True)
class Library:
    """The libllama that was measured: what is compiled in, and the devices it found."""

    version: str
    features: tuple[str, ...]
    devices: tuple[str, ...]
    backends: tuple[str, ...]
    compiler: str  # empty if somebody else than `amalia setup` built it
    flags: tuple[str, ...] = ()  # for the compiler and CMake, where we built it
    ggml: str = ""  # its version; the sources from the package index name no commit


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
    devices, build = native.devices(), installed_build() or {}
    return Library(
        version=f"llama-cpp-python {VERSION}",
        features=native.features(),
        devices=tuple(f"{device.name} ({device.description})" for device in devices),
        backends=tuple(dict.fromkeys(device.name.rstrip("0123456789") for device in devices)),
        compiler=str(build.get("compiler", "")),
        flags=tuple(map(str, build.get("flags", ()))),
        ggml=_ggml_version(),
    )


def _ggml_version() -> str:
    """Ask ggml itself; one that has no such function stays unnamed."""
    told = getattr(native.library()._lib, "ggml_version", None)
    if told is None:
        return ""
    told.restype = ctypes.c_char_p
    return (told() or b"").decode("ascii", "replace")


def room(machine: Machine, gpu_layers: int, root: Path = Path("/"), ask: edge_machine.Ask | None = None) -> int:
    """Give the bytes models may take together: of the machine's memory, and of its GPUs' where layers go there."""
    if not (machine.gpus and gpu_layers):
        return machine.available
    told = [gpu.memory.partition(" MiB") for gpu in edge_machine.look(root, ask or edge_machine.answers(root)).gpus]
    totals = [int(number) << 20 for number, unit, _ in told if unit and number.isdecimal()]  # what is shared tells none
    return min(machine.available, int(GPU_SHARE * sum(totals))) if totals else machine.available


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
