"""How llama-cpp-python is to be built on a machine: compiler, backend and flags, with the reasons as sentences.

Standard library only; nothing here runs anything, so every branch is tested from recorded machines.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amalia_edge.errors import LibraryMissing, UsageError
from amalia_edge.machine import Ask, Compiler, Machine, ask_here, identify

VERSION = "0.3.36"  # of llama-cpp-python: the bindings' structs are checked against this one, in this one place
SOURCE_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
ZIG, CMAKE, NINJA = "ziglang==0.17.0", "cmake==4.4.4", "ninja==1.13.2"
SOURCE_BACKEND = "scikit-build-core==1.1.2"  # pip asks it for the source's metadata; it builds nothing here
NEEDS = {
    "diskcache": "diskcache>=5.6.1",
    "jinja2": "jinja2>=2.11.3",
    "numpy": "numpy>=1.20",
    "typing_extensions": "typing-extensions>=4.5",
}
QUANTS = Path(__file__).with_name("quants.c")  # compiled into the wheel: our share of the quantizers
RECIPE = 1  # raised when the same decision gives another wheel, so that old ones in the cache are passed over
FORMAT = 1  # of build.json in the wheel
OLDEST_GLIBC = "2.28"  # of portable wheels: Debian 10, Ubuntu 20.04, JetPack 5
_JOB_BYTES = {"cpu": 1.2e9, "metal": 1.2e9, "cuda": 2.5e9}  # what one compiler may take


@dataclass(frozen=True)
class Wish:
    """What a person may ask for; the defaults let the machine decide."""

    compiler: str = ""  # "zig", "gcc", "clang", or a path
    portable: bool = False
    gpu: bool = True
    safe: bool = False  # no instruction set beyond AVX2, or plain Armv8
    jobs: int = 0
    wheelhouse: Path | None = None
    rebuild: bool = False
    constraint: Path | None = None


@dataclass(frozen=True)
class Build:
    """A decision: everything the build depends on, and why."""

    compiler: Compiler  # kind "zig" comes from the package index and has no path yet
    backend: str  # "cpu", "cuda", "metal"
    defines: tuple[tuple[str, str], ...]
    flags: tuple[str, ...]  # for C and C++ alike
    target: str = ""  # zig's name of the system built for
    env: tuple[tuple[str, str], ...] = ()
    portable: bool = False
    jobs: int = 1
    platform: str = ""  # the wheel's tag
    made_for: tuple[str, ...] = ()  # what else the result depends on: CPU, C library, nvcc
    reasons: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Name the result: two builds of one key are interchangeable."""
        parts = [RECIPE, VERSION, self.compiler.kind, self.compiler.version, self.backend, self.defines, self.flags]
        parts += [self.target, self.platform, self.made_for, CMAKE, hashlib.sha256(QUANTS.read_bytes()).hexdigest()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @property
    def wheel(self) -> str:
        """Give the wheel's file name; the key is its build tag, which must begin with a digit."""
        return f"llama_cpp_python-{VERSION}-1amalia{self.key}-py3-none-{self.platform}.whl"

    def describe(self) -> dict[str, Any]:
        """Give what build.json says inside the wheel."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "key": self.key,
            "backend": self.backend,
            "compiler": f"{self.compiler.kind} {self.compiler.version}",
            "flags": [
                *self.flags,
                *(["-target", self.target] if self.target else []),
                *(f"-D{k}={v}" for k, v in self.defines),
            ],
            "portable": self.portable,
            "reasons": list(self.reasons),
        }


def decide(machine: Machine, wish: Wish = Wish(), ask: Ask = ask_here) -> Build:
    """Choose compiler, backend and flags for a machine; refuse, with what would do, where nothing can be built."""
    _refuse(machine)
    if machine.system == "Darwin":
        return _for_mac(machine, wish)
    reasons = [
        f"{machine.cpu}, {_plural(machine.cores, 'core')}: {', '.join(machine.kernels) or 'no special kernels'}."
    ]
    hints: list[str] = []
    backend, gpu_defines, env = _gpu(machine, wish, reasons, hints)
    compiler = _compiler(machine, wish, backend, ask, reasons)
    flags, defines, target = _processor(machine, wish, compiler, reasons, hints)
    reasons.append("-ffp-contract=off: quantized bytes are then the same whatever compiler made the library.")
    jobs, why = _jobs(machine, wish, backend)
    reasons.append(why)
    native = not wish.portable
    return Build(
        compiler=compiler,
        backend=backend,
        defines=(*_COMMON, *gpu_defines, *defines),
        flags=("-ffp-contract=off", *flags),
        target=target,
        env=env,
        portable=wish.portable,
        jobs=jobs,
        platform=f"{'linux' if native else 'manylinux_' + OLDEST_GLIBC.replace('.', '_')}_{machine.arch}",
        made_for=_identity(machine, backend, "" if compiler.kind == "zig" else machine.libc) if native else (),
        reasons=tuple(reasons),
        hints=tuple(hints),
    )


_COMMON = (
    ("GGML_RPC", "OFF"),  # an insecure network service nobody here uses
    ("GGML_OPENMP", "OFF"),  # the engine brings its own thread pool, the same one with every compiler
    ("GGML_CCACHE", "OFF"),
)


def _refuse(machine: Machine) -> None:
    if machine.system == "Windows":
        raise LibraryMissing(
            "Windows", "setup does not build for Windows itself", "install WSL2 (wsl --install) and run it there"
        )
    if machine.system not in ("Linux", "Darwin"):
        raise LibraryMissing(machine.system or "this system", "setup knows Linux, macOS and WSL2", "use one of these")
    if machine.arch not in ("x86_64", "aarch64", "arm64"):
        raise LibraryMissing(machine.arch or "this CPU", "setup knows 64-bit x86 and Arm", "use a 64-bit system")
    if machine.jetson and machine.jetson.l4t.startswith("38."):
        raise LibraryMissing(
            machine.jetson.model, f"L4T {machine.jetson.l4t} does not support Orin", "install JetPack 6 or 7.2"
        )


def _for_mac(machine: Machine, wish: Wish) -> Build:
    if wish.compiler not in ("", "clang"):
        raise UsageError(
            "--compiler", f"{wish.compiler} cannot build Metal", "leave it out: Apple's clang is used on a Mac"
        )
    clang = machine.compiler("apple-clang")
    if clang is None:
        raise LibraryMissing(
            "this Mac", "Apple's compiler is not installed", "run xcode-select --install, then setup again"
        )
    if machine.arch == "x86_64" and machine.has("asimd"):
        raise LibraryMissing(
            "this Mac", "this Python runs under Rosetta", "use a Python made for arm64, then setup again"
        )
    metal = wish.gpu and machine.arch == "arm64"
    native = not (wish.portable or wish.safe)
    jobs, why = _jobs(machine, wish, "metal")
    return Build(
        compiler=clang,
        backend="metal" if metal else "cpu",
        defines=(
            *_COMMON,
            ("GGML_METAL", "ON" if metal else "OFF"),
            ("GGML_METAL_EMBED_LIBRARY", "ON" if metal else "OFF"),
            ("GGML_NATIVE", "ON" if native else "OFF"),
            ("CMAKE_OSX_ARCHITECTURES", machine.arch),
            *([] if native else [("CMAKE_OSX_DEPLOYMENT_TARGET", "13.3")]),
        ),
        flags=("-ffp-contract=off",),
        portable=wish.portable,
        jobs=jobs,
        platform=f"macosx_{'11' if native else '13'}_0_{machine.arch}",
        made_for=_identity(machine, "metal", machine.distribution) if native else (),
        reasons=(
            f"{machine.cpu}, {_plural(machine.cores, 'core')}, {machine.distribution}.",
            f"Metal with Apple's clang {clang.version}." if metal else "CPU only, with Apple's clang.",
            "-ffp-contract=off: quantized bytes are then the same whatever compiler made the library.",
            why,
        ),
    )


def _gpu(
    machine: Machine, wish: Wish, reasons: list[str], hints: list[str]
) -> tuple[str, tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """Choose CUDA only where a GPU and a compiler for it are both there; where one is missing, say what to install."""
    none: tuple[str, tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = ("cpu", (), ())
    board = machine.jetson
    if board:
        known = f"JetPack {board.jetpack}" if board.jetpack else "an unknown JetPack"
        reasons.append(
            f"{board.model}: {known}, L4T {board.l4t or 'unknown'}, power mode {board.power_mode or 'unknown'}."
        )
    capabilities = (
        ["8.7"] if board else sorted({gpu.capability for gpu in machine.gpus if gpu.capability}, key=_as_number)
    )
    names = board.model if board else " and ".join(dict.fromkeys(gpu.name for gpu in machine.gpus))
    if not names:
        if machine.nvcc:
            hints.append(
                f"nvcc {machine.nvcc.version} is here, but no NVIDIA GPU answers: install its driver, if there is one."
            )
        return none
    if not wish.gpu or wish.portable or wish.compiler == "zig":
        reason = (
            "CPU only was asked for"
            if not wish.gpu
            else "a portable build"
            if wish.portable
            else "zig cannot be nvcc's host compiler"
        )
        reasons.append(f"{names} is left out: {reason}.")
        return none
    if board and board.soc not in ("", "tegra234"):
        hints.append(f"{board.model} ({board.soc}) is not an Orin: the CPU is used.")
        return none
    if machine.nvcc is None:
        package = (
            "sudo apt install nvidia-jetpack"
            if board
            else "the CUDA toolkit (on Debian and Ubuntu: sudo apt install nvidia-cuda-toolkit)"
        )
        hints.append(
            f"{names} is here, but nvcc is not, so the GPU stays unused: install {package} and run setup again."
        )
        return none
    if not capabilities:
        hints.append(
            f"{names} does not say its compute capability: update the NVIDIA driver (nvidia-smi) and run setup again."
        )
        return none
    needed = max((_FIRST_NVCC.get(capability, "11.0") for capability in capabilities), key=_as_number)
    if _as_number(machine.nvcc.version) < _as_number(needed):
        hints.append(f"nvcc {machine.nvcc.version} cannot compile for {names}: install CUDA {needed} or later.")
        return none
    if not any(machine.compiler(kind) for kind in ("gcc", "clang")) and not wish.compiler:
        hints.append(f"nvcc needs a host compiler for {names}: install g++ (sudo apt install g++) and run setup again.")
        return none
    architectures = ";".join(capability.replace(".", "") for capability in capabilities)
    reasons.append(
        f"CUDA with nvcc {machine.nvcc.version} for architecture {architectures}, which is what {names} has."
    )
    defines = [("GGML_CUDA", "ON"), ("CMAKE_CUDA_ARCHITECTURES", architectures)]
    if len(machine.gpus) < 2:
        defines.append(("GGML_CUDA_NCCL", "OFF"))  # a library for several GPUs, which would become a need of the wheel
    if board:
        defines.append(("GGML_CUDA_NO_VMM", "ON"))
        reasons.append("No CUDA virtual memory: on a Jetson it fails to allocate memory that is free.")
    return "cuda", tuple(defines), (("CUDACXX", machine.nvcc.path),)


# The first nvcc that knows a compute capability.
_FIRST_NVCC = {
    "8.6": "11.1",
    "8.7": "11.4",
    "8.9": "11.8",
    "9.0": "11.8",
    "10.0": "12.8",
    "10.3": "12.9",
    "12.0": "12.8",
    "12.1": "12.9",
}


def _compiler(machine: Machine, wish: Wish, backend: str, ask: Ask, reasons: list[str]) -> Compiler:
    zig = Compiler("zig", ZIG.partition("==")[2], "")
    if wish.compiler == "zig" or (not wish.compiler and backend == "cpu"):
        reasons.append(
            f"The compiler is clang from the package index (zig {zig.version}): no system compiler, and sound with AMX."
        )
        return zig
    if wish.compiler:
        chosen = machine.compiler(wish.compiler) or identify(ask, wish.compiler)
        if chosen is None:
            raise UsageError(
                "--compiler",
                f"{wish.compiler} is not a compiler that answers here",
                "use zig, gcc, clang or a path to one",
            )
        reasons.append(f"{chosen.kind} {chosen.version} was asked for.")
        return chosen
    chosen = machine.compiler("gcc") or machine.compiler("clang")
    assert chosen is not None  # `_gpu` chose CUDA only with one of them
    reasons.append(f"{chosen.kind} {chosen.version} compiles, because nvcc needs a system compiler beside it.")
    return chosen


def _processor(
    machine: Machine, wish: Wish, compiler: Compiler, reasons: list[str], hints: list[str]
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], str]:
    """Give flags, defines and zig's target for the CPU the code will run on."""
    zig, arm = compiler.kind == "zig", machine.arch == "aarch64"
    abi = "musl" if machine.libc == "musl" else "gnu"
    # named even for this machine: without a target zig compiles for the CPU it runs on, whatever the flags say, and
    # reads headers of this system, which a fresh one lacks; an old glibc costs nothing and is in every zig
    debug = ("-g0",) if zig else ()  # which zig writes unasked, ten times the library's size
    glibc = min(machine.libc.partition(" ")[2] or OLDEST_GLIBC, OLDEST_GLIBC, key=_as_number)
    target = f"{machine.arch}-linux-{abi}{'.' + glibc if abi == 'gnu' and glibc else ''}" if zig else ""
    if wish.portable:
        if not zig or abi == "musl":
            raise UsageError(
                "--portable", "an old glibc is what zig brings, on a system with glibc", "leave --compiler out"
            )
        reasons.append(
            f"Portable: glibc {OLDEST_GLIBC} and later, and a library for each kind of CPU, chosen when it runs."
        )
        return debug, (("GGML_NATIVE", "OFF"), ("GGML_BACKEND_DL", "ON"), ("GGML_CPU_ALL_VARIANTS", "ON")), target
    if wish.safe:
        reasons.append("Safe flags: no instruction set beyond " + ("plain Armv8." if arm else "AVX2."))
        if arm:
            return debug, (("GGML_NATIVE", "OFF"), ("GGML_CPU_ARM_ARCH", "armv8-a")), target
        sets = ((f"GGML_{name}", "ON" if machine.has(flag) else "OFF") for name, flag in _UP_TO_AVX2)
        return debug, (("GGML_NATIVE", "OFF"), *sets), target
    if arm and zig:
        architecture = "armv8.2-a" if machine.has("asimddp") or machine.has("asimdhp") else "armv8-a"
        architecture += "".join(f"+{name}" for flag, name in _ARM_FEATURES if machine.has(flag))
        reasons.append(f"Native: {architecture}, which is what this CPU says it has.")
        return debug, (("GGML_NATIVE", "OFF"), ("GGML_CPU_ARM_ARCH", architecture)), target
    reasons.append("Native: every instruction set of this CPU that has a kernel.")
    flags: tuple[str, ...] = debug
    if machine.amx and compiler.kind == "gcc" and not _sound_with_amx(compiler):
        flags = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")
        reasons.append(
            f"AMX is left out: gcc {compiler.version} turns it into code that crashes (12.4, 13.3 and 14 do not)."
        )
        hints.append(
            "this CPU has AMX, worth two to three times the speed: leave --compiler out, or use gcc 14 or clang."
        )
    return flags, (("GGML_NATIVE", "ON"),), target


_UP_TO_AVX2 = (
    ("SSE42", "sse4_2"),
    ("AVX", "avx"),
    ("AVX2", "avx2"),
    ("BMI2", "bmi2"),
    ("FMA", "fma"),
    ("F16C", "f16c"),
)
_ARM_FEATURES = (("asimddp", "dotprod"), ("asimdhp", "fp16"), ("i8mm", "i8mm"), ("sve", "sve"), ("sve2", "sve2"))


def _sound_with_amx(gcc: Compiler) -> bool:
    """Say whether gcc keeps the stores that fill AMX's tile configuration; before the fix they were dropped."""
    return gcc.number >= (14,) or (13, 3) <= gcc.number < (14,) or (12, 4) <= gcc.number < (13,)


def _jobs(machine: Machine, wish: Wish, backend: str) -> tuple[int, str]:
    room = max(1, int(machine.available / _JOB_BYTES[backend]))
    if wish.jobs:
        return wish.jobs, f"{_plural(wish.jobs, 'job')} at once, as asked for."
    jobs = max(1, min(machine.threads, room))
    bound = "memory" if room < machine.threads else "the number of CPUs"
    have = f"{_plural(machine.threads, 'CPU')}, {machine.available / 1e9:.1f} GB free"
    return jobs, f"{_plural(jobs, 'job')} at once: {have}, limited by {bound}."


def _identity(machine: Machine, backend: str, system: str) -> tuple[str, ...]:
    nvcc = machine.nvcc.version if machine.nvcc and backend == "cuda" else ""
    return (machine.arch, machine.cpu, " ".join(machine.features), system, nvcc)


def _as_number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
