"""What this machine is once libllama is there: its devices, what was built for it, and what could go wrong.

`machine.py` looks at files and commands, below one root so that a recorded machine answers too; here the library's own
view is added, and both are turned into advice.
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amalia_edge import machine, native
from amalia_edge.build import installed_build
from amalia_edge.console import megabytes
from amalia_edge.decision import VERSION
from amalia_edge.errors import LibraryMissing, UsageError
from amalia_edge.machine import Machine
from amalia_edge.selftest import SelfTest, self_test

LITTLE_MEMORY = 2_000_000_000  # bytes; less than this and only toys fit
UNSOUND_GCC = "gcc before 12.4, and 13.0 to 13.2"


@dataclass(frozen=True)
class Library:
    """The llama-cpp-python that is installed, or why there is none."""

    version: str
    features: tuple[str, ...]  # what libllama says is compiled in
    build: dict[str, Any]  # what amalia setup recorded; empty if somebody else built it
    devices: tuple[native.BackendDevice, ...]
    missing: str = ""


@dataclass(frozen=True)
class Diagnosis:
    machine: Machine
    library: Library
    self_test: SelfTest | None
    hazards: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def lines(self) -> dict[str, str]:
        """Lay it out for a person: a name and a line each."""
        seen, library = self.machine, self.library
        board = f"{seen.jetson.model}, L4T {seen.jetson.l4t}, mode {seen.jetson.power_mode}" if seen.jetson else ""
        flags = " ".join(map(str, library.build.get("flags", [])))
        shown = {
            "machine": f"{seen.cpu} ({seen.arch}), {seen.cores} cores, {seen.threads} threads",
            "board": board,
            "memory": f"{megabytes(seen.available)} free of {megabytes(seen.memory)}",
            "system": f"{seen.distribution}, {seen.libc}, Python {seen.python}",
            "graphics": ", ".join(f"{gpu.name} {gpu.memory}" for gpu in seen.gpus),
            "library": library.missing or f"llama-cpp-python {library.version}",
            "compiler": str(library.build.get("compiler", "")),
            "flags": flags,
            "kernels": " ".join(library.features),
            "devices": ", ".join(f"{device.name} ({device.description})" for device in library.devices),
            "self-test": _verdict(self.self_test),
        }
        return {name: line for name, line in shown.items() if line}


def _verdict(tried: SelfTest | None) -> str:
    if tried is None:
        return "not run"
    return f"passed in {tried.seconds:.1f} s" if tried.ok else str(tried)


def examine(root: Path = Path("/"), ask: machine.Ask | None = None) -> Diagnosis:
    """Look at the machine and at the library, try the library in a child, and say what could go wrong."""
    seen = machine.look(root, ask)
    tried: SelfTest | None = self_test()
    if tried and tried.signal:  # it would take this process down too
        library = Library("", (), dict(installed_build() or {}), (), f"its {tried.signal} took the self-test down")
    else:
        library = _library()
    if library.missing and tried and not tried.signal:
        tried = None
    return Diagnosis(seen, library, tried, tuple(hazards(seen, library, tried)))


def hazards(seen: Machine, library: Library, tried: SelfTest | None) -> list[str]:
    """Turn what was seen into sentences that end in what to do."""
    found = []
    if library.missing:
        found.append(f"llama-cpp-python: {library.missing}. Run: amalia setup")
    elif not library.build:
        found.append(
            "llama-cpp-python was not built by amalia setup, so its flags are unknown. Run: amalia setup --rebuild"
        )
    if tried and not tried.ok:
        found.append(f"{tried}. Run: amalia setup --rebuild")
    if not library.missing and seen.amx and "AMX_INT8" not in library.features:
        found.append(
            "This CPU has AMX and the build does not use it: half the speed or less. Run: amalia setup --rebuild"
        )
    if _built_by_unsound_gcc(library):
        found.append(f"Built with AMX by {UNSOUND_GCC}, which crashes at the first token. Run: amalia setup --rebuild")
    if not library.missing and _has_gpu(seen) and all(device.kind == "cpu" for device in library.devices):
        need = (
            "amalia setup --rebuild"
            if seen.nvcc or seen.system == "Darwin"
            else "install the CUDA toolkit, then amalia setup"
        )
        found.append(f"There is a GPU and the build does not use it. Do: {need}")
    if 0 < seen.available < LITTLE_MEMORY:
        found.append(f"Only {megabytes(seen.available)} of memory are free: close programs, or choose a small model.")
    return found + _jetson_hazards(seen)


def _jetson_hazards(seen: Machine) -> list[str]:
    if seen.jetson is None:
        return []
    mode = seen.jetson.power_mode
    if mode and "MAXN" not in mode.upper():
        return [f"The board runs in power mode {mode}. List the modes with: sudo nvpmodel -p --verbose"]
    return []


def _has_gpu(seen: Machine) -> bool:
    return bool(seen.gpus) or seen.jetson is not None or (seen.system == "Darwin" and seen.arch == "arm64")


def _built_by_unsound_gcc(library: Library) -> bool:
    compiler = str(library.build.get("compiler", "")).lower()
    kind, _, version = compiler.partition(" ")
    number = tuple(int(part) for part in version.split()[0].split(".") if part.isdigit()) if version else ()
    unsound = kind == "gcc" and (number < (12, 4) or (13, 0) <= number < (13, 3))
    return unsound and "AMX_INT8" in library.features


def _library() -> Library:
    try:
        features, devices = native.features(), tuple(native.devices())
    except LibraryMissing as missing:
        return Library("", (), {}, (), missing.found)
    return Library(VERSION, features, dict(installed_build() or {}), devices)


def record(file: Path) -> Path:
    """Write this machine's description as a recorded machine."""
    if not file.parent.is_dir():
        raise UsageError(str(file), "no such folder", "give a file in a folder that exists")
    try:
        return machine.record(Path("/"), file)
    except OSError as problem:
        raise UsageError(str(file), os.strerror(problem.errno or 0), "give a file that can be written") from None


def usable_cores(root: Path = Path("/")) -> int:
    """Count the physical cores this process may use: decoding gains nothing from hyper-threads."""
    quick = ("uname", "nproc", "sysctl")
    seen = machine.look(root, lambda words: machine.ask_here(words) if words[0] in quick else None)
    return max(1, min(seen.cores, seen.threads))
