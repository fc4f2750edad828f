"""How hot the processor is, and whether it was slowed for it: what the kernel tells below one root.

Nothing here fails: a sensor that is missing, unreadable or absurd is passed over, and where none is left the temperature
is None.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from amalia_bench.sensor_files import found, integer, line

COLDEST, HOTTEST = -40.0, 150.0  # °C: what lies beyond is a sensor that is off, not a temperature
ZONES = ("sys/class/thermal/thermal_zone*", "sys/devices/virtual/thermal/thermal_zone*")
CPU_ZONE = re.compile(r"(?i)cpu|gpu|soc|pkg|core|^tj|bcm|big|little|cluster")  # not the disk's, not the radio's
BOARD_ZONE = re.compile(r"(?i)^acpitz$|^thermal")  # told only where the processor has no zone of its own
CPU_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal")
COUNTERS = (
    "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count",
    "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_power_limit_count",
    "sys/class/hwmon/hwmon*/oc*_event_cnt",  # a Jetson's over-current events
)
RAILS = ("sys/bus/i2c/devices/*/hwmon/hwmon*", "sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*")
COOLING = ("sys/class/thermal/cooling_device*", "sys/devices/virtual/thermal/cooling_device*")
SLOWING = re.compile(r"(?i)throttle|cpufreq|devfreq|^processor$|hot-surface")  # a fan that turns slows nothing


class Thermometer:
    """The sensors below a root."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._zones = tuple(_temperatures(root))
        self._counters = tuple(found(root, COUNTERS))
        self._alarms = tuple(found(root, (f"{rails}/curr*_alarm" for rails in RAILS)))
        self._cooling = tuple(folder for folder in found(root, COOLING) if SLOWING.search(line(folder / "type")))
        self._counted = self._count()

    def read(self) -> float | None:
        """Give the hottest zone of the processor in °C; None where none can be read."""
        return max((celsius for celsius in map(_celsius, self._zones) if celsius is not None), default=None)

    def throttles(self) -> tuple[str, ...]:
        """Name each throttle counter that rose since the last call (at first: since this was made), and what slows now."""
        now = self._count()
        events: dict[str, int] = {}
        for place, count in now.items():
            rise = count - self._counted.get(place, count)
            if rise > 0:
                kind = re.sub(r"_(?:throttle|event)?_?(?:count|cnt)$", "", place.name)
                shared = kind.startswith("package")  # every processor shows its package's counter
                events[kind] = max(events.get(kind, 0), rise) if shared else events.get(kind, 0) + rise
        self._counted = now
        told = [f"{kind.replace('_', ' ')} throttled {count}×" for kind, count in sorted(events.items())]
        alarms = [place for place in self._alarms if line(place) == "1"]
        told += [f"alarm {_rail(place)}" for place in alarms]
        slowed = [folder for folder in self._cooling if (integer(folder / "cur_state") or 0) > 0]
        told += [f"slowed by {line(folder / 'type')}, step {integer(folder / 'cur_state')}" for folder in slowed]
        return tuple(dict.fromkeys(told))

    def _count(self) -> dict[Path, int]:
        counts = ((place, integer(place)) for place in self._counters)
        return {place: count for place, count in counts if count is not None}


def _temperatures(root: Path) -> Iterator[Path]:
    """Give the files that tell the processor's temperature; where there are none, the board's."""
    zones = [(line(zone / "type"), zone / "temp") for zone in found(root, ZONES)]
    for chip in found(root, ("sys/class/hwmon/hwmon*",)):
        if line(chip / "name") in CPU_CHIPS:
            zones += [("core", place) for place in _chip(chip)]
    own = [place for kind, place in zones if CPU_ZONE.search(kind)]
    board = [place for kind, place in zones if BOARD_ZONE.search(kind)]
    yield from own if any(_celsius(place) is not None for place in own) else own + board


def _chip(chip: Path) -> list[Path]:
    """Leave out AMD's Tctl, which some chips raise by up to 27 °C for the fan's sake, where Tdie is there too."""
    places = sorted(chip.glob("temp*_input"))
    labels = {place: line(place.with_name(place.name.replace("_input", "_label"))) for place in places}
    return [place for place in places if labels[place] != "Tctl" or "Tdie" not in labels.values()]


def _rail(alarm: Path) -> str:
    """Name a rail's alarm: `VDD_IN curr1_max`."""
    number = re.search(r"\d+", alarm.name)
    label = line(alarm.with_name(f"in{number.group()}_label")) if number else ""
    return f"{label} {alarm.name.removesuffix('_alarm')}".strip()


def _celsius(place: Path) -> float | None:
    value = integer(place)
    return None if value is None or not COLDEST < value / 1000 < HOTTEST else value / 1000
