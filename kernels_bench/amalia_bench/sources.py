"""Which sensors of power a machine has, which of them are read, and what would make the others so.

All of it lies below one root (the GPU's driver is asked through one callable), so that a recorded machine answers like
a real one. Nothing here changes the machine.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amalia_bench.sensor_files import found, integer, line
from amalia_bench.sensors import Battery, Clock, Nvidia, Rails, Rapl, Source
from amalia_edge.errors import BenchError, UsageError
from amalia_edge.machine import Ask
from amalia_edge.root_files import read

NAMES = ("rails", "battery", "rapl", "psys", "nvml")
WALL = "read a meter at the wall: --source wall asks for its watts"
ZONES = "sys/class/powercap/intel-rapl:*"  # AMD's processors too; intel-rapl-mmio:* would count the same joules again
READABLE = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj lets you read them until the next start"
RAILS = ("sys/bus/i2c/devices/*/hwmon/hwmon*", "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*")
WHOLE_RAIL, PART_RAILS = "VDD_IN", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")  # Orin NX and Nano; Orin AGX


@dataclass(frozen=True)
class Missing:
    """A source this machine has not, and what would make it so, if anything would."""

    name: str
    found: str
    remedy: str = ""

    @property
    def advice(self) -> str:
        return f"{self.remedy}; or {WALL}" if self.remedy else WALL


def find_sources(root: Path, ask: Ask, clock: Clock) -> tuple[list[Source], list[Missing]]:
    """Give every source below a root that tells power now, and for the others why not."""
    tried = [_rails(root), _battery(root), _rapl(root, clock), _psys(root, clock), _nvidia(ask)]
    sources: list[Source] = [each for each in tried if not isinstance(each, Missing)]
    return sources, [each for each in tried if isinstance(each, Missing)]


def choose_sources(sources: Sequence[Source], missing: Sequence[Missing], wanted: str = "") -> list[Source]:
    """Choose those asked for, as in rapl+nvml; else the one that covers most, the processor's and the GPU's together."""
    by_name = {source.name: source for source in sources}
    if wanted:
        names = list(dict.fromkeys(wanted.split("+")))
        unknown = [name for name in names if name not in NAMES]
        if unknown:
            raise UsageError("--source", unknown[0] or "nothing", f"give one of {', '.join(NAMES)}, wall, or rapl+nvml")
        if len(names) > 1 and set(names) != {"rapl", "nvml"}:
            raise UsageError("--source", wanted, "only rapl+nvml are of different parts; give one of the others alone")
        for gone in (each for each in missing if each.name in names):
            raise BenchError(f"energy from {gone.name}", f"not measurable here: {gone.found}", gone.advice)
        return [by_name[name] for name in names]
    for names in (["rails"], ["battery"], ["rapl", "nvml"]):
        chosen = [by_name[name] for name in names if name in by_name]
        if chosen:
            return chosen
    told = "; ".join(f"{each.name}: {each.found}" for each in missing if each.name != "psys")
    advice = next((each.advice for each in missing if each.remedy), WALL)
    raise BenchError("energy", f"not measurable here: {told}", advice)


def _rapl(root: Path, clock: Clock) -> Rapl | Missing:
    """Find each package, and the memory beside it; cores and graphics are parts of the package."""
    zones = {folder: line(folder / "name") for folder in found(root, (ZONES,))}
    packages = [folder for folder, name in zones.items() if folder.name.count(":") == 1 and name != "psys"]
    memories = [folder for folder, name in zones.items() if folder.name.count(":") == 2 and name == "dram"]
    if not packages:
        return Missing("rapl", *_why_no_counters(root))
    folders = packages + memories
    unread = [zones[folder] or folder.name for folder in folders if integer(folder / "energy_uj") is None]
    if unread:
        return Missing("rapl", f"the counter of {', '.join(unread)} cannot be read: only root may", READABLE)
    names = " + ".join(zones[folder] or folder.name for folder in folders)
    memory = "" if memories else ", its memory"
    covers = f"the processor ({names}); neither the screen{memory}, the disk nor the power supply"
    return Rapl("rapl", covers, folders, clock)


def _psys(root: Path, clock: Clock) -> Rapl | Missing:
    folders = [folder for folder in found(root, (ZONES,)) if line(folder / "name") == "psys"]
    if not folders:
        return Missing("psys", "the processor counts no whole platform")
    if any(integer(folder / "energy_uj") is None for folder in folders):
        return Missing("psys", "its counter cannot be read: only root may", READABLE)
    return Rapl("psys", "the whole platform, as its maker wired it", folders[:1], clock)


def _why_no_counters(root: Path) -> tuple[str, str]:
    if re.search(r"(?m)^flags\s*:.*\bhypervisor\b", read(root, "proc/cpuinfo")):
        return "a virtual machine, which its host shows no counter", "measure on the host"
    if re.search(r"(?m)^vendor_id\s*:.*(Intel|AMD)", read(root, "proc/cpuinfo")):
        advice = "sudo modprobe intel_rapl_msr loads the counters' driver (AMD's too); a container sees the host's only"
        return "the kernel shows no counters", advice + " if /sys/class/powercap is shared with it"
    return "this processor has no counters that are known here", ""


def _rails(root: Path) -> Rails | Missing:
    rails: dict[str, tuple[Path, int]] = {}
    for folder in found(root, RAILS):
        if line(folder / "name") not in ("", "ina3221"):
            continue  # a memory module's thermometer, a server's regulator
        for number in (1, 2, 3):  # channel 7 is the sum of shunt voltages, no rail
            label = line(folder / f"in{number}_label")
            if label and label != "NC" and (folder / f"curr{number}_input").exists():
                rails.setdefault(label, (folder, number))
    if not rails:
        return Missing("rails", "no INA3221 power monitor")
    names = (WHOLE_RAIL,) if WHOLE_RAIL in rails else PART_RAILS
    absent = [name for name in names if name not in rails]
    if absent:
        there = ", ".join(rails)
        return Missing("rails", f"rails {there}, without {', '.join(absent)}: their sum is not the board's power")
    covers = f"the module's rails ({' + '.join(names)}); neither the carrier board nor the power supply"
    source = Rails([rails[name] for name in names], covers)
    reading = source.read()
    return source if reading.watts is not None else Missing("rails", reading.why, "start the board again")


def _battery(root: Path) -> Battery | Missing:
    supplies = [place for place in found(root, ("sys/class/power_supply/*",)) if line(place / "type") == "Battery"]
    batteries = [folder for folder in supplies if line(folder / "scope") != "Device"]  # a mouse's is not ours
    if not batteries:
        return Missing("battery", "no battery")
    source = Battery(batteries)
    reading = source.read()
    if reading.why:
        return Missing("battery", reading.why, "pull the plug" if "mains" in reading.why else "")
    return source


def _nvidia(ask: Ask) -> Nvidia | Missing:
    source = Nvidia(ask)
    if not source.command:
        return Missing("nvml", "no nvidia-smi that answers")
    reading = source.read()
    return Missing("nvml", reading.why) if reading.why else source
