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
from amalia_edge.hazards import hazards
from amalia_edge.machine import Machine
from amalia_edge.selftest import SelfTest, self_test


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
            "machine": f"{seen.cpu} ({seen.arch}), {seen.cores} cores, {seen.threads} threads, {seen.fast_cores} used",
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


def examine_recorded(seen: Machine) -> Diagnosis:
    """Say of a machine that is not at hand what can be said without its library."""
    library = Library("", (), {}, (), "not asked: this is a recorded machine")
    return Diagnosis(seen, library, None, tuple(hazards(seen, None, None)))


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
    """Count the physical cores that compute well and that this process may use: decoding gains nothing from others."""
    return machine.glance(root).fast_cores
