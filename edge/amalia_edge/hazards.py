"""What could go wrong on this machine, each as a sentence that ends in what to do. Nothing is ever done for the user."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from amalia_edge.console import megabytes
from amalia_edge.machine import HEADLESS, Jetson, Machine
from amalia_edge.selftest import SelfTest

if TYPE_CHECKING:
    from amalia_edge.device import Library

LITTLE_MEMORY = 2_000_000_000  # bytes; less than this and only toys fit
UNSOUND_GCC = "gcc before 12.4, and 13.0 to 13.2"
ORIN = "tegra234"
ORIN_ARCHITECTURE = "87"  # of its GPU; code for 80 or 86 does not run on it
FASTEST = "MAXN"  # how the names of the modes without a power limit begin
SWAP = (
    "sudo fallocate -l 16G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile "
    "(on the NVMe disk; a line in /etc/fstab keeps it)"
)


def hazards(seen: Machine, library: "Library | None", tried: SelfTest | None) -> list[str]:
    """Turn what was seen into sentences that end in what to do; no library where it cannot be asked."""
    found = [*_of_the_library(seen, library, tried)] if library else []
    if 0 < seen.available < LITTLE_MEMORY:
        found.append(f"Only {megabytes(seen.available)} of memory are free: close programs, or choose a small model.")
    if seen.jetson is not None:
        found += _of_the_board(seen, seen.jetson)
        found += _of_the_board_s_build(seen.jetson, library) if library else []
    return found


def _of_the_library(seen: Machine, library: "Library", tried: SelfTest | None) -> Iterator[str]:
    if library.missing:
        yield f"llama-cpp-python: {library.missing}. Run: amalia setup"
    elif not library.build:
        yield "llama-cpp-python was not built by amalia setup, so its flags are unknown. Run: amalia setup --rebuild"
    if tried and not tried.ok:
        yield f"{tried}. Run: amalia setup --rebuild"
    if not library.missing and seen.amx and "AMX_INT8" not in library.features:
        yield "This CPU has AMX and the build does not use it: half the speed or less. Run: amalia setup --rebuild"
    if _built_by_unsound_gcc(library):
        yield f"Built with AMX by {UNSOUND_GCC}, which crashes at the first token. Run: amalia setup --rebuild"
    if not library.missing and _has_gpu(seen) and all(device.kind == "cpu" for device in library.devices):
        ready = seen.nvcc or seen.system == "Darwin"
        need = "amalia setup --rebuild" if ready else "install the CUDA toolkit, then amalia setup"
        yield f"There is a GPU and the build does not use it. Do: {need}"


def _of_the_board(seen: Machine, board: Jetson) -> Iterator[str]:
    """Say what takes a Jetson's memory and speed."""
    if board.l4t.startswith("38.") and board.soc == ORIN:
        yield f"L4T {board.l4t} does not support Orin. Flash JetPack 6 (L4T 36) or JetPack 7.2 (L4T 39.2)."
    if seen.zram:
        yield (
            f"zram keeps up to {megabytes(seen.zram)} of swap in the memory the model needs. "
            "Do: sudo systemctl disable --now nvzramconfig"
        )
        yield f"Without zram there is no swap. Make some on the disk: {SWAP}"
    if seen.desktop:
        yield f"The desktop takes about 1 GB of the memory the model needs. Do: {HEADLESS}"
    if board.power_mode and not board.power_mode.upper().startswith(FASTEST):
        yield _power(board)


def _power(board: Jetson) -> str:
    """Name the fastest mode as this board numbers it: numbers differ between boards."""
    fastest = [(number, name) for number, name in board.power_modes if name.upper().startswith(FASTEST)]
    if not fastest:
        return f"The board runs in power mode {board.power_mode}. List the modes with: sudo nvpmodel -p --verbose"
    number, name = fastest[-1]
    return (
        f"The board runs in power mode {board.power_mode}. For the most speed: sudo nvpmodel -m {number} ({name}); "
        "the lower modes give more tokens for each joule"
    )


def _of_the_board_s_build(board: Jetson, library: "Library") -> Iterator[str]:
    """Say what a CUDA build for Orin must have been given."""
    if library.missing or not any(device.name.startswith("CUDA") for device in library.devices):
        return
    said = " ".join([*map(str, library.build.get("flags", ())), *library.features])
    if not re.search(r"NO_VMM(?!=OFF)", said):
        yield "Built without GGML_CUDA_NO_VMM: allocations may fail although memory is free. Run: amalia setup --rebuild"
    if board.soc == ORIN and not re.search(rf"\b{ORIN_ARCHITECTURE}0?\b", said):
        yield (
            f"Built without CUDA architecture {ORIN_ARCHITECTURE}, the only one this GPU runs. Run: amalia setup --rebuild"
        )


def _has_gpu(seen: Machine) -> bool:
    return bool(seen.gpus) or seen.jetson is not None or (seen.system == "Darwin" and seen.arch == "arm64")


def _built_by_unsound_gcc(library: "Library") -> bool:
    compiler = str(library.build.get("compiler", "")).lower()
    kind, _, version = compiler.partition(" ")
    number = tuple(int(part) for part in version.split()[0].split(".") if part.isdigit()) if version else ()
    unsound = kind == "gcc" and (number < (12, 4) or (13, 0) <= number < (13, 3))
    return unsound and "AMX_INT8" in library.features
