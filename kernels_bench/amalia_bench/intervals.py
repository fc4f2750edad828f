"""Intervals: how far a mean over a text may be from what a longer text would give.

Neighbouring tokens are not independent, so whole blocks (windows, pairs, paragraphs) are resampled. A block is summed up
first and only its sums are drawn: a million tokens cost as much as their blocks. The interval is the bias-corrected and
accelerated one (BCa), since divergences lean to one side, widened as Student's t is where there are few blocks. Fewer
than ten blocks are too few to resample: Student's t alone. One block says nothing of the spread: an infinite interval.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from amalia_edge.errors import BenchError

RESAMPLES = 2000
CONFIDENCE = 0.95
FEW = 10  # blocks; below, Student's t
MOST = 4096  # blocks; above, neighbours are joined, which costs nothing in truth and much less in time
LEAST_SPREAD = 0.5  # of independent hits' variance: few blocks may agree by chance
DRAWN = 1 << 21  # blocks drawn at once: 16 MB

Array = NDArray[np.float64]
NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A mean, the interval it lies in, and its standard error."""

    mean: float
    low: float
    high: float
    stderr: float

    @property
    def bounds(self) -> list[float | None]:
        """Give [low, high] for a record; None where there is no bound, which JSON has no number for."""
        return [bound if math.isfinite(bound) else None for bound in (self.low, self.high)]

    def map(self, function: Callable[[float], float], slope: float) -> "Interval":
        """Give the interval of an increasing function of the mean, whose slope there is known: exp for a ratio."""
        low, high = (function(bound) if math.isfinite(bound) else bound for bound in (self.low, self.high))
        return Interval(function(self.mean), low, high, abs(slope) * self.stderr)


def block_bootstrap(
    values: NDArray[Any],
    blocks: NDArray[Any],
    statistic: Literal["mean", "rms"] = "mean",
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Give the mean of values (or the root of the mean square), with its interval.

    `blocks` names the block of each value, by any integers. Same values, blocks and seed: same interval.
    """
    if statistic == "mean":
        return ratio_bootstrap(values, np.ones(len(values)), blocks, resamples, seed, confidence)
    squares = block_bootstrap(np.square(_floats(values)), blocks, "mean", resamples, seed, confidence)
    root = math.sqrt(squares.mean)
    return squares.map(lambda mean: math.sqrt(max(mean, 0.0)), 0.5 / root if root else 0.0)


def ratio_bootstrap(
    numerators: NDArray[Any],
    denominators: NDArray[Any],
    blocks: NDArray[Any],
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Give the ratio of two sums (markers to words), with its interval."""
    sums, counts = _block_sums(_floats(numerators), _floats(denominators), np.asarray(blocks))
    total = counts.sum()
    if not total > 0:
        raise BenchError("interval", "nothing counted", "give a text with at least one token")
    mean, number = float(sums.sum() / total), len(sums)
    if number == 1:
        return Interval(mean, -math.inf, math.inf, math.inf)
    if number < FEW:
        stderr = _stderr(sums, counts, mean)
        reach = _student(0.5 + confidence / 2, number - 1) * stderr
        return Interval(mean, mean - reach, mean + reach, stderr)
    drawn = _resample(sums, counts, resamples, np.random.default_rng(seed))
    widening = math.sqrt(number / (number - 1))
    stderr = float(drawn.std(ddof=1)) * widening
    reach = _student(0.5 + confidence / 2, number - 1) * widening
    low, high = _corrected(drawn, mean, _jackknife(sums, counts), reach)
    return Interval(mean, low, high, stderr)


def paired(
    values: NDArray[Any],
    base: NDArray[Any],
    blocks: NDArray[Any],
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Give the mean of the differences of two readings of the same tokens, with its interval."""
    return block_bootstrap(_floats(values) - _floats(base), blocks, "mean", resamples, seed, confidence)


def proportion(hits: NDArray[Any], blocks: NDArray[Any] | None = None, confidence: float = CONFIDENCE) -> Interval:
    """Give a share of hits with Wilson's interval, which says something even where all are hits.

    With blocks, the hits count for as many independent ones as their spread between blocks shows, at most for twice as
    many as there are.
    """
    found = _floats(hits)
    count, share = len(found), float(found.mean()) if len(found) else 0.0
    if not count:
        raise BenchError("interval", "nothing counted", "give a text with at least one token")
    reach, variance = NORMAL.inv_cdf(0.5 + confidence / 2), share * (1 - share) / count
    if blocks is not None:
        sums, counts = _block_sums(found, np.ones(count), np.asarray(blocks))
        if len(sums) == 1:
            return Interval(share, 0.0, 1.0, math.inf)
        reach = _student(0.5 + confidence / 2, len(sums) - 1)
        variance = max(LEAST_SPREAD * variance, _stderr(sums, counts, share) ** 2)
    independent = share * (1 - share) / variance if variance else count
    spread = reach**2 / independent
    middle = (share + spread / 2) / (1 + spread)
    half = reach / (1 + spread) * math.sqrt(share * (1 - share) / independent + spread / (4 * independent))
    return Interval(
        share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)), math.sqrt(variance)
    )


def paired_shares(hits: NDArray[Any], base: NDArray[Any], confidence: float = CONFIDENCE) -> Interval:
    """Give the difference of two shares of the same independent items, with Bonett and Price's interval.

    It says something even where no item differs: that none of so many did.
    """
    ours, theirs = _floats(hits) > 0, _floats(base) > 0
    count = len(ours)
    if not count:
        raise BenchError("interval", "nothing counted", "give at least one item")
    gained, lost = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    mean, up, down = (gained - lost) / count, (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    stderr = math.sqrt((up + down - (up - down) ** 2) / (count + 2))
    reach = NORMAL.inv_cdf(0.5 + confidence / 2) * stderr
    return Interval(mean, max(-1.0, min(mean, up - down - reach)), min(1.0, max(mean, up - down + reach)), stderr)


def _floats(values: NDArray[Any]) -> Array:
    array = np.asarray(values, np.float64)
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        raise BenchError("interval", f"{array[wrong[0]]} at value {wrong[0]} of {len(array)}", "measure again")
    return array


def _block_sums(numerators: Array, denominators: Array, blocks: NDArray[Any]) -> tuple[Array, Array]:
    """Sum each block up, in the order of their numbers; neighbours are joined where there are too many."""
    assert len(numerators) == len(denominators) == len(blocks), "a block for every value"
    names, places = np.unique(blocks, return_inverse=True)
    places = places * min(len(names), MOST) // max(len(names), 1)
    number = min(len(names), MOST)
    sums, counts = (np.bincount(places, parts, number) for parts in (numerators, denominators))
    return sums.astype(np.float64), counts.astype(np.float64)  # (blocks,)


def _stderr(sums: Array, counts: Array, mean: float) -> float:
    """Give a ratio's standard error from how the blocks scatter around it."""
    number = len(sums)
    scatter = np.square(sums - mean * counts).sum() * number / (number - 1)
    return float(math.sqrt(scatter) / counts.sum())


def _resample(sums: Array, counts: Array, resamples: int, random: np.random.Generator) -> Array:
    """Draw as many blocks as there are, again and again, and give each draw's ratio."""
    number, ratios = len(sums), []
    at_once = max(1, DRAWN // number)
    for start in range(0, resamples, at_once):
        chosen = random.integers(number, size=(min(at_once, resamples - start), number), dtype=np.int32)
        above, below = sums[chosen].sum(1), counts[chosen].sum(1)  # (resamples,)
        ratios.append(above[below > 0] / below[below > 0])
    return np.concatenate(ratios)


def _jackknife(sums: Array, counts: Array) -> Array:
    """Give the ratio without each block in turn."""
    below = counts.sum() - counts
    kept = below > 0
    without: Array = (sums.sum() - sums)[kept] / below[kept]
    return without


def _corrected(drawn: Array, mean: float, without: Array, reach: float) -> tuple[float, float]:
    """Give the bounds whose ranks among the draws allow for their bias and their lean (Efron's BCa)."""
    deviations = without.mean() - without
    cubes, squares = np.power(deviations, 3).sum(), np.square(deviations).sum()
    if squares <= (1e-14 * abs(mean)) ** 2:  # every block says the same
        return mean, mean
    lean = float(cubes / (6 * squares**1.5))
    slack = 1e-12 * abs(mean)  # a tie counts as half
    share = float(((drawn < mean - slack).mean() + (drawn <= mean + slack).mean()) / 2)
    bias = NORMAL.inv_cdf(min(max(share, 1 / len(drawn)), 1 - 1 / len(drawn)))
    ranks = [NORMAL.cdf(bias + (bias + z) / max(1 - lean * (bias + z), 1e-3)) for z in (-reach, reach)]
    low, high = np.quantile(drawn, ranks)
    return min(float(low), mean), max(float(high), mean)


@cache
def _student(probability: float, freedom: int) -> float:
    """Give Student's quantile: in the angle whose tangent is t/√freedom, its density is a power of the cosine."""
    if freedom > 1000:
        return NORMAL.inv_cdf(probability)
    angles = np.linspace(-math.pi / 2, math.pi / 2, 200_001)
    density = np.power(np.cos(angles).clip(0), freedom - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    angle = float(np.interp(probability, below / below[-1], angles))
    return math.sqrt(freedom) * math.tan(angle)
