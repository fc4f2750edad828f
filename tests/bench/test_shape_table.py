"""What a person reads of a shape."""

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from amalia_bench.shape import CONTEXTS, ShapeConfig, predict, rooms, shape_headers
from amalia_bench.shape_table import advice, predictions_table, rooms_table
from amalia_bench.target import find_target
from amalia_edge.host import Host
from amalia_edge.load_config import LoadConfig

HOST = Host(16 * 10**9, 15 * 10**9, 2)


def text_of(what: RenderableType) -> str:
    text = io.StringIO()
    Console(file=text, width=80, highlight=False).print(what)
    return text.getvalue()


def body(device: str, level: str = "Q4_K_M", **given: float) -> dict[str, Any]:
    return predict(ShapeConfig("amalia-9b"), level, find_target(device, **given), (0.6, 0.03), source="measured here")


def test_every_level_and_every_context_fit_into_80_columns() -> None:
    text = text_of(rooms_table(rooms(shape_headers(ShapeConfig("amalia-9b")), CONTEXTS, HOST, LoadConfig()), "a kiosk"))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "BF16" in text
    assert " no " in text


def test_a_prediction_shows_its_spread_where_there_is_one() -> None:
    assert "± " in text_of(predictions_table([body("jetson-orin-nx")]))
    sure = body("jetson-orin-nx") | {"engine_stddev_ts": 0}
    assert "± " not in text_of(predictions_table([sure]))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (body("jetson-orin-nx"), "with up to 32768 tokens of context: try it there"),
        (body("jetson-orin-nano", "Q8_0"), "does not fit on jetson-orin-nano; the largest level that does is IQ4_NL"),
        (body("raspberry-pi-5", memory=2.0), "No level of amalia-9b fits on raspberry-pi-5"),
        (body("kiosk", gbps=30.0), "give --memory GB"),
    ],
    ids=lambda value: value["device"] if isinstance(value, dict) else "",
)
def test_the_last_line_says_what_to_do_about_a_prediction(found: dict[str, Any], said: str) -> None:
    assert said in advice([], [found], [], "amalia-9b")


def test_the_last_line_without_a_measurement_names_the_largest_level_that_fits() -> None:
    found = rooms(shape_headers(ShapeConfig("amalia-9b")), (4096,), HOST, LoadConfig())
    assert "fits here is Q8_0, with up to" in advice([], [], found, "amalia-9b")
    large = rooms(shape_headers(ShapeConfig("amalia-9b")), (4096,), Host(10**11, 10**11, 2), LoadConfig())
    assert "fits here is Q8_0, with up to 32768 tokens" in advice([], [], large, "amalia-9b")  # and not F32
    assert "choose a smaller model" in advice([], [], [], "amalia-9b")
