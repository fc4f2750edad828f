"""Time as a measurement needs it: samples of tokens and nanoseconds, their mean, their spread, and quiet before each."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

ASLEEP = 0.1  # of one core: a process that uses less has nothing running that would disturb its neighbour


@dataclass(frozen=True)
class Sample:
    """How many tokens took how long, once."""

    tokens: int
    ns: int

    @property
    def tps(self) -> float:
        return self.tokens * 1e9 / self.ns


@dataclass(frozen=True)
class Timing:
    """The samples of one figure; the spread is the sample standard deviation, as llama-bench's."""

    samples: tuple[Sample, ...]

    @property
    def samples_ns(self) -> list[int]:
        return [sample.ns for sample in self.samples]

    @property
    def samples_tps(self) -> list[float]:
        return [sample.tps for sample in self.samples]

    @property
    def mean_ns(self) -> float:
        return statistics.fmean(self.samples_ns)

    @property
    def stdev_ns(self) -> float:
        return spread(self.samples_ns)

    @property
    def mean_tps(self) -> float:
        return statistics.fmean(self.samples_tps)

    @property
    def stdev_tps(self) -> float:
        return spread(self.samples_tps)


def spread(values: list[int] | list[float]) -> float:
    """Give the sample standard deviation; of a single value it is 0, as llama-bench prints it."""
    return float(statistics.stdev(values)) if len(values) > 1 else 0.0


def settle(
    longest_s: float = 2.0,
    step_s: float = 0.02,
    used: Callable[[], float] = time.process_time,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until this process's threads sleep.

    ggml's threads keep polling for some tenths of a second after a decode, and would take a core from whoever runs next.
    """
    before = used()
    for _ in range(round(longest_s / step_s)):
        sleep(step_s)
        now = used()
        if now - before < ASLEEP * step_s:
            return
        before = now
