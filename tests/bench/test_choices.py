"""The files one may choose among."""

import dataclasses

from amalia_bench.choices import choices, frontier, latest
from bench.example_records import JETSON, LEVELS, LIBRARY, everything, quality_body, row, speed_body


def test_each_models_largest_file_comes_first() -> None:
    found = [one.level for one in choices(everything()) if one.model == "Toy 9B"]
    assert found == list(LEVELS)


def test_a_choice_gathers_loss_and_speed_of_one_file() -> None:
    (one,) = choices(
        [row("quality", quality_body(0.03)), row("speed", speed_body(18.0)), row("speed", speed_body(200, 512, 0))]
    )
    assert (one.loss(), one.speed) == (0.03, 18.0 * 0.98)


def test_only_speeds_of_the_machine_that_is_asked_for_count() -> None:
    rows = [row("quality", quality_body()), row("speed", speed_body(), machine=JETSON)]
    assert choices(rows, "another machine")[0].speed is None


def test_a_prediction_is_no_choices_speed() -> None:
    (one,) = choices([row("quality", quality_body()), row("shape", speed_body() | {"prediction": True})])
    assert one.speed is None


def test_of_what_was_measured_twice_the_later_stands() -> None:
    rows = latest([row("speed", speed_body(1.0)), row("speed", speed_body(2.0))])
    assert [one["avg_ts"] for one in rows] == [2.0]


def test_other_settings_are_another_measurement() -> None:
    assert len(latest([row("speed", speed_body()), row("speed", speed_body(type_k="q8_0"))])) == 2


def test_another_library_is_another_measurement() -> None:
    other = dataclasses.replace(LIBRARY, version="llama-cpp-python 0.4.0")
    assert len(latest([row("speed", speed_body()), row("speed", speed_body(), library=other)])) == 2


def test_the_frontier_leaves_out_what_is_larger_and_worse() -> None:
    rows = [row("quality", quality_body(kld), level) for level, kld in (("Q2_K", 0.4), ("Q4_0", 0.5), ("Q8_0", 0.001))]
    assert [one.level for one in frontier(choices(rows))] == ["Q2_K", "Q8_0"]


def test_only_generation_behind_an_empty_context_is_a_choices_speed() -> None:
    rows = [
        row("speed", speed_body(18.0)),
        row("speed", speed_body(99.0, 512, 128)),
        row("speed", speed_body(98.0, n_depth=256)),
    ]
    assert choices(rows)[0].speed == 18.0 * 0.98


def test_of_several_settings_the_fastest_is_a_choices_speed() -> None:
    rows = [row("speed", speed_body(18.0)), row("speed", speed_body(9.0, n_threads=1))]
    assert choices(rows)[0].speed == 18.0 * 0.98
