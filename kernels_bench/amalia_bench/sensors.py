"""What tells the power a machine takes: a processor's counters, a GPU's driver, a Jetson's rails, a battery.

A sensor that is gone or absurd gives a reading without a figure, and says why.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from amalia_bench.sensor_files import integer, line
from amalia_edge.machine import Ask

MOST_WATTS, MOST_PACKAGE_WATTS = 20_000.0, 1500.0  # above, a reading is nonsense: no machine that runs this takes more
HOT = ("hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown")
SMI = "nvidia-smi --query-gpu={} --format=csv,noheader,nounits"
SMI_ALL = SMI.format(",".join(("power.draw", "temperature.gpu", *(f"clocks_throttle_reasons.{why}" for why in HOT))))
SMI_POWER = SMI.format("power.draw")  # a driver that does not know one field refuses them all


class Clock(Protocol):
    """Time, and waiting for it."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """This machine's time since some moment, in seconds, the same in every process."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True)
class Reading:
    """What a source tells at once: joules counted since its first reading, or the watts of this moment, or why neither."""

    joules: float | None = None
    watts: float | None = None
    why: str = ""  # there is no figure
    celsius: float | None = None
    alarms: tuple[str, ...] = ()


class Source(Protocol):
    """Something that tells power."""

    name: str
    covers: str  # what its joules are of, and what they leave out
    period_s: float  # reading it more often tells nothing new, or disturbs

    def read(self) -> Reading: ...


@dataclass
class _Domain:
    """A counter of microjoules that begins anew at its range."""

    folder: Path
    label: str
    range_uj: int
    last_uj: int
    last_s: float
    joules: float = 0.0
    watts: float = 0.0
    broken: bool = False

    def count(self, now: float) -> bool:
        """Add what was used since the last call; False where the counter cannot be read."""
        value = integer(self.folder / "energy_uj")
        if value is None or value < 0:
            return False
        passed, rise = now - self.last_s, value - self.last_uj
        if rise < 0:
            rise += self.range_uj
        used = rise / 1e6
        self.broken = used < 0 or used > MOST_PACKAGE_WATTS * max(passed, 0.001)
        if self.broken:  # it was reset, not full: this short while is given the power of the one before
            used = self.watts * passed
        elif passed > 0:
            self.watts = used / passed
        self.joules += used
        self.last_uj, self.last_s = value, now
        return True


class Rapl:
    """The energy counters of x86 processors."""

    period_s = 0.5

    def __init__(self, name: str, covers: str, folders: Sequence[Path], clock: Clock) -> None:
        self.name, self.covers, self._clock = name, covers, clock
        now = clock.now()
        self._domains = [
            _Domain(
                folder,
                line(folder / "name"),
                integer(folder / "max_energy_range_uj") or 0,
                integer(folder / "energy_uj") or 0,
                now,
            )
            for folder in folders
        ]

    def read(self) -> Reading:
        now = self._clock.now()
        unread = [domain.label for domain in self._domains if not domain.count(now)]
        if unread:
            return Reading(why=f"the counter of {', '.join(unread)} cannot be read")
        resets = tuple(f"the counter of {domain.label} began anew" for domain in self._domains if domain.broken)
        return Reading(joules=sum(domain.joules for domain in self._domains), alarms=resets)


class Rails:
    """The INA3221 monitors of a Jetson."""

    period_s = 0.5

    def __init__(self, rails: Sequence[tuple[Path, int]], covers: str) -> None:
        self.name, self.covers, self._rails = "rails", covers, rails

    def read(self) -> Reading:
        total = 0.0
        for folder, number in self._rails:
            millivolts, milliamperes = integer(folder / f"in{number}_input"), integer(folder / f"curr{number}_input")
            if millivolts is None or milliamperes is None:
                return Reading(why=f"the rail {line(folder / f'in{number}_label')} cannot be read")
            total += millivolts * milliamperes / 1e6
        return _power(total, "the rails")


class Battery:
    """A laptop's batteries, while they are what it runs on."""

    name, period_s = "battery", 1.0
    covers = "the whole computer, its screen too, as the battery's gauge tells it every few seconds"

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._full_uwh = self._left_uwh()
        self._tells_power = any(_battery_watts(folder) is not None for folder in folders)

    def read(self) -> Reading:
        states = [line(folder / "status") for folder in self._folders]
        used = [folder for folder, state in zip(self._folders, states, strict=True) if state == "Discharging"]
        if not used:
            return Reading(why=f"on mains: the battery says {', '.join(states) or 'nothing'}")
        return self._power(used) if self._tells_power else self._energy()

    def _power(self, used: Sequence[Path]) -> Reading:
        watts = [_battery_watts(folder) for folder in used]
        told = [value for value in watts if value is not None]
        return (
            _power(sum(told), "the battery") if len(told) == len(watts) else Reading(why="the battery tells no power")
        )

    def _energy(self) -> Reading:
        left = self._left_uwh()
        if left is None or self._full_uwh is None:
            return Reading(why="the battery tells neither power nor energy")
        return Reading(joules=(self._full_uwh - left) * 3600 / 1e6)

    def _left_uwh(self) -> int | None:
        left = [integer(folder / "energy_now") for folder in self._folders]
        told = [value for value in left if value is not None and value >= 0]
        return sum(told) if told and len(told) == len(left) else None


class Nvidia:
    """NVIDIA's driver, asked through its own tool."""

    name, period_s = "nvml", 1.0  # asking starts a program
    covers = "the NVIDIA GPUs with their memory; neither the processor nor the power supply"

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.command = next((command for command in (SMI_ALL, SMI_POWER) if ask(command.split()) is not None), "")

    def read(self) -> Reading:
        rows = [re.split(r"\s*,\s*", row.strip()) for row in (self._ask(self.command.split()) or "").splitlines()]
        watts = [_decimal(row[0]) for row in rows]
        told = [value for value in watts if value is not None]
        if not told or len(told) < len(watts):
            return Reading(why="nvidia-smi tells no power")
        temperatures = [value for row in rows if (value := _decimal(row[1] if len(row) > 1 else "")) is not None]
        slowed = {why for row in rows for why, state in zip(HOT, row[2:], strict=False) if state == "Active"}
        alarms = tuple(f"GPU slowed: {why.replace('_', ' ')}" for why in HOT if why in slowed)
        reading = _power(sum(told), "nvidia-smi")
        return Reading(None, reading.watts, reading.why, max(temperatures, default=None), alarms)


class Wall:
    """A meter at the wall, which a person reads: the watts come later, and until then there are none."""

    name, period_s = "wall", 1.0
    covers = "everything that hangs on the meter, its power supply too, as read off by hand"

    def read(self) -> Reading:
        return Reading(joules=0.0)


def _battery_watts(folder: Path) -> float | None:
    """Give a battery's power; some gauges put a minus before what leaves it."""
    microwatts = integer(folder / "power_now")
    if microwatts is not None:
        return abs(microwatts) / 1e6
    microamperes, microvolts = integer(folder / "current_now"), integer(folder / "voltage_now")
    return None if microamperes is None or microvolts is None else abs(microamperes) * microvolts / 1e12


def _power(watts: float, whose: str) -> Reading:
    if 0 < watts <= MOST_WATTS:
        return Reading(watts=watts)
    return Reading(why=f"{whose} tell{'' if whose.endswith('rails') else 's'} {watts:g} W, which cannot be")


def _decimal(text: str) -> float | None:
    return float(text) if re.fullmatch(r"-?[0-9]{1,9}(\.[0-9]{1,9})?", text) else None
