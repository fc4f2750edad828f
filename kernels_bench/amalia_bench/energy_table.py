"""Joules for a token as a person reads them: a table, what must be known of it, and one sentence to act on."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

JOULES_PER_WATT_HOUR = 3600


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """Lay out records of energy."""
    shown = Table("test", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("tokens/s", "watts", "idle watts", "joules/token over idle", "tokens/joule", "°C", "throttled"):
        shown.add_column(heading, justify="right")
    for row in rows:
        tokens_per_joule = row["tokens_per_joule"]
        shown.add_row(
            row["test"],
            f"{row['engine_ts']:.1f}",
            f"{row['watts']:.1f}",
            f"{row['idle_watts']:.1f}",
            _with_interval(row["joules_per_token"], row["joules_per_token_ci95"]),
            "none told" if tokens_per_joule is None else _short(tokens_per_joule),
            _heat(row["trace"]),
            "yes" if row["alarms"] else "no",
        )
    return shown


def advice(rows: Sequence[dict[str, Any]]) -> str:
    """Say in one sentence what to do with the figures."""
    notes = [note for row in rows for note in row["notes"]]
    if not all(row["whole"] for row in rows):
        return "It was broken off: measure again; with --records FILE --resume what is whole is kept."
    if any(note.startswith("idling was unquiet") for note in notes):
        return (
            "Something else ran while the machine should have idled: stop it, and measure again with a longer --idle."
        )
    if any(row["joules_per_token"] is None for row in rows):
        return "This source does not see the work: give another with --source, or read a meter at the wall (--source wall)."
    if any(row["alarms"] for row in rows):
        return (
            "It was throttled while it was measured: cool the machine or choose a lower power mode, and measure again."
        )
    if any(note.startswith("no steady state") for note in notes):
        longer = 2 * max(row["warm_up_s"] for row in rows) or 20
        return f"Power or heat had not settled: measure again with --warm-up {longer:g}."
    written = next((row for row in reversed(rows) if row["test"].startswith("tg")), rows[-1])
    tokens = JOULES_PER_WATT_HOUR / written["joules_per_token_gross"]
    verb = "writes" if written["test"].startswith("tg") else "reads"
    return (
        f"One watt-hour {verb} {tokens:,.0f} tokens here, idle power included: measure another level or power mode with"
        " --records FILE, and amalia bench compare tells which gives more, of two power modes with --across-machines."
    )


def _with_interval(value: float | None, interval: Sequence[float | None]) -> str:
    if value is None:
        return "none told"
    low, high = interval
    return _short(value) if low is None or high is None else f"{_short(value)} [{_short(low)}, {_short(high)}]"


def _short(value: float) -> str:
    """Give three digits that count."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _heat(trace: Sequence[Sequence[float | None]]) -> str:
    told = [celsius for _, _, celsius in trace if celsius is not None]
    return f"{told[0]:.0f} to {told[-1]:.0f}" if told else "not told"
