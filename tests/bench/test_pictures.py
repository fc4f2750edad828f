"""What pictures show, and that nothing in them is in the way of anything else."""

import itertools
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from amalia_bench.pictures import COMMON, pictures
from amalia_bench.plots import NARROW, WIDE, Ink, Picture
from bench.example_records import energy_body, everything, kernel_body, quality_body, row, speed_body, variety_body

ROWS = everything()
ALL = {picture.name: picture for picture in pictures(ROWS)}
LABELLED = [("pareto-toy-9b", 7), ("percentiles-toy-9b", 7), ("roofline", 12), ("trace", 4)]


def test_a_whole_run_fills_every_picture() -> None:
    assert list(ALL) == [
        "pareto-toy-9b",
        "languages-toy-9b",
        "percentiles-toy-9b",
        "variety-toy-9b",
        "roofline",
        "trace",
    ]


def test_without_records_there_is_no_picture() -> None:
    assert pictures([]) == []


def test_two_models_pictures_have_two_names() -> None:
    rows = [
        row("quality", quality_body(kld), level, name=name)
        for name in ("A-b", "a b")
        for level, kld in (("Q4_0", 0.1), ("Q8_0", 0.01))
    ]
    names = [picture.name for picture in pictures(rows)]
    assert len(names) == len(set(names)) == 4


def test_of_many_levels_the_usual_ones_are_drawn_and_it_is_said() -> None:
    levels = [*COMMON, *(f"IQ9_{letter}" for letter in "ABCDEFGHIJ")]
    rows = [row("quality", quality_body(0.001 * at), level) for at, level in enumerate(levels, 1)]
    for picture in pictures(rows):
        if picture.name.startswith(("pareto", "percentiles")):
            assert "IQ9_A" not in picture.svg(WIDE)
            assert f"{len(COMMON)} of {len(levels)} levels" in picture.caption


def drawn(picture: Picture, width: int) -> list[Annotation]:
    """Draw, and give every label, in the figure it stands in."""
    figures = []

    def kept(figure: Figure, ink: Ink) -> None:
        picture.draw(figure, ink)
        figures.append(figure)

    replace(picture, draw=kept).png(width)
    figures[0].draw_without_rendering()  # in pixels of a page again
    return figures[0].findobj(lambda one: one.get_gid() == "label")


def letters(label: Annotation) -> Bbox:
    """Give the room a label's letters take; its own extent has its leader in it too."""
    return Text.get_window_extent(label)


def gaps(one: Bbox, other: Bbox) -> tuple[float, float]:
    """Give how far two boxes are apart, across and along; less than nought where they share some."""
    return max(one.x0, other.x0) - min(one.x1, other.x1), max(one.y0, other.y0) - min(one.y1, other.y1)


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize(("name", "count"), LABELLED)
def test_no_label_lies_on_another(name: str, count: int, width: int) -> None:
    boxes = [letters(label) for label in drawn(ALL[name], width)]
    assert len(boxes) == count
    for one, other in itertools.combinations(boxes, 2):
        assert max(gaps(one, other)) > 0


@pytest.mark.parametrize(("name", "count"), LABELLED)
def test_no_label_leaves_the_picture(name: str, count: int) -> None:
    boxes = [letters(label) for label in drawn(ALL[name], NARROW)]
    assert len(boxes) == count
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= NARROW + 1 and box.y1 <= ALL[name].height(NARROW) + 1


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_names_of_lines_that_end_together_stand_apart(width: int) -> None:
    rows = [row("quality", quality_body(0.01 + at / 1e6), level) for at, level in enumerate(COMMON)]
    percentiles = next(picture for picture in pictures(rows) if picture.name.startswith("percentiles"))
    boxes = sorted((letters(label) for label in drawn(percentiles, width)), key=lambda box: box.y0)
    assert len(boxes) == len(COMMON)
    for one, other in itertools.pairwise(boxes):
        assert 1 < gaps(one, other)[1] < 4


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", ["percentiles-toy-9b", "trace"])
def test_a_lines_name_stands_level_with_its_panel(name: str, width: int) -> None:
    for label in drawn(ALL[name], width):
        panel = label.axes.get_window_extent()
        assert panel.y0 <= letters(label).y0 and letters(label).y1 <= panel.y1


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", ["percentiles-toy-9b", "trace"])
def test_leaders_to_the_names_of_lines_do_not_cross(name: str, width: int) -> None:
    arrows = [label.arrow_patch for label in drawn(ALL[name], width)]
    leaders = [arrow.get_path().transformed(arrow.get_transform()) for arrow in arrows]
    assert not any(one.intersects_path(other) for one, other in itertools.combinations(leaders, 2))


def test_a_picture_tells_its_figures_to_those_who_do_not_see_it() -> None:
    root = ElementTree.fromstring(ALL["pareto-toy-9b"].alone())
    title, description = (root.find(f"{{http://www.w3.org/2000/svg}}{name}") for name in ("title", "desc"))
    assert title is not None and title.text == "Toy 9B: size, loss and speed"
    assert description is not None and "Toy-9B-Q4_K_M.gguf: 5.61 GB, 0.0313 nats" in str(description.text)
    assert root.get("role") == "img" and str(title.get("id")) in str(root.get("aria-labelledby"))


def test_a_picture_takes_its_ink_from_the_page() -> None:
    drawn = ALL["languages-toy-9b"].svg()
    assert "currentColor" in drawn and "var(--c0," in drawn and "#010203" not in drawn and "#0a0b0" not in drawn


def test_an_svg_file_has_colours_for_light_and_dark() -> None:
    alone = ALL["trace"].alone().decode()
    assert "prefers-color-scheme:dark" in alone and "--c0:" in alone


def test_a_models_name_is_text_in_a_picture() -> None:
    rows = [
        row("quality", quality_body(kld), level, name='<script>&"') for level, kld in (("Q4_0", 0.1), ("Q8_0", 0.01))
    ]
    drawn = pictures(rows)[0].svg()
    assert "<script" not in drawn and "&lt;script&gt;&amp;" in drawn


def test_a_dollar_sign_is_no_formula() -> None:
    rows = [row("energy", energy_body() | {"level": "$x_1$"}, name="a")]
    assert re.search(r"<text[^>]*>\$x_1\$ tg128</text>", pictures(rows)[0].svg(NARROW))


def test_a_png_is_one() -> None:
    assert ALL["trace"].png(NARROW).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "rows",
    [
        [row("quality", quality_body(0.0), level) for level in ("Q8_0", "Q4_0")],
        [row("kernels", kernel_body("Q4_K", "mat_vec", 20, 3.6) | {"bandwidth_share": None, "peak_share": None}, None)],
        [row("energy", energy_body(trace=[[0, 5.0, None], [1, 6.0, None]]))],
        [row("energy", energy_body(trace=[[0, None, 50.0], [1, None, 51.0]]))],
        [row("variety", variety_body(overall=None, gradients={}))],
        [row("speed", speed_body())],
    ],
    ids=["no loss", "no roof", "no thermometer", "no power", "no whole", "speed only"],
)
def test_what_is_missing_is_left_out(rows: list[dict[str, object]]) -> None:
    for picture in pictures(rows):
        assert picture.svg(NARROW).startswith("<svg ")
