"""What pictures show, and that nothing in them is in the way of anything else."""

import itertools
import re
from xml.etree import ElementTree

import pytest

from amalia_bench.pictures import COMMON, pictures
from amalia_bench.plots import NARROW, WIDE, Picture
from bench.example_records import energy_body, everything, kernel_body, quality_body, row, speed_body, variety_body

ROWS = everything()
ALL = {picture.name: picture for picture in pictures(ROWS)}


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


def labels_of(picture: Picture, width: int) -> list[tuple[float, float, float, float]]:
    """Draw, and give the corners of every label."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seen = []
    draw = picture.draw

    def kept(figure: Figure, ink: object) -> None:
        draw(figure, ink)  # type: ignore[arg-type]
        figure.draw_without_rendering()
        canvas = FigureCanvasAgg(figure)
        for text in figure.findobj(lambda one: one.get_gid() == "label"):
            seen.append(text.get_window_extent(canvas.get_renderer()).extents)

    object.__setattr__(picture, "draw", kept)
    try:
        picture.png(width)
    finally:
        object.__setattr__(picture, "draw", draw)
    return [tuple(box) for box in seen]


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", ["pareto-toy-9b", "percentiles-toy-9b", "roofline"])
def test_no_label_lies_on_another(name: str, width: int) -> None:
    boxes = labels_of(ALL[name], width)
    assert len(boxes) >= 7
    for (x, y, to_x, to_y), (left, low, right, high) in itertools.combinations(boxes, 2):
        assert min(to_x, right) - max(x, left) <= 0.5 or min(to_y, high) - max(y, low) <= 0.5


@pytest.mark.parametrize("name", ["pareto-toy-9b", "percentiles-toy-9b", "roofline"])
def test_no_label_leaves_the_picture(name: str) -> None:
    assert all(
        x >= 0 and y >= 0 and to_x <= NARROW + 1 and to_y <= ALL[name].height(NARROW) + 1
        for x, y, to_x, to_y in labels_of(ALL[name], NARROW)
    )


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
    assert re.search(r"<text[^>]*>\$x_1\$</text>", pictures(rows)[0].svg(NARROW))


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
