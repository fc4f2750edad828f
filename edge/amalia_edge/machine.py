"""A machine as far as building and running depend on it: every file below one root, every command through one callable.

So a recorded machine (`tests/machines/README.md`) answers like a real one, and what a Jetson needs is tested without
one. Standard library only: `build.py` looks before anything is installed.
"""

import gzip
import io
import json
import math
import os
import platform
import re
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from amalia_edge.cgroup import group_limits
from amalia_edge.cores import all_cores, allowed_processors, fast_cores, numbers
from amalia_edge.errors import UsageError
from amalia_edge.root_files import first_number, pairs, read

HEADLESS = "sudo systemctl set-default multi-user.target, then restart (back: graphical.target)"  # on a Jetson
FORMAT = 1  # of a recorded machine
Ask = Callable[[Sequence[str]], "str | None"]  # a command's words → what it printed, None when it is missing or failed


@dataclass(frozen=True)
class Compiler:
    kind: str  # "gcc", "clang", "apple-clang", "nvcc"
    version: str
    path: str

    @property
    def number(self) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", self.version)[:3])


@dataclass(frozen=True)
class Gpu:
    name: str
    capability: str  # "8.9"; empty when the driver is too old to say
    memory: str  # as the driver prints it: "24564 MiB", or "[N/A]" where memory is shared


@dataclass(frozen=True)
class Jetson:
    model: str
    soc: str  # "tegra234"
    l4t: str  # "36.4.7"
    power_mode: str
    power_modes: tuple[tuple[int, str], ...] = ()  # the board's own table: number, name

    @property
    def jetpack(self) -> str:
        return {"35": "5", "36": "6", "38": "7", "39": "7"}.get(self.l4t.partition(".")[0], "")


@dataclass(frozen=True)
class Machine:
    system: str  # "Linux", "Darwin", "Windows"
    arch: str  # "x86_64", "aarch64", "arm64"
    cpu: str
    features: tuple[str, ...]  # the kernel's names, sorted
    cores: int  # physical
    fast_cores: int  # of them, those that compute well and that this process may use
    threads: int  # logical CPUs this process may use, cgroup quota included
    nodes: int  # of NUMA
    memory: int  # bytes, cgroup limit included
    available: int  # bytes
    zram: int  # bytes of swap that are compressed memory
    desktop: bool  # a graphical session's server runs
    distribution: str
    libc: str  # "glibc 2.36", "musl"
    python: str
    gpus: tuple[Gpu, ...]
    nvcc: Compiler | None
    compilers: tuple[Compiler, ...]
    jetson: Jetson | None

    def has(self, feature: str) -> bool:
        return feature in self.features

    @property
    def amx(self) -> bool:
        return self.has("amx_tile")

    @property
    def kernels(self) -> tuple[str, ...]:
        """Name the instruction sets ggml has kernels for, as people know them."""
        return tuple(dict.fromkeys(name for flag, name in _KERNELS.items() if flag in self.features))

    def compiler(self, kind: str) -> Compiler | None:
        return next((compiler for compiler in self.compilers if compiler.kind == kind), None)


_KERNELS = {
    "avx": "AVX",
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx_vnni": "VNNI",
    "avx512_vnni": "VNNI",
    "avx512_bf16": "BF16",
    "amx_int8": "AMX",
    "asimd": "NEON",
    "asimddp": "dot product",
    "asimdhp": "FP16",
    "i8mm": "I8MM",
    "sve": "SVE",
}
_NVIDIA_SMI = "nvidia-smi --query-gpu=name,compute_cap,memory.total --format=csv,noheader"
_SYSCTL = "sysctl hw machdep.cpu.brand_string"
_DESKTOP = "systemctl is-active display-manager"
_NVCC = ("nvcc", "/usr/local/cuda/bin/nvcc", "/opt/cuda/bin/nvcc")
# Everything `look` may ask for, and so everything `record` writes down.
COMMANDS = (
    "uname -sm",
    "python3 --version",
    "getconf GNU_LIBC_VERSION",
    "nproc",
    "gcc --version",
    "g++ --version",
    "clang --version",
    "clang++ --version",
    *(f"{nvcc} --version" for nvcc in _NVCC),
    _NVIDIA_SMI,
    "nvpmodel -q",
    _DESKTOP,
    _SYSCTL,
    "vm_stat",
    "sw_vers -productVersion",
    "xcode-select -p",
)
# Everything worth reading, and nothing that names a person, a network or one particular board.
FILES = (
    "proc/cpuinfo",
    "proc/meminfo",
    "proc/swaps",
    "proc/device-tree/model",
    "proc/device-tree/compatible",
    "etc/os-release",
    "etc/nv_tegra_release",
    "etc/nvpmodel.conf",
    "var/lib/nvpmodel/status",
    "usr/local/cuda/version.json",
    "lib/ld-musl-*.so.1",
    "sys/devices/system/cpu/online",
    "sys/devices/system/cpu/cpu[0-9]*/topology/core_id",
    "sys/devices/system/cpu/cpu[0-9]*/topology/physical_package_id",
    "sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq",
    "sys/devices/system/cpu/cpu[0-9]*/cpu_capacity",
    "sys/devices/cpu_core/cpus",
    "sys/devices/system/node/node[0-9]*/cpulist",
    "sys/devices/system/node/node[0-9]*/meminfo",
    "sys/devices/virtual/thermal/thermal_zone*/type",
    "sys/devices/virtual/thermal/thermal_zone*/temp",
    "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label",
    "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_input",
    "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/curr*_input",
    "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/curr*_alarm",
    "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/name",
    "sys/class/hwmon/hwmon*/name",
    "sys/class/hwmon/hwmon*/temp*_input",
    "sys/class/hwmon/hwmon*/temp*_label",
    "sys/class/hwmon/hwmon*/oc*_event_cnt",
    "sys/class/powercap/intel-rapl:*/name",
    "sys/class/powercap/intel-rapl:*/energy_uj",
    "sys/class/powercap/intel-rapl:*/max_energy_range_uj",
    *(
        f"sys/class/power_supply/*/{name}"
        for name in ("type", "scope", "status", "power_now", "current_now", "voltage_now", "energy_now")
    ),
    "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_count",
    "sys/devices/virtual/thermal/cooling_device*/type",
    "sys/devices/virtual/thermal/cooling_device*/cur_state",
    "sys/block/zram*/disksize",
)


def look(root: Path = Path("/"), ask: Ask | None = None) -> Machine:
    """Describe the machine below `root`: this one, or a recorded one, which brings its own answers."""
    ask = ask or answers(root)
    system, _, arch = (ask(("uname", "-sm")) or "").strip().partition(" ")
    arch = {"AMD64": "x86_64", "amd64": "x86_64"}.get(arch, arch)
    sysctl = pairs(ask(_SYSCTL.split()) or "") if system == "Darwin" else {}
    cpuinfo = read(root, "proc/cpuinfo")
    quota, limit, taken = group_limits(root)
    allowed = len(numbers(allowed_processors(root))) or int(ask(("nproc",)) or sysctl.get("hw.logicalcpu") or 1)
    threads = max(1, min(allowed, math.ceil(quota))) if quota else allowed
    cores = int(sysctl.get("hw.physicalcpu") or all_cores(root, cpuinfo))
    memory, available = _memory(root, ask, sysctl)
    return Machine(
        system=system,
        arch=arch,
        cpu=sysctl.get("machdep.cpu.brand_string") or _cpu_name(cpuinfo),
        features=_features(cpuinfo, sysctl),
        cores=cores,
        fast_cores=max(1, min(int(sysctl.get("hw.perflevel0.physicalcpu") or fast_cores(root) or cores), threads)),
        threads=threads,
        nodes=max(1, len(list(root.glob("sys/devices/system/node/node[0-9]*")))),
        memory=min(memory, limit) if limit else memory,
        available=min(available, max(0, limit - taken)) if limit else available,
        zram=1024 * sum(int(kB) for kB in re.findall(r"(?m)^/dev/zram\S+\s+\S+\s+(\d+)", read(root, "proc/swaps"))),
        desktop=_desktop(root, ask),
        distribution=_distribution(root, ask, system),
        libc=(ask(("getconf", "GNU_LIBC_VERSION")) or _musl(root)).strip() if system == "Linux" else "",
        python=(ask(("python3", "--version")) or "").replace("Python", "").strip(),
        gpus=_gpus(ask) if system != "Darwin" else (),
        nvcc=_nvcc(ask) if system != "Darwin" else None,
        compilers=_compilers(ask, system),
        jetson=_jetson(root, ask),
    )


def glance(root: Path = Path("/"), ask: Ask | None = None) -> Machine:
    """Look without the commands that take long: no compiler, driver or service is asked."""
    ask = ask or answers(root)
    quick = ("uname", "nproc", "sysctl", "vm_stat")
    return look(root, lambda words: ask(words) if words[0] in quick else None)


def answers(root: Path) -> Ask:
    """Give the callable that answers commands for `root`: this machine's own, or what was recorded there."""
    file = root / "machine.json"
    if not file.is_file():
        return ask_here
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))
        form, commands = int(recorded["format"]), dict(recorded["commands"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            str(file), f"no recorded machine: {error}", "record it again with amalia doctor --record"
        ) from error
    if form > FORMAT:
        raise UsageError(str(file), f"format {form}, and this version reads up to {FORMAT}", "use a newer amalia")
    return lambda argv: commands.get(" ".join(argv))


def ask_here(argv: Sequence[str]) -> str | None:
    """Run a command on this machine and give what it printed, None when it is missing, slow or failed."""
    if argv[0] == "uname":  # Windows has none, and the running interpreter's word is what a wheel must fit
        return f"{platform.system()} {platform.machine()}"
    if argv[0] == "python3":
        return f"Python {platform.python_version()}"
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=20,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def record(root: Path, file: Path, ask: Ask | None = None) -> Path:
    """Write the machine below `root` as a recorded one: a tar.gz, the same bytes for the same machine."""
    ask = ask or answers(root)
    asked = {command: ask(command.split()) for command in _commands_to_record(ask)}
    kept = {command: _anonymous(text) for command, text in asked.items() if text is not None}
    contents = {name: _anonymous(read(root, name)) for name in _files_to_record(root)}
    if _desktop(root, ask):
        kept[_DESKTOP] = "active\n"
    allowed = allowed_processors(root)
    if allowed:  # of the whole file, this line alone
        contents["proc/self/status"] = f"Cpus_allowed_list:\t{allowed}\n"
    quota, limit, taken = group_limits(root)
    if quota:  # the process's own group, so that its path, which may name a user, is not needed
        contents["sys/fs/cgroup/cpu.max"] = f"{round(quota * 100000)} 100000\n"
    if limit:
        contents["sys/fs/cgroup/memory.max"] = f"{limit}\n"
        if taken:
            contents["sys/fs/cgroup/memory.current"] = f"{taken}\n"
    contents["machine.json"] = json.dumps({"format": FORMAT, "commands": kept}, indent=2, sort_keys=True) + "\n"
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(contents):
            data = contents[name].encode("utf-8", "surrogateescape")
            entry = tarfile.TarInfo(f"machine/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    neighbour = file.with_name(f".{file.name}.part")
    neighbour.write_bytes(gzip.compress(raw.getvalue(), mtime=0))
    neighbour.replace(file)
    return file


def _commands_to_record(ask: Ask) -> list[str]:
    """Leave out what must not be run: on a Mac without Apple's tools, asking `clang` opens a window."""
    mac = (ask(("uname", "-sm")) or "").startswith("Darwin")
    if not mac:
        return list(COMMANDS)
    tools = ask(("xcode-select", "-p")) is not None
    return [command for command in COMMANDS if tools or not command.startswith(("gcc", "g++", "clang"))]


def _files_to_record(root: Path) -> list[str]:
    return sorted(
        {path.relative_to(root).as_posix() for pattern in FILES for path in root.glob(pattern) if path.is_file()}
    )


def _anonymous(text: str) -> str:
    text = re.sub(r"(?mi)^\s*(serial|uuid)\b.*\n?", "", text)
    return re.sub(r"(/home/|/Users/)[^/\s:]+", r"\1someone", text)


# Arm says who made a core and which part it is, not what it is called.
_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse N1",
    "0xd40": "Neoverse V1",
    "0xd42": "Cortex-A78AE",
    "0xd49": "Neoverse N2",
    "0xd4f": "Neoverse V2",
}


def _cpu_name(cpuinfo: str) -> str:
    said = pairs(cpuinfo)
    return said.get("model name") or _ARM_PARTS.get(said.get("CPU part", ""), said.get("CPU part", "unknown CPU"))


_APPLE_FEATURES = {
    "AdvSIMD": "asimd",
    "FEAT_DotProd": "asimddp",
    "FEAT_FP16": "asimdhp",
    "FEAT_I8MM": "i8mm",
    "FEAT_BF16": "bf16",
}


def _features(cpuinfo: str, sysctl: dict[str, str]) -> tuple[str, ...]:
    said = pairs(cpuinfo)
    linux = (said.get("flags") or said.get("Features") or "").split()
    apple = [
        name
        for key, name in _APPLE_FEATURES.items()
        if "1" in (sysctl.get(f"hw.optional.arm.{key}"), sysctl.get(f"hw.optional.{key}"))
    ]
    return tuple(sorted({*linux, *apple}))


def _desktop(root: Path, ask: Ask) -> bool:
    """Say whether a graphical session's server runs: its sockets show it, or the system's manager says so."""
    sockets = (path for pattern in ("tmp/.X11-unix/X*", "run/user/*/wayland-*") for path in root.glob(pattern))
    return any(True for _ in sockets) or (ask(_DESKTOP.split()) or "").strip() == "active"


def _memory(root: Path, ask: Ask, sysctl: dict[str, str]) -> tuple[int, int]:
    """Give total and available bytes; what macOS can free at once counts as available, as on Linux."""
    if sysctl:
        pages = pairs(ask(("vm_stat",)) or "")
        page = int(sysctl.get("hw.pagesize", "16384"))
        free = sum(
            first_number(pages.get(f"Pages {kind}", "")) for kind in ("free", "inactive", "speculative", "purgeable")
        )
        total = int(sysctl.get("hw.memsize", "0"))
        return total, free * page or total // 2
    said = pairs(read(root, "proc/meminfo"))  # kB
    total = 1024 * first_number(said.get("MemTotal", ""))
    return total, 1024 * first_number(said.get("MemAvailable", "")) or total // 2


def _distribution(root: Path, ask: Ask, system: str) -> str:
    if system == "Darwin":
        return f"macOS {(ask(('sw_vers', '-productVersion')) or '').strip()}".strip()
    said = re.search(r'(?m)^PRETTY_NAME="?([^"\n]*)', read(root, "etc/os-release"))
    return said.group(1) if said else system


def _musl(root: Path) -> str:
    return "musl" if any(root.glob("lib/ld-musl-*.so.1")) else ""


def _gpus(ask: Ask) -> tuple[Gpu, ...]:
    lines = (ask(_NVIDIA_SMI.split()) or "").splitlines()
    rows = [[field.strip() for field in line.split(",")] for line in lines]
    return tuple(
        Gpu(row[0], row[1] if re.fullmatch(r"\d+\.\d+", row[1]) else "", row[2]) for row in rows if len(row) == 3
    )


def _nvcc(ask: Ask) -> Compiler | None:
    for path in _NVCC:
        said = re.search(r"release (\d+\.\d+)", ask((path, "--version")) or "")
        if said:
            return Compiler("nvcc", said.group(1), path)
    return None


def _compilers(ask: Ask, system: str) -> tuple[Compiler, ...]:
    """Name the C and C++ compilers that come in pairs; a gcc without its g++ builds nothing here."""
    if system == "Darwin" and ask(("xcode-select", "-p")) is None:
        return ()  # asking clang itself would open a window
    found = [
        identify(ask, c) for c in ("gcc", "clang") if ask(("g++" if c == "gcc" else "clang++", "--version")) is not None
    ]
    named = {compiler.kind: compiler for compiler in found if compiler}  # macOS's gcc is clang
    return tuple(named.values())


def identify(ask: Ask, path: str) -> Compiler | None:
    """Say which compiler `path` is, from what it prints about itself."""
    said = ask((path, "--version")) or ""
    apple, clang = (re.search(rf"{name} version (\d+(?:\.\d+)*)", said) for name in ("Apple clang", "clang"))
    gcc = re.search(r"^\S*(?:gcc|cc|g\+\+)\S* \(.*?\) (\d+\.\d+(?:\.\d+)?)", said)
    for kind, match in (("apple-clang", apple), ("clang", clang), ("gcc", gcc)):
        if match:
            return Compiler(kind, match.group(1), path)
    return None


def _jetson(root: Path, ask: Ask) -> Jetson | None:
    release = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read(root, "etc/nv_tegra_release"))
    soc = re.search(r"nvidia,(tegra\d+)", read(root, "proc/device-tree/compatible"))
    if not release and not soc:
        return None
    return Jetson(
        model=read(root, "proc/device-tree/model").strip("\0 \n") or "NVIDIA Jetson",
        soc=soc.group(1) if soc else "",
        l4t=".".join(release.groups()) if release else "",
        power_mode=_power_mode(root, ask),
        power_modes=tuple((int(number), name) for number, name in _power_modes(root)),
    )


def _power_mode(root: Path, ask: Ask) -> str:
    said = re.search(r"NV Power Mode: (\S+)", ask(("nvpmodel", "-q")) or "")
    if said:
        return said.group(1)
    # without the tool: the mode's number, named by the board's own table, because numbers differ between boards
    number = re.search(r"pmode:(\d+)", read(root, "var/lib/nvpmodel/status"))
    table = dict(_power_modes(root))
    return table.get(str(int(number.group(1))), "") if number else ""


def _power_modes(root: Path) -> list[tuple[str, str]]:
    return re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", read(root, "etc/nvpmodel.conf"))
