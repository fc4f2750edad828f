"""A number as it is read: with its unit, its interval, and as many digits as it bears."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

NONE = "–"  # where nothing was measured


def number(row: Mapping[str, Any], *keys: str) -> float | None:
    """Give a row's number, below its keys; None where there is none, or one that is not finite."""
    found: Any = row
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return float(found)


def interval(row: Mapping[str, Any], *keys: str) -> tuple[float, float] | None:
    """Give a row's interval, below its keys; None where there is none."""
    found: Any = row
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != 2:
        return None
    low, high = number({"at": found[0]}, "at"), number({"at": found[1]}, "at")
    return None if low is None or high is None else (low, high)


def minus(text: str) -> str:
    """Write a minus sign as wide as a plus, and nought without either."""
    return text.replace("-", "−") if any(letter in "123456789" for letter in text) else text.lstrip("-+")


def significant(value: float | None, digits: int = 3) -> str:
    """Write a number with so many digits that say something: 0.00142, 12.3, 1234."""
    if value is None:
        return NONE
    if value == 0:
        return "0"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    if places > 6:
        return minus(f"{value:.{digits - 1}e}")
    return minus(f"{value:.{max(0, places)}f}")


def count(value: float | None) -> str:
    """Write how many there are of something."""
    return NONE if value is None else f"{value:.0f}"


def bracketed(value: float | None, between: tuple[float, float] | None, digits: int = 3) -> str:
    """Write a value with its interval, all to the place that the larger bears: 0.0313 [0.0301, 0.0326]."""
    if value is None or between is None:
        return significant(value, digits)
    places = _places((value, *between), digits)
    return minus(f"{value:.{places}f}") + f" [{', '.join(minus(f'{end:.{places}f}') for end in between)}]"


def _places(values: Sequence[float], digits: int) -> int:
    """Say how many places behind the point show so many digits of the largest."""
    most = max(map(abs, values))
    return min(7, max(0, digits - 1 - math.floor(math.log10(most)))) if most else 0


def percent(value: float | None, between: tuple[float, float] | None = None, places: int = 1) -> str:
    """Write a share of one as percent, with its interval: 93.1 % [91.0, 95.2]."""
    if value is None:
        return NONE
    shown = f"{minus(f'{value * 100:.{places}f}')} %"
    return shown if between is None else f"{shown} [{', '.join(minus(f'{end * 100:.{places}f}') for end in between)}]"


def change(value: float | None, between: tuple[float, float] | None = None, places: int = 2) -> str:
    """Write a relative change of a share of one as percent, with its sign: +3.31 % [+2.90, +3.72]."""
    if value is None:
        return NONE
    shown = f"{minus(f'{value * 100:+.{places}f}')} %"
    return shown if between is None else f"{shown} [{', '.join(minus(f'{end * 100:+.{places}f}') for end in between)}]"


def signed(value: float | None, between: tuple[float, float] | None = None, digits: int = 3) -> str:
    """Write a difference with its sign and its interval: −0.120 [−0.180, −0.060]."""
    if value is None:
        return NONE
    places = _places((value, *(between or ())), digits)
    shown = minus(f"{value:+.{places}f}")
    return shown if between is None else f"{shown} [{', '.join(minus(f'{end:+.{places}f}') for end in between)}]"


def rate(mean: float | None, stdev: float | None = None) -> str:
    """Write a rate with its spread: 18.52 ± 0.04, 221.3 ± 1.2, 12345 ± 67."""
    if mean is None:
        return NONE
    places = 2 if mean < 100 else 1 if mean < 1000 else 0
    return f"{mean:.{places}f}" + (f" ± {stdev:.{places}f}" if stdev is not None else "")


def seconds(value: float | None) -> str:
    """Write a time as people say it: 25 ms, 1.24 s, 12 min."""
    if value is None:
        return NONE
    if value < 1:
        return f"{value * 1e3:.0f} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s" if value < 600 else f"{value / 60:.0f} min"
