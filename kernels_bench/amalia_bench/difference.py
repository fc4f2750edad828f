"""How far two figures are from each other, with the interval that their repetitions, windows or pairs show."""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from amalia_bench.figures import interval, number
from amalia_bench.intervals import paired_shares
from amalia_bench.place import place

Row = Mapping[str, Any]
# Student's t for 95 %, by degrees of freedom from 1
T95 = (
    12.71,
    4.30,
    3.18,
    2.78,
    2.57,
    2.45,
    2.36,
    2.31,
    2.26,
    2.23,
    2.20,
    2.18,
    2.16,
    2.14,
    2.13,
    2.12,
    2.11,
    2.10,
    2.09,
    2.09,
)
NORMAL95 = 1.96


@dataclass(frozen=True)
class Difference:
    """One figure of both sides, and how far B is from A: a difference, or a ratio of B to A."""

    of: str  # which measurement: quality pt-PT
    figure: str
    a: float
    b: float
    change: float
    between: tuple[float, float] | None  # 95 %; None where there was one run only
    relative: bool  # `change` is a ratio: 1 is no change
    paired: bool
    more_is_better: bool

    @property
    def verdict(self) -> str:
        """Say which side is better, as far as the interval shows it."""
        same = 1.0 if self.relative else 0.0
        if self.between is None:
            return "one run, no spread"
        if self.between[0] <= same <= self.between[1]:
            return "no difference shown"
        return "B is better" if (self.change > same) == self.more_is_better else "A is better"


@dataclass(frozen=True)
class _Figure:
    """A figure of a row: its name, where it stands, and what its spread is told from."""

    name: str
    keys: tuple[str, ...]
    spread: tuple[str, ...]  # of a rate: its repetitions; of any other: its interval
    windows: str = ""  # a value for each window, in the order of the text
    more_is_better: bool = False


RATES = {
    "speed": (
        _Figure("tokens/s, decode", ("avg_ts",), ("samples_ts",), more_is_better=True),
        _Figure("tokens/s, engine", ("engine_ts",), ("samples_engine_ts",), more_is_better=True),
    ),
    "kernels": (_Figure("time, ns", ("ns",), ("samples_ns",)),),
    "bandwidth": (_Figure("GB/s", ("read_gbps",), ("samples_gbps",), more_is_better=True),),
}
AMOUNTS = {
    "quality": (
        _Figure("mean KLD", ("mean_kld",), ("kld_ci95",), "window_kld"),
        _Figure("ln perplexity above base", ("delta_nll",), ("delta_nll_ci95",), "window_delta_nll"),
        _Figure("same top token", ("same_top",), ("same_top_ci95",), more_is_better=True),
    ),
    "energy": (_Figure("J/token", ("joules_per_token",), ("joules_per_token_ci95",)),),
}


def differences(kind: str, of: str, a: Row, b: Row) -> Iterator[Difference]:
    """Give the figures of two rows of one kind that speak of the same thing."""
    for figure in RATES.get("speed" if kind == "shape" else kind, ()):
        yield from _ratio(of, figure, a, b)
    for figure in AMOUNTS.get(kind, ()):
        yield from _difference(of, figure, a, b)
    if kind == "variety":
        yield from _variety(of, a, b)
    if kind == "tasks":
        yield from _tasks(of, a, b)


def _ratio(of: str, figure: _Figure, a: Row, b: Row) -> Iterator[Difference]:
    """Give the ratio of two rates, with the interval its repetitions show: in pairs where they were run in turns."""
    one, other = number(a, *figure.keys), number(b, *figure.keys)
    if not one or not other:
        return
    told = [row.get(figure.spread[0]) or () for row in (a, b)]
    logs = [[math.log(value) for value in side if isinstance(value, int | float) and value > 0] for side in told]
    together = _in_turns(a, b) and len(logs[0]) == len(logs[1])
    between = None
    if all(len(side) > 1 for side in logs):
        middle, reach = _paired(*logs) if together else _welch(*logs)
        between = (math.exp(middle - reach), math.exp(middle + reach))
    yield Difference(of, figure.name, one, other, other / one, between, True, together, figure.more_is_better)


def _in_turns(a: Row, b: Row) -> bool:
    """Say whether two rows are of one run, in which the models took turns."""
    same = place(a) == place(b) and a.get("test_time") == b.get("test_time") and a.get("model") != b.get("model")
    return bool(same and a.get("interleaved") and b.get("interleaved"))


def _paired(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Give the mean of the differences, and how far its 95 % interval reaches."""
    apart = [other - one for one, other in zip(a, b, strict=True)]
    return statistics.fmean(apart), student(len(apart) - 1) * statistics.stdev(apart) / math.sqrt(len(apart))


def _welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Give the difference of two means, and how far its 95 % interval reaches, the spreads being each side's own."""
    one, other = (statistics.variance(side) / len(side) for side in (a, b))
    freedom = (one + other) ** 2 / (one**2 / (len(a) - 1) + other**2 / (len(b) - 1)) if one + other else 1.0
    return statistics.fmean(b) - statistics.fmean(a), student(freedom) * math.sqrt(one + other)


def student(freedom: float) -> float:
    """Give Student's t for 95 %, at whole degrees of freedom, rounded down."""
    return T95[int(freedom) - 1] if freedom < len(T95) + 1 else NORMAL95 + 2.6 / freedom


def _difference(of: str, figure: _Figure, a: Row, b: Row) -> Iterator[Difference]:
    """Give the difference of two figures: window by window where both rows hold them, else from their intervals.

    Where both sides read the same tokens their errors go together, so that without the windows the interval is wider than
    it need be, never narrower.
    """
    one, other = number(a, *figure.keys), number(b, *figure.keys)
    if one is None or other is None:
        return
    between, paired = _across_windows(figure.windows, a, b), True
    if between is None:
        first, second = interval(a, *figure.spread), interval(b, *figure.spread)
        between, paired = (_joined(one, first, other, second) if first and second else None), False
    yield Difference(of, figure.name, one, other, other - one, between, False, paired, figure.more_is_better)


def _across_windows(name: str, a: Row, b: Row) -> tuple[float, float] | None:
    """Give the interval of the difference window by window; None where the rows do not hold them."""
    one, other = _series(a.get(name)), _series(b.get(name))
    return _around(one, other) if len(one) == len(other) else None


def _around(a: Sequence[float], b: Sequence[float]) -> tuple[float, float] | None:
    """Give the interval of the mean of the differences; None where there are not two."""
    if len(a) < 2:
        return None
    middle, reach = _paired(a, b)
    return middle - reach, middle + reach


def _series(told: object) -> list[float]:
    """Read a value for each window; nothing where one of them is missing."""
    values = told if isinstance(told, list) else []
    return [float(one) for one in values] if all(isinstance(one, int | float) for one in values) else []


def _tasks(of: str, a: Row, b: Row) -> Iterator[Difference]:
    """Compare accuracies item by item where both rows hold their answers, else from their intervals."""
    right = [[bool(one[0]) for one in row.get("answers") or () if one] for row in (a, b)]
    one, other = number(a, "accuracy"), number(b, "accuracy")
    same = [[bool(answer) for answer in row.get("answers") or ()] for row in (a, b)]
    if one is None or other is None or not right[0] or same[0] != same[1]:
        yield from _difference(of, _Figure("accuracy", ("accuracy",), ("accuracy_ci95",), more_is_better=True), a, b)
        return
    apart = paired_shares(np.array(right[1]), np.array(right[0]))
    yield Difference(of, "accuracy", one, other, apart.mean, (apart.low, apart.high), False, True, True)


def _joined(one: float, first: tuple[float, float], other: float, second: tuple[float, float]) -> tuple[float, float]:
    """Give the interval of a difference from those of both sides; below and above apart, for they may lean to one side."""
    below = math.hypot(other - second[0], first[1] - one)
    above = math.hypot(second[1] - other, one - first[0])
    return other - one - below, other - one + above


def _variety(of: str, a: Row, b: Row) -> Iterator[Difference]:
    """Compare margins by class: pair by pair where both rows hold them, else both against the same base."""
    apart = _margins_apart(a, b)
    gradients = _gradient_pairs(a, b, apart)
    for keys in (("overall",), *((kind, name) for kind in ("classes", "gradients") for name in a.get(kind) or {})):
        name = f"{keys[-1].replace('_', ' ')}{', gradient' if keys[0] == 'gradients' else ': margin'}"
        here = [pair for pair in apart if (pair in gradients) == (keys[0] == "gradients")]
        ours = [apart[pair] for pair in here if keys == ("overall",) or _class_of(pair) == keys[-1]]
        one, other = number(a, *keys, "margin"), number(b, *keys, "margin")
        if one is not None and other is not None and ours and len(ours) == number(a, *keys, "pairs"):
            between = _around([0.0] * len(ours), ours)
            yield Difference(of, name, one, other, statistics.fmean(ours), between, False, True, True)
            continue
        both = all(interval(row, *keys, "delta_margin_ci95") for row in (a, b))
        key = "delta_margin" if both else "margin"
        yield from _difference(of, _Figure(name, (*keys, key), (*keys, f"{key}_ci95"), more_is_better=True), a, b)


def _margins_apart(a: Row, b: Row) -> dict[str, float]:
    """Give how far B's margin of each pair is from A's, by the pair's id."""
    one, other = a.get("margins"), b.get("margins")
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return {}
    return {pair: float(other[pair][0]) - float(one[pair][0]) for pair in one if pair in other}


def _gradient_pairs(a: Row, b: Row, pairs: Iterable[str]) -> set[str]:
    """Name the pairs that are gradients; older rows do not: then those of the classes that hold nothing else."""
    told = next((row["gradient_pairs"] for row in (a, b) if isinstance(row.get("gradient_pairs"), list)), None)
    return {pair for pair in pairs if _class_of(pair) not in (a.get("classes") or {})} if told is None else set(told)


def _class_of(pair: str) -> str:
    """Read a pair's class in its id, which begins with it."""
    return pair.rpartition("-")[0]
