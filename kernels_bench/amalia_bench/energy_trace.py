"""Power over time: what sources and a thermometer told, from sample to sample, as joules at any moment.

Counters of energy are used by difference, samples of power by the trapezoid between them. A sample without a figure is
passed over; where there is none for PATIENCE_S the trace ends, and what came before it stands.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np

from amalia_bench.sensors import Clock, Reading, Source
from amalia_bench.thermal import Thermometer

PATIENCE_S = 5.0  # a gap a straight line may bridge


@dataclass(frozen=True)
class Sample:
    """One moment: all joules so far, the watts since the sample before (of power sources: now), the temperature."""

    time_s: float
    joules: float
    watts: float
    celsius: float | None


@dataclass
class _Sum:
    """The joules of one source."""

    source: Source
    joules: float = 0.0
    heard: Reading | None = None  # the last with a figure
    heard_s: float = 0.0

    def add(self, time_s: float, reading: Reading) -> bool:
        """Count a reading; False where it has no figure."""
        before, passed = self.heard, time_s - self.heard_s
        if reading.joules is not None:
            self.joules += reading.joules - before.joules if before and before.joules is not None else 0.0
        elif reading.watts is not None:
            last = before.watts if before and before.watts is not None else reading.watts
            self.joules += (last + reading.watts) / 2 * passed if before else 0.0
        else:
            return False
        self.heard, self.heard_s = reading, time_s
        return True


@dataclass
class Trace:
    """Samples of one stretch of time, taken one by one."""

    sources: Sequence[Source]
    thermometer: Thermometer
    clock: Clock
    samples: list[Sample] = field(default_factory=list)
    alarms: list[tuple[float, str]] = field(default_factory=list)
    lost: str = ""  # why there are no more figures
    began_s: float = field(init=False)
    _sums: list[_Sum] = field(init=False)
    _alarmed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began_s = self.clock.now()
        self._sums = [_Sum(source) for source in self.sources]
        self.thermometer.throttles()  # what was before is not ours
        self.take()

    @property
    def period_s(self) -> float:
        return max((source.period_s for source in self.sources), default=1.0)

    def take(self) -> None:
        """Read everything once."""
        why, celsius, alarms = "", self.thermometer.read(), list(self.thermometer.throttles())
        moments = []
        for each in self._sums:
            before = self.clock.now()
            reading = each.source.read()
            moments.append((before + self.clock.now()) / 2)  # a driver's tool takes its time
            why = why or ("" if each.add(moments[-1], reading) else reading.why)
            alarms += reading.alarms
            celsius = max((degrees for degrees in (celsius, reading.celsius) if degrees is not None), default=None)
        now = fmean(moments or [self.clock.now()])
        self.alarms += [(round(now - self.began_s, 3), alarm) for alarm in alarms if alarm not in self._alarmed]
        self._alarmed = alarms  # one that lasts is told once
        last_s = self.samples[-1].time_s if self.samples else self.began_s
        if not why and not self.lost and now - last_s <= PATIENCE_S + self.period_s:
            self._keep(now, celsius)
        elif now - last_s > PATIENCE_S:
            self.lost = self.lost or why or f"no reading for {now - last_s:.0f} s"

    def _keep(self, now: float, celsius: float | None) -> None:
        joules = sum(each.joules for each in self._sums)
        told = [each.heard.watts for each in self._sums if each.heard and each.heard.watts is not None]
        if len(told) == len(self._sums):
            watts = sum(told)
        elif self.samples and now > self.samples[-1].time_s:
            watts = (joules - self.samples[-1].joules) / (now - self.samples[-1].time_s)
        else:
            watts = float("nan")  # a counter's first reading
        self.samples.append(Sample(now, joules, watts, celsius))

    def tell(self, watts: float) -> None:
        """Take one figure for the whole stretch, from whoever read a meter."""
        self.samples = [
            replace(sample, joules=watts * (sample.time_s - self.began_s), watts=watts) for sample in self.samples
        ]

    @property
    def ends_s(self) -> float:
        """Give the time of the last sample with a figure."""
        return self.samples[-1].time_s if self.samples else self.began_s

    def joules_at(self, times_s: Sequence[float]) -> list[float]:
        """Give the joules so far at moments between the first sample and the last."""
        known = [sample.time_s for sample in self.samples], [sample.joules for sample in self.samples]
        return [float(value) for value in np.interp(times_s, *known)]

    def rows(self, most: int) -> list[list[float | None]]:
        """Give [seconds, watts, °C] of at most so many samples, evenly chosen."""
        step = max(1, -(-len(self.samples) // most))
        return [
            [
                round(sample.time_s - self.began_s, 3),
                None if np.isnan(sample.watts) else round(sample.watts, 3),
                sample.celsius,
            ]
            for sample in self.samples[::step]
        ]
