"""Time as a measurement needs it: samples of tokens and nanoseconds, their mean, spread and drift, and quiet before each."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

ASLEEP = 0.1  # of one core: a process that uses less has nothing running that would disturb its neighbour
ENOUGH = 5  # samples, to tell a machine that slows down from noise
STEADY = 0.95  # of the first third's rate: a machine that keeps less at the end of a test slows down


@dataclass(frozen=True)
class Sample:
    """How many tokens took how long, once."""

    tokens: int
    ns: int

    @property
    def tps(self) -> float:
        return self.tokens * 1e9 / self.ns


@dataclass(frozen=True)
class Ratio:
    """One side's rate over the other's, pair by pair."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def stdev(self) -> float:
        return spread(list(self.values))


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

    def over(self, other: "Timing") -> Ratio:
        """Compare with samples that were taken in turn with these."""
        return Ratio(tuple(a / b for a, b in zip(self.samples_tps, other.samples_tps, strict=True)))

    @property
    def drift(self) -> float | None:
        """Give the last third's rate over the first third's: below 1 it slowed down; None of fewer than three samples."""
        first, last = self._ends
        return statistics.fmean(last) / statistics.fmean(first) if first else None

    @property
    def slowed(self) -> bool | None:
        """Say whether every sample of the last third is slower than all of the first, and together by more than noise.

        None where there are too few samples to tell.
        """
        first, last = self._ends
        if len(self.samples) < ENOUGH or self.drift is None:
            return None
        return max(last) < min(first) and self.drift < STEADY

    @property
    def _ends(self) -> tuple[list[float], list[float]]:
        rates = self.samples_tps
        third = math.ceil(len(rates) / 3) if len(rates) > 2 else 0
        return rates[:third], rates[len(rates) - third :]


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
