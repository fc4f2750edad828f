"""Machines written by hand below a folder, whose meters move with a clock that nobody waits for."""

from collections.abc import Callable
from pathlib import Path

from amalia_bench.energy import Step
from amalia_bench.speed import Case

RANGE_UJ = 262_143_328_850


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def rapl_zone(root: Path, zone: str, name: str, energy_uj: int = 1_000_000, range_uj: int = RANGE_UJ) -> Path:
    """Make a zone as the kernel shows it: a folder inside its package's, and a link to it in the class."""
    parts = [zone.rpartition(":")[0], zone] if zone.count(":") == 2 else [zone]
    there = Path("sys/devices/virtual/powercap", zone.partition(":")[0], *parts)
    files = {"name": name, "energy_uj": str(energy_uj), "max_energy_range_uj": str(range_uj)}
    put(root, {f"{there}/{file}": text for file, text in files.items()})
    entry = root / "sys/class/powercap" / zone
    entry.parent.mkdir(parents=True, exist_ok=True)
    entry.symlink_to(Path("../../..") / there)
    return entry


def server(root: Path) -> Path:
    """Two sockets with their memory; cores and the same package through another door, which must not count again."""
    for package in (0, 1):
        rapl_zone(root, f"intel-rapl:{package}", f"package-{package}")
        rapl_zone(root, f"intel-rapl:{package}:0", "dram")
        rapl_zone(root, f"intel-rapl:{package}:1", "core")
    rapl_zone(root, "intel-rapl-mmio:0", "package-0")
    return root


class FakeClock:
    """A clock that goes on when it is told, and tells the world of it."""

    def __init__(self) -> None:
        self.time_s = 1000.0
        self.hears: list[Callable[[float], None]] = []

    def now(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        left = seconds
        while left > 1e-9:  # in small steps, as time goes
            self.time_s += (step := min(left, 0.25))
            left -= step
            for hear in self.hears:
                hear(step)


class FakeLoad:
    """A model that works at a steady rate, telling each step of so many seconds."""

    def __init__(self, clock: FakeClock, rate: float = 10.0, step_s: float = 0.25) -> None:
        self.clock, self.rate, self.step_s = clock, rate, step_s
        self.doing = "idling"
        self.ended = 0
        self._tokens, self._next_s = 0.0, 0.0

    def begin(self, case: Case) -> None:
        self.doing = "reading" if case.prompt else "writing"
        self._tokens, self._next_s = 0.0, self.clock.now() + self.step_s

    def wait(self, until_s: float) -> list[Step]:
        self.clock.sleep(max(0.0, min(until_s, self._next_s) - self.clock.now()))
        if self.clock.now() < self._next_s - 1e-6:
            return []
        self._tokens += self.rate * self.step_s
        self._next_s += self.step_s
        return [Step(self.clock.now(), round(self._tokens))]

    def end(self) -> None:
        self.doing, self.ended = "idling", self.ended + 1


class Counter:
    """A microjoule counter in a file, which the clock moves by what is taken."""

    def __init__(self, file: Path, clock: FakeClock, watts: Callable[[], float], range_uj: int = RANGE_UJ) -> None:
        self.file, self.watts, self.range_uj = file, watts, range_uj
        self.energy_uj = float(file.read_text())
        self._unwritten_s = 0.0
        clock.hears.append(self.go_on)

    def go_on(self, seconds: float) -> None:
        self.energy_uj = (self.energy_uj + self.watts() * seconds * 1e6) % self.range_uj
        self._unwritten_s += seconds
        if self._unwritten_s >= 0.5:
            self._unwritten_s = 0.0
            if self.file.exists():
                self.file.write_text(f"{int(self.energy_uj)}\n")
