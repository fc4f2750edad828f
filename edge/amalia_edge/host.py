"""What a plan may count on: memory, cores, kernels and GPUs, of this machine or of a recorded one."""

import re
from dataclasses import dataclass
from pathlib import Path

from amalia_edge import machine, native
from amalia_edge.machine import Machine
from amalia_edge.native import BackendDevice

RESERVE, LEAST_RESERVE, MOST_RESERVE = 0.08, 256 << 20, 2 << 30  # of all memory, left to the system and its caches
UNKNOWN = 1 << 62  # bytes: more than anything needs
GPU_RESERVE = 256 << 20  # of a GPU's own memory: what the driver and the display take meanwhile
MAC_GPU_SHARE = 0.75  # of a Mac's memory: what Metal recommends to use at most, on machines of 16 GB and more
# The kernel's names → ggml's, for machines that are recorded and cannot be asked
_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "amx_int8": "AMX_INT8",
    "asimd": "NEON",
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
}


@dataclass(frozen=True)
class Host:
    """A machine as a plan sees it."""

    total: int  # bytes of memory, or of what this process's group may have
    free: int  # of them, what could be had now
    cores: int  # physical ones that compute well and that this process may use
    features: tuple[str, ...] = ()  # the CPU kernels' instruction sets, in ggml's words
    gpus: tuple[BackendDevice, ...] = ()  # those libllama would use
    shared: bool = False  # the GPU's memory is the CPU's
    jetson: bool = False
    headless: bool = True
    nodes: int = 1  # of NUMA
    name: str = "this machine"

    @property
    def reserve(self) -> int:
        return int(min(max(self.total * RESERVE, LEAST_RESERVE), MOST_RESERVE))

    @property
    def budget(self) -> int:
        """Give the bytes of memory a model may take here; where the system tells of none, nothing is refused."""
        return max(0, self.free - self.reserve) if self.total else UNKNOWN

    @property
    def one_pool(self) -> bool:
        """Say whether the GPU may have as much of the shared memory as anybody."""
        return self.shared and all(self.gpu_budget(gpu) >= self.budget for gpu in self.gpus)

    @property
    def copies(self) -> bool:
        """Say whether the CPU's weights are put into another order: not beside a GPU whose driver shares buffers."""
        return all(gpu.name.startswith(("MTL", "Metal")) for gpu in self.gpus)

    @property
    def maps_gpu(self) -> bool:
        """Say whether the GPU reads the file's pages where they lie, as Metal does."""
        return bool(self.gpus) and self.copies

    def gpu_budget(self, gpu: BackendDevice) -> int:
        """Give the bytes of a GPU's memory a model may take; what is shared is bounded by the machine's budget too."""
        free = gpu.memory_free or self.free
        return free if self.shared else max(0, free - GPU_RESERVE)


def this_host(root: Path = Path("/")) -> Host:
    """Look at this machine as quickly as a start can bear: files, and what libllama knows; on Linux nothing is run."""
    seen = machine.glance(root)
    gpus = _used(tuple(native.devices()))
    shared = seen.jetson is not None or any(_is_shared(gpu) for gpu in gpus)
    return Host(
        total=seen.memory,
        free=seen.available,
        cores=seen.fast_cores,
        features=native.features(),
        gpus=gpus,
        shared=bool(gpus) and shared,
        jetson=seen.jetson is not None,
        headless=not seen.desktop,
        nodes=seen.nodes,
    )


def recorded_host(seen: Machine, name: str) -> Host:
    """Say what libllama would find on a machine that is not at hand, built there by `amalia setup`."""
    features = tuple(ours for theirs, ours in _FEATURES.items() if seen.has(theirs))
    shared = seen.jetson is not None or seen.system == "Darwin"
    return Host(
        total=seen.memory,
        free=seen.available,
        cores=seen.fast_cores,
        features=(*features, "REPACK"),
        gpus=tuple(_expected(seen)),
        shared=shared,
        jetson=seen.jetson is not None,
        headless=not seen.desktop,
        nodes=seen.nodes,
        name=name,
    )


def _used(devices: tuple[BackendDevice, ...]) -> tuple[BackendDevice, ...]:
    """Keep what libllama would use: every GPU of its own memory, else the first one that shares the CPU's."""
    own = tuple(device for device in devices if device.kind == "gpu")
    return own or tuple(device for device in devices if device.kind == "integrated-gpu")[:1]


def _is_shared(gpu: BackendDevice) -> bool:
    return gpu.kind == "integrated-gpu" or gpu.name.startswith(("MTL", "Metal"))


def _expected(seen: Machine) -> list[BackendDevice]:
    if seen.jetson is not None:
        return [BackendDevice("CUDA0", seen.jetson.model, "integrated-gpu", seen.memory, seen.available)]
    if seen.system == "Darwin" and seen.arch == "arm64":
        share = int(seen.memory * MAC_GPU_SHARE)
        return [BackendDevice("MTL0", seen.cpu, "gpu", share, min(share, seen.available))]
    found = []
    for index, gpu in enumerate(seen.gpus):
        told = re.match(r"(\d+) MiB", gpu.memory)  # "[N/A]" where memory is shared
        if told and seen.nvcc:  # without CUDA's compiler the build has no kernels for it
            total = int(told.group(1)) << 20
            found.append(BackendDevice(f"CUDA{index}", gpu.name, "gpu", total, total))
    return found
