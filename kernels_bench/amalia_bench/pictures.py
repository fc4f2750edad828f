"""What each picture shows: records turned into plots of size, loss, languages, percentiles, variety, kernels and heat."""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from amalia_bench.choices import ABROAD, HOME, Choice, choices, frontier, level_of, model_of, size_of
from amalia_bench.figures import interval, number, significant
from amalia_bench.place import by_place, machine, place
from amalia_bench.plots import (
    MARKERS,
    TEXT_SIZE,
    Ink,
    Picture,
    is_narrow,
    label_ends,
    label_points,
    legend,
    logarithmic,
    one_axes,
)  # fmt: skip

if TYPE_CHECKING:
    from amalia_bench.plots import Axes, End, Figure

Row = Mapping[str, Any]
Of = TypeVar("Of")
MOST_DRAWN = 12  # levels in a picture whose points have names
COMMON = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "IQ3_XXS", "Q2_K", "IQ2_M", "IQ1_M")
PERCENTILES = (("median", "median"), ("90", "90 %"), ("95", "95 %"), ("99", "99 %"), ("99.9", "99.9 %"), ("max", "max"))


def pictures(rows: Sequence[Row]) -> list[Picture]:
    """Give every picture that these rows can fill."""
    here = most_measured(rows)
    of_models: dict[str, list[Choice]] = {}
    for one in choices(rows, here):
        of_models.setdefault(one.model, []).append(one)
    found = [made for model, files in of_models.items() for made in _of_quality(model, files, here)]
    found += [_variety(model, told) for model, told in _by_model(rows, "variety").items()]
    kernels = by_place(row for row in rows if row["kind"] == "kernels")
    found += [_roofline(told) for told in kernels.values() if _kernels(told)]
    traced = by_place(row for row in rows if row["kind"] == "energy" and len(row.get("trace") or ()) > 1)
    return _named_apart([*found, *map(_trace, traced.values())])


def most_measured(rows: Sequence[Row]) -> str | None:
    """Name the machine most of the speeds are of: a picture shows one machine's."""
    machines = [machine(row) for row in rows if row["kind"] in ("speed", "shape") and not row.get("prediction")]
    return max(machines, key=machines.count, default=None)


def _named_apart(found: Iterable[Picture]) -> list[Picture]:
    """Give every picture a name that no other has."""
    seen: dict[str, int] = {}
    kept = []
    for one in found:
        seen[one.name] = seen.get(one.name, 0) + 1
        kept.append(one if seen[one.name] == 1 else replace(one, name=f"{one.name}-{seen[one.name]}"))
    return kept


def _by_model(rows: Sequence[Row], kind: str) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["kind"] == kind:
            found.setdefault(model_of(row), []).append(row)
    return found


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "model"


def _of_quality(model: str, files: list[Choice], here: str | None) -> list[Picture]:
    measured = [one for one in files if (one.loss() or 0) > 0]
    both = [one for one in measured if (one.loss(ABROAD) or 0) > 0]
    spread = [one for one in measured if number(one.quality[HOME], "kld_percentiles", "99")]
    found = [_pareto(model, measured, here)] if len(measured) > 1 else []
    found += [_languages(model, both)] if both else []
    return [*found, _percentiles(model, spread)] if spread else found


def _named(files: list[Of], level: Callable[[Of], str] = attrgetter("level")) -> list[Of]:
    """Choose the levels whose names find room: all, or of many the usual ones; the tables have every one."""
    usual = [one for one in files if level(one) in COMMON]
    return files if len(files) <= MOST_DRAWN else usual if len(usual) > 1 else files[:MOST_DRAWN]


def _some(shown: Sequence[object], files: Sequence[object]) -> str:
    return "" if len(shown) == len(files) else f" {len(shown)} of {len(files)} levels; the table has all."


def _pareto(model: str, every: list[Choice], here: str | None) -> Picture:
    files = _named(every)

    def draw(figure: "Figure", ink: Ink) -> None:
        axes = one_axes(figure, "file size, GB", "loss: mean KL divergence, nats")
        places = [(one.nbytes / 1e9, one.loss() or 0.0) for one in files]
        fastest = max((one.speed or 0 for one in files), default=0) or 1
        radii = [3 + 9 * math.sqrt(one.speed / fastest) if one.speed else 4.0 for one in files]
        line = [(one.nbytes / 1e9, one.loss() or 0.0) for one in frontier(files)]
        axes.plot(*zip(*line, strict=True), color=ink.text, alpha=0.35, linewidth=1.2, zorder=1)
        for one, (x, y), radius in zip(files, places, radii, strict=True):
            look: dict[str, Any] = {
                "facecolor": ink.of(0) if one.speed else "none",
                "edgecolor": ink.of(0),
                "linewidth": 1.4,
            }
            axes.scatter([x], [y], s=(2 * radius) ** 2, alpha=0.8, zorder=3, **look)
            if (between := one.loss_between()) and between[0] > 0:
                axes.plot([x, x], between, color=ink.text, linewidth=1.4, zorder=4)
        axes.margins(x=0.13, y=0.12)
        logarithmic(axes, "y")
        label_points(figure, axes, places, radii, [_with_speed(one) for one in files], ink, line)

    told = "; ".join(
        f"{one.file}: {one.nbytes / 1e9:.3g} GB, {significant(one.loss())} nats, {_with_speed(one)}" for one in files
    )
    measured = f"Speeds: {here}. " if any(one.speed for one in files) else "No speed was measured. "
    way = "Left and down is better, a larger disc writes faster, and the line joins the files that none beats in both."
    caption = f"{measured}Loss in Portuguese. {way} Bars: 95 %.{_some(files, every)}"
    return Picture(
        f"pareto-{_slug(model)}", "choice", f"{model}: size, loss and speed", told, caption, draw,
        lambda width: 430 if width > 500 else 400,
    )  # fmt: skip


def _with_speed(one: Choice) -> str:
    return f"{one.level}\n{significant(one.speed)} t/s" if one.speed else one.level


def _languages(model: str, files: list[Choice]) -> Picture:
    def draw(figure: "Figure", ink: Ink) -> None:
        axes = one_axes(figure, "mean KL divergence, nats", "")
        for at, one in enumerate(files):
            ends = [one.loss() or 0.0, one.loss(ABROAD) or 0.0]
            axes.plot(ends, [at, at], color=ink.text, alpha=0.3, linewidth=1.2, zorder=1)
            for text, value, order, marker in ((HOME, ends[0], 1, "o"), (ABROAD, ends[1], 0, "D")):
                if (between := one.loss_between(text)) and between[0] > 0:
                    axes.plot(between, [at, at], color=ink.of(order), linewidth=3.2, alpha=0.45, zorder=2)
                axes.scatter([value], [at], s=46, color=ink.of(order), marker=marker, zorder=3)
        axes.set_yticks(range(len(files)), [one.level for one in files])
        axes.set_ylim(len(files) - 0.5, -0.5)
        axes.margins(x=0.08)
        logarithmic(axes, "x")
        legend(figure, ink, [("Portuguese (pt-PT)", 1, "o"), ("English", 0, "D")])

    told = "; ".join(f"{one.level}: Portuguese {significant(one.loss())}, English {significant(one.loss(ABROAD))}" for one in files)  # fmt: skip
    caption = "The same content in both languages, read by the same files. Bars: 95 %."
    title = f"{model}: what Portuguese loses beside English"
    return Picture(f"languages-{_slug(model)}", "quality", title, told, caption, draw, lambda _: 84 + 32 * len(files))


def _at_percentile(one: Choice, name: str) -> float | None:
    """Give the divergence that a share of the tokens stays below, where it can be drawn."""
    row = one.quality[HOME]
    key = {"median": ("median_kld",), "max": ("max_kld",)}.get(name, ("kld_percentiles", name))
    found = number(row, *key)
    return found if found and found > 0 else None


def _percentiles(model: str, every: list[Choice]) -> Picture:
    files = _named(every)

    def draw(figure: "Figure", ink: Ink) -> None:
        axes = one_axes(figure, "share of the tokens below", "KL divergence, nats")
        ends = []
        for order, one in enumerate(files):
            shown = [(x, value) for x, (name, _) in enumerate(PERCENTILES) if (value := _at_percentile(one, name))]
            marker = MARKERS[order % len(MARKERS)]
            axes.plot(*zip(*shown, strict=True), color=ink.of(order), marker=marker, markersize=5.5)
            ends.append((shown[-1], one.level, ink.of(order)))
        axes.set_xticks(range(len(PERCENTILES)), [label for _, label in PERCENTILES])
        if is_narrow(figure):
            axes.tick_params(axis="x", labelsize=TEXT_SIZE - 2.5)
        logarithmic(axes, "y")
        label_ends(figure, {axes: ends})

    told = "; ".join(
        f"{one.level}: " + ", ".join(f"{label} {significant(_at_percentile(one, name))}" for name, label in PERCENTILES)
        for one in files
    )
    caption = (
        "Each token's divergence from the full model, in order of size: a file is as good as its worst tokens. Portuguese."
        + _some(files, every)
    )
    return Picture(
        f"percentiles-{_slug(model)}", "quality", f"{model}: KL divergence by percentile", told, caption, draw,
        lambda width: 400 if width > 500 else 360,
    )  # fmt: skip


@dataclass(frozen=True)
class _Line:
    """One line of a panel: a class, or all of them."""

    name: str
    keys: tuple[str, ...]
    place: float
    gradient: bool


def _lines(row: Row) -> list[_Line]:
    """List the classes from top to bottom, with room between the whole, the categorical ones and the gradients."""
    found = [_Line("overall", ("overall",), 0.0, False)]
    for kind in ("classes", "gradients"):
        for at, name in enumerate(row.get(kind) or {}):
            found.append(_Line(name.replace("_", " "), (kind, name), found[-1].place + (1.6 if at == 0 else 1), kind == "gradients"))  # fmt: skip
    return found


def _variety(model: str, rows: list[Row]) -> Picture:
    asked = [str(row.get("prompt")) for row in rows]
    prompt = "default" if "default" in asked else asked[0]
    shown = sorted((row for row in rows if str(row.get("prompt")) == prompt), key=size_of, reverse=True)
    drifted = [row for row in shown if number(row, "overall", "delta_margin") is not None]
    key, every = ("delta_margin", drifted) if drifted else ("margin", shown)
    shown = _named(every, level_of)
    lines = _lines(shown[0])
    said = "← Brazilian · change of the margin, nats · European →" if drifted else "margin for European, nats"

    def draw(figure: "Figure", ink: Ink) -> None:
        across = _across(len(shown), narrow=is_narrow(figure))
        grid = figure.subplots(math.ceil(len(shown) / across), across, sharex=True, sharey=True, squeeze=False)
        for panel in grid.flat[len(shown) :]:
            panel.set_visible(False)
        for panel, row in zip(grid.flat, shown, strict=False):
            _panel(panel, row, key, lines, ink)
        grid[0][0].set_yticks([line.place for line in lines], [line.name for line in lines])
        grid[0][0].set_ylim(lines[-1].place + 0.6, -0.6)
        figure.supxlabel(said, fontsize=TEXT_SIZE)

    told = "; ".join(f"{level_of(row)}: {significant(number(row, 'overall', key))} nats overall" for row in shown)
    against = f", against {shown[0].get('against')}" if drifted and shown[0].get("against") else ""
    caption = (
        f"How much likelier the European wording is than the Brazilian one{against}; prompt: {prompt}. Bars: 95 %; "
        f"coloured where they leave out nought. Diamonds: gradients, of which Portugal uses both.{_some(shown, every)}"
    )

    def height(width: int) -> int:
        return 40 + math.ceil(len(shown) / _across(len(shown), narrow=width < 500)) * round(50 + 19 * lines[-1].place)

    title = f"{model}: European or Brazilian, by class"
    return Picture(f"variety-{_slug(model)}", "variety", title, told, caption, draw, height)


def _across(panels: int, *, narrow: bool) -> int:
    """Say how many panels stand side by side: rows as full as can be."""
    most = 2 if narrow else 4
    return math.ceil(panels / math.ceil(panels / most))


def _panel(panel: "Axes", row: Row, key: str, lines: Sequence[_Line], ink: Ink) -> None:
    """Draw one level's classes."""
    panel.axvline(0, color=ink.text, linewidth=1, alpha=0.6)
    panel.grid(axis="x")
    panel.set_title(level_of(row) or model_of(row))
    for line in lines:
        value, between = number(row, *line.keys, key), interval(row, *line.keys, f"{key}_ci95")
        if value is None:
            continue
        away = between is not None and (between[1] < 0 or between[0] > 0)
        colour = ink.text if not away else ink.of(1) if value < 0 else ink.of(0)
        if between:
            panel.plot(between, [line.place] * 2, color=colour, linewidth=2.2, alpha=0.5)
        panel.plot([value], [line.place], "D" if line.gradient else "o", color=colour, markersize=5)
    panel.tick_params(axis="y", length=0)
    panel.tick_params(axis="x", labelbottom=True)
    panel.spines["left"].set_visible(False)
    panel.locator_params(axis="x", nbins=4)


@dataclass(frozen=True)
class _Kernel:
    """What a type's kernel does, over all the shapes it was measured at."""

    type: str
    vector: bool
    intensity: float  # FLOP for each byte
    gflops: float


def _kernels(rows: Sequence[Row]) -> list[_Kernel]:
    """Gather the shapes of each type and operation to one point: the geometric means."""
    found: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for row in rows:
        flops, read = number(row, "gflops") or 0.0, number(row, "gbps") or 0.0
        if row.get("operation") in ("mat_vec", "mat_mat") and flops > 0 and read > 0:
            key = str(row.get("type")), row["operation"] == "mat_vec"
            found.setdefault(key, []).append((flops / read, flops))
    mean = statistics.geometric_mean
    return [_Kernel(*key, *(mean(column) for column in zip(*points, strict=True))) for key, points in found.items()]


def _roof(rows: Sequence[Row], rate: str, share: str) -> float:
    """Find what a rate is a share of; 0 where no row says it."""
    told = [(number(row, rate), number(row, share)) for row in rows]
    return max((value / part for value, part in told if value and part), default=0.0)


def _roofline(rows: list[Row]) -> Picture:
    points = _kernels(rows)
    bandwidth, peak = _roof(rows, "gbps", "bandwidth_share"), _roof(rows, "gflops", "peak_share")
    roof = " and ".join([f"{bandwidth:.3g} GB/s"][: bandwidth > 0] + [f"{peak:.4g} GFLOP/s"][: peak > 0])

    def draw(figure: "Figure", ink: Ink) -> None:
        axes = one_axes(figure, "operations for each byte read, FLOP/B", "GFLOP/s")
        left, right = min(one.intensity for one in points) / 3, max(one.intensity for one in points) * 3
        knee = min(max(peak / bandwidth, left), right) if peak and bandwidth else right if bandwidth else left
        line = [(left, left * bandwidth), (knee, knee * bandwidth)] if bandwidth else []
        line += [(knee, peak), (right, peak)] if peak else []
        axes.plot([x for x, _ in line], [y for _, y in line], color=ink.text, linewidth=1.4)
        for one in points:
            colour, marker = (ink.of(1), "o") if one.vector else (ink.of(0), "s")
            axes.scatter([one.intensity], [one.gflops], s=46, zorder=3, color=colour, marker=marker)
        axes.margins(y=0.15)
        logarithmic(axes, "x", "y")
        axes.set_xlim(left, right)
        legend(figure, ink, [("matrix × vector", 1, "o"), ("matrix × matrix", 0, "s")], roof)
        places = [(one.intensity, one.gflops) for one in points]
        label_points(figure, axes, places, [4.5] * len(points), [one.type for one in points], ink, line)

    told = "; ".join(
        f"{one.type}, matrix × {'vector' if one.vector else 'matrix'}: {significant(one.gflops)} GFLOP/s"
        f" at {significant(one.intensity)} FLOP/B"
        for one in points
    )
    way = "Below the slope memory holds a kernel back, below the level part arithmetic; what is left to gain lies between."
    over = "The roof is a plain read loop and ggml's f32 or bf16 product: integer kernels, and memory on a better day, lie above it."
    caption = f"{place(rows[0])}. {way} {over} Geometric means over the shapes."
    return Picture(
        "roofline", "kernels", "Kernels below this machine's roof", f"Roof: {roof}. {told}", caption, draw,
        lambda width: 430 if width > 500 else 420,
    )  # fmt: skip


def _column(row: Row, column: int) -> list[tuple[float, float]]:
    """Give a trace's watts (1) or degrees (2) by its seconds, where they were read."""
    told = [point for point in row["trace"] if isinstance(point, Sequence) and len(point) > column]
    return [(point[0], point[column]) for point in told if isinstance(point[column], int | float)]


def _trace(rows: list[Row]) -> Picture:
    shown = [column for column in (1, 2) if any(_column(row, column) for row in rows)]
    names = {1: "power, W", 2: "temperature, °C"}

    def draw(figure: "Figure", ink: Ink) -> None:
        grid = figure.subplots(len(shown), 1, sharex=True, squeeze=False)
        panels: dict[Axes, list[End]] = {}
        for panel, column in zip(grid.flat, shown, strict=True):
            panel.grid(axis="y")
            panel.set_ylabel(names[column])
            panel.margins(x=0)
            ends = panels[panel] = []
            for order, row in enumerate(rows):
                if points := _column(row, column):
                    line = ("-", "--", "-.", ":")[order % 4]
                    panel.plot(*zip(*points, strict=True), color=ink.of(order), linewidth=1.5, linestyle=line)
                    name = f"{level_of(row) or model_of(row)} {row.get('test', '')}".strip()
                    ends.append((points[-1], name, ink.of(order)))
            if column == 1:
                panel.set_ylim(bottom=0)
        grid[-1][0].set_xlabel("seconds")
        label_ends(figure, panels)

    def most(row: Row, column: int, unit: str) -> str:
        return f"{significant(max((value for _, value in _column(row, column)), default=None))} {unit} at most"

    told = "; ".join(f"{model_of(row)} {level_of(row)}: {most(row, 1, 'W')}, {most(row, 2, '°C')}" for row in rows)
    sources = ", ".join(dict.fromkeys(str(row.get("source")) for row in rows))
    caption = f"{place(rows[0])}. Source: {sources}."
    return Picture("trace", "energy", "Power and temperature", told, caption, draw, lambda _: 60 + 170 * len(shown))
