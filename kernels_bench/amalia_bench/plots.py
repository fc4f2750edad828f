"""Records drawn: the only file that imports matplotlib, and only when something is drawn.

A picture is drawn at any width, for a screen and for a phone. In SVG its ink is `currentColor` and custom properties, so
that the page around it decides between light and dark; in PNG it is black on white.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from amalia_bench.labels import LEAD, Box, along, disc, place_labels, spread_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure
    from matplotlib.text import Annotation

WIDE, NARROW = 760, 360  # CSS pixels
PER_INCH = 72  # of them, in an SVG of matplotlib's
TEXT_SIZE = 12.5
END_LEAD = 12  # pixels from a line's end to its name
# Blue, vermilion, green, purple, amber, sky, brown: told apart by those who see fewer colours, each with a marker beside
LIGHT = ("#0067a5", "#c44900", "#00805c", "#a8467f", "#946300", "#2a83b8", "#6b4a3a")
DARK = ("#5db2f0", "#ff8b52", "#35c9a0", "#ee9cc9", "#eab94d", "#93d3fb", "#cfa795")
LIGHT_TEXT, DARK_TEXT = "#1b1d20", "#e8e6e3"
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Ink:
    """What a picture is drawn with."""

    text: str
    series: tuple[str, ...]

    def of(self, at: int) -> str:
        return self.series[at % len(self.series)]


# colours that stand for the page's own, in an SVG until it is written
STAND_INS = Ink("#010203", tuple(f"#0a0b0{at}" for at in range(len(LIGHT))))
PRINTED = Ink(LIGHT_TEXT, LIGHT)
Draw = Callable[["Figure", Ink], None]
End = tuple[tuple[float, float], str, str]  # a line's last point, its name and its colour


@dataclass(frozen=True)
class Picture:
    """A plot: what it is called, what it says to those who do not see it, and how it is drawn at a width."""

    name: str  # of its files
    section: str  # of the report
    title: str
    description: str
    caption: str  # its place, and how to read it
    draw: Draw
    height: Callable[[int], int]  # pixels, at a width

    def svg(self, width: int = WIDE) -> str:
        """Draw it as an element for a page, every name in it its own."""
        return _as_element(self._drawn(width, STAND_INS, "svg").decode(), f"{self.name}-{width}", self)

    def alone(self) -> bytes:
        """Draw it as an SVG file, which asks its reader for light or dark."""
        spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        drawn = self.svg().replace("<svg ", f"<svg {spaces} ", 1)
        return drawn.replace("<title", f"<style>{_alone()}</style><title", 1).encode()

    def png(self, width: int = WIDE) -> bytes:
        return self._drawn(width, PRINTED, "png")

    def _drawn(self, width: int, ink: Ink, form: str) -> bytes:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        settings = {
            "font.size": TEXT_SIZE, "font.family": "DejaVu Sans", "svg.fonttype": "none", "svg.hashsalt": self.name, "text.color": ink.text,
            "axes.edgecolor": ink.text, "axes.labelcolor": ink.text, "xtick.color": ink.text, "ytick.color": ink.text,
            "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.titlesize": TEXT_SIZE, "axes.titleweight": "bold",
            "axes.titlelocation": "left", "grid.color": ink.text, "grid.alpha": 0.14, "grid.linewidth": 0.8, "lines.linewidth": 1.8,
            "xtick.minor.size": 0, "ytick.minor.size": 0, "xtick.labelsize": TEXT_SIZE - 1, "ytick.labelsize": TEXT_SIZE - 1,
            "axes.labelsize": TEXT_SIZE, "text.parse_math": False,
        }  # fmt: skip
        written = io.BytesIO()
        with matplotlib.rc_context(settings):
            size = width / PER_INCH, self.height(width) / PER_INCH
            figure = Figure(figsize=size, dpi=PER_INCH, layout="constrained")
            FigureCanvasAgg(figure)  # which measures text
            figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)  # type: ignore[call-arg,union-attr]
            self.draw(figure, ink)
            if form == "svg":
                figure.savefig(
                    written,
                    format="svg",
                    transparent=True,
                    metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
                )
            else:
                figure.savefig(written, format="png", dpi=2 * PER_INCH, facecolor="white")
        return written.getvalue()


def colours(series: Sequence[str], text: str) -> str:
    """Give the style that pictures take their ink from."""
    return f"color:{text};" + "".join(f"--c{at}:{colour};" for at, colour in enumerate(series))


def _alone() -> str:
    return f"svg{{{colours(LIGHT, LIGHT_TEXT)}}}@media(prefers-color-scheme:dark){{svg{{{colours(DARK, DARK_TEXT)}}}}}"


def _as_element(drawn: str, own: str, picture: Picture) -> str:
    """Make of matplotlib's file an element: no prologue, no metadata, names of its own, the page's ink and letters."""
    body = drawn[drawn.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*|<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{own}-", body)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda one: one[0] if one[1] in used else "", body)
    body = body.replace(STAND_INS.text, "currentColor")
    for at, stand_in in enumerate(STAND_INS.series):
        body = body.replace(stand_in, f"var(--c{at},{LIGHT[at]})")
    body = re.sub(r"font: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font: \1system-ui, sans-serif", body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", body)
    box = re.search(r'viewBox="[^"]*"', body)
    end = body.index(">", body.index("<svg")) + 1
    told = f'<title id="{own}-title">{escape(picture.title)}</title><desc id="{own}-desc">{escape(picture.description)}</desc>'
    head = f'<svg {box[0] if box else ""} role="img" aria-labelledby="{own}-title {own}-desc">'
    return head + told + body[end:]


def is_narrow(figure: "Figure") -> bool:
    return figure.get_figwidth() * PER_INCH < 500


def one_axes(figure: "Figure", x: str, y: str) -> "Axes":
    axes = figure.subplots()
    axes.grid(axis="both")
    axes.set_axisbelow(True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return axes


def logarithmic(axes: "Axes", *names: str) -> None:
    """Make axes logarithmic, with plain numbers on them: 0.01, not ten to the minus two."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    for name in names:
        axes.set(**{f"{name}scale": "log"})
        axis, (low, high) = (axes.xaxis, axes.get_xlim()) if name == "x" else (axes.yaxis, axes.get_ylim())
        between = (1.0,) if abs(math.log10(high / low)) > 2 else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=between, numticks=9))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _at: f"{value:g}"))


def _pixels(axes: "Axes", point: tuple[float, float]) -> tuple[float, float]:
    x, y = axes.transData.transform(point)
    return float(x), float(y)


def _settle(figure: "Figure") -> None:
    """Lay a figure out for good, so that what is then placed by the pixel stays beside what it names."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def label_points(figure: "Figure", axes: "Axes", places: Sequence[tuple[float, float]], radii: Sequence[float], texts: Sequence[str], ink: Ink, line: Sequence[tuple[float, float]] = ()) -> None:  # fmt: skip
    """Write a label beside each point, on nothing else nor on `line`, and lead to it where it had to stand apart."""
    _settle(figure)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    at = [_pixels(axes, one) for one in places]
    points = [disc(x, y, radius + 1) for (x, y), radius in zip(at, radii, strict=True)]
    written = [
        axes.annotate(text, (0, 0), xycoords="figure points", fontsize=TEXT_SIZE - 1, linespacing=1.05)
        for text in texts
    ]
    sizes = [(box.width + 2, box.height + 2) for box in (one.get_window_extent(renderer) for one in written)]
    inside = axes.get_window_extent(renderer)
    taken = along([_pixels(axes, one) for one in line])
    frame = Box(inside.x0 + 2, inside.y0 + 2, inside.width, inside.height)
    for one, box, point in zip(written, place_labels(points, sizes, frame, taken), points, strict=True):
        one.remove()
        middle, nearest = point.middle, box.nearest(point.middle)
        if math.dist(middle, nearest) > point.width / 2 + LEAD:
            axes.annotate("", nearest, middle, xycoords="figure points", textcoords="figure points",
                          arrowprops={"arrowstyle": "-", "color": ink.text, "alpha": 0.4, "linewidth": 0.8, "shrinkA": point.width / 2, "shrinkB": 0})  # fmt: skip
        axes.annotate(
            one.get_text(),
            (box.x + 1, box.y + 1),
            xycoords="figure points",
            fontsize=TEXT_SIZE - 1,
            linespacing=1.05,
            va="bottom",
            gid="label",
        )


def label_ends(figure: "Figure", panels: Mapping["Axes", Sequence[End]]) -> None:
    """Name each line of each panel at its right end, the names apart from one another and level with their panel."""
    written = {axes: [_name_end(axes, *end) for end in ends] for axes, ends in panels.items()}
    _settle(figure)  # with the names in it: from here on they move up and down only, which takes no more room
    for axes, names in written.items():
        _part(axes, names)


def _name_end(axes: "Axes", end: tuple[float, float], name: str, colour: str) -> "Annotation":
    leader = {"arrowstyle": "-", "color": colour, "alpha": 0.6, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 3, "relpos": (0, 0.5)}  # fmt: skip
    return axes.annotate(
        name,
        end,
        (END_LEAD, 0),
        textcoords="offset points",
        color=colour,
        fontsize=TEXT_SIZE - 1,
        va="center",
        annotation_clip=False,
        gid="label",
        arrowprops=leader,
    )


def _part(axes: "Axes", names: Sequence["Annotation"]) -> None:
    """Move names up and down until none touches the next."""
    heights = [_pixels(axes, one.xy)[1] for one in names]
    gap = 2 + max((one.get_window_extent().height for one in names), default=0.0)  # their leaders are level as yet
    inside = axes.get_window_extent()
    places = spread_out(heights, gap, inside.y0 + gap / 2, inside.y1 - gap / 2)
    for one, height, place in zip(names, heights, places, strict=True):
        one.set_position((END_LEAD, place - height))


def legend(figure: "Figure", ink: Ink, entries: Sequence[tuple[str, int, str]], more: str = "") -> None:
    """Say above a picture what its marks are."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=marker, color=ink.of(at), markersize=7, label=name)
        for name, at, marker in entries
    ]
    if more:
        handles.append(Line2D([], [], color=ink.text, linewidth=1.4, label=more.removeprefix("roof: ")))
    columns = len(handles) if not is_narrow(figure) else 2
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        handletextpad=0.5,
        columnspacing=1.2,
        borderpad=0,
        fontsize=TEXT_SIZE - 1,
    )
