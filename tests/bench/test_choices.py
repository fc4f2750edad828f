"""The files one may choose among."""

import dataclasses

from amalia_bench.choices import choices, frontier, latest
from bench.example_records import (
    JETSON,
    LEVELS,
    LIBRARY,
    energy_body,
    everything,
    identity,
    quality_body,
    row,
    speed_body,
)


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


def test_a_whole_text_is_preferred_to_a_quick_one() -> None:
    whole, quick = row("quality", quality_body(0.03)), row("quality", quality_body(0.02, quick=True))
    assert [choices(rows)[0].loss() for rows in ([whole, quick], [quick, whole])] == [0.03, 0.03]


def test_losses_of_another_context_do_not_stand_among_the_others() -> None:
    rows = [row("quality", quality_body(0.03), level) for level in ("Q8_0", "Q4_K_M", "Q4_0")]
    rows.append(row("quality", quality_body(0.02, context=2048), "Q4_K_M"))
    assert {one.loss() for one in choices(rows)} == {0.03}


def test_losses_against_another_base_do_not_stand_among_the_others() -> None:
    base = dataclasses.asdict(identity("Q8_0"))
    rows = [row("quality", quality_body(0.03), level) for level in ("Q6_K", "Q4_K_M")]
    rows += [row("quality", quality_body(0.02, base=base, against="Q8_0"), level) for level in ("Q4_K_M",)]
    assert [one.loss() for one in choices(rows)] == [0.03, 0.03]


def test_a_level_measured_in_another_way_only_has_no_loss_beside_the_others() -> None:
    rows = [row("quality", quality_body(0.03), level) for level in ("Q8_0", "Q6_K")]
    rows.append(row("quality", quality_body(0.02, quick=True), "Q2_K"))
    assert [one.loss() for one in choices(rows)] == [0.03, 0.03, None]


def test_of_two_ways_that_are_equal_the_later_stands() -> None:
    rows = [row("quality", quality_body(kld, context=context)) for kld, context in ((0.03, 512), (0.02, 1024))]
    assert (choices(rows)[0].loss(), choices(rows[::-1])[0].loss()) == (0.02, 0.03)


def test_a_choices_energy_is_of_writing_to_the_end() -> None:
    rows = [
        row("energy", energy_body(14.0)),
        row("energy", energy_body(30.0, prompt=512)),
        row("energy", energy_body(15.0, threads=2, whole=False)),
        row("energy", energy_body(2.0, source="battery")),  # the source saw nothing
    ]
    assert choices(rows)[0].energy == rows[0]


def test_what_was_broken_off_does_not_replace_what_is_whole() -> None:
    whole, broken = row("energy", energy_body()), row("energy", energy_body(whole=False))
    assert latest([whole, broken]) == latest([broken, whole]) == [whole]


def test_energy_with_other_layers_on_the_gpu_is_another_measurement() -> None:
    assert len(latest([row("energy", energy_body()), row("energy", energy_body(gpu_layers=0))])) == 2
