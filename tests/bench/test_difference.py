"""How far two figures are from each other."""

import math
import statistics

import numpy as np
import pytest

from amalia_bench.difference import Difference, differences, student
from amalia_bench.margins import Margin
from amalia_bench.pairs import read_pairs
from amalia_bench.variety import summarise
from bench.example_records import energy_body, quality_body, row, speed_body, variety_body


def one_of(kind: str, figure: str, a: dict[str, object], b: dict[str, object], *levels: str) -> Difference:
    """Give one figure's difference between two bodies, of two levels."""
    first, second = levels or ("Q8_0", "Q4_0")
    found = differences(kind, "it", row(kind, a, first), row(kind, b, second))
    return next(one for one in found if one.figure == figure)


def test_speeds_are_compared_as_a_ratio() -> None:
    found = one_of("speed", "tokens/s, decode", speed_body(10.0), speed_body(15.0))
    assert (found.change, found.relative, found.verdict) == (1.5, True, "B is better")


def test_repetitions_in_turns_are_paired() -> None:
    drifting = [10.0, 8.0, 6.0]  # the machine slows down, and both sides with it
    found = one_of(
        "speed",
        "tokens/s, decode",
        speed_body(samples_ts=drifting),
        speed_body(samples_ts=[1.1 * one for one in drifting]),
    )
    assert found.paired and found.between == pytest.approx((1.1, 1.1))


def test_runs_of_another_time_are_not_paired() -> None:
    found = one_of("speed", "tokens/s, decode", speed_body(), speed_body() | {"test_time": "2026-02-02T00:00:00Z"})
    assert not found.paired


def test_unpaired_speeds_have_welchs_interval() -> None:
    a, b = [10.0, 11.0, 12.0], [13.0, 15.0, 14.0]
    found = one_of(
        "speed", "tokens/s, decode", speed_body(11.0, samples_ts=a, interleaved=False), speed_body(14.0, samples_ts=b)
    )
    logs = [[math.log(one) for one in side] for side in (a, b)]
    spread = math.sqrt(sum(statistics.variance(side) / 3 for side in logs))
    assert found.between is not None
    middle = statistics.fmean(logs[1]) - statistics.fmean(logs[0])
    assert math.log(found.between[0]) == pytest.approx(middle - student(3.9) * spread)


def test_speeds_within_their_spread_show_no_difference() -> None:
    a, b = speed_body(samples_ts=[10.0, 12.0, 11.0], interleaved=False), speed_body(samples_ts=[10.5, 12.5, 11.2])
    assert one_of("speed", "tokens/s, decode", a, b).verdict == "no difference shown"


def test_one_run_has_no_spread() -> None:
    a, b = speed_body(samples_ts=[18.8]), speed_body(samples_ts=[18.9])
    assert one_of("speed", "tokens/s, decode", a, b).verdict == "one run, no spread"


def test_less_energy_is_better() -> None:
    assert one_of("energy", "J/token", energy_body(19.0), energy_body(14.0)).verdict == "B is better"


def test_energy_has_the_interval_that_both_measurements_give() -> None:
    found = one_of("energy", "J/token", energy_body(14.1), energy_body(13.1))
    apart, reach = -1 / 9, math.hypot(10 / 9, 1.0) * 0.02
    assert found.between == pytest.approx((apart - reach, apart + reach)) and not found.paired


def test_energies_within_their_intervals_show_no_difference() -> None:
    assert one_of("energy", "J/token", energy_body(14.0), energy_body(14.1)).verdict == "no difference shown"


def test_losses_are_compared_as_a_difference() -> None:
    found = one_of("quality", "mean KLD", quality_body(0.03), quality_body(0.07))
    assert (found.change, found.verdict) == (pytest.approx(0.04), "A is better")


def test_without_windows_both_intervals_widen_the_difference() -> None:
    a, b = quality_body(0.03, kld_ci95=[0.027, 0.034]), quality_body(0.07, kld_ci95=[0.066, 0.073], window_kld=None)
    found = one_of("quality", "mean KLD", a, b)
    assert found.between == pytest.approx((0.04 - math.hypot(0.004, 0.004), 0.04 + math.hypot(0.003, 0.003)))
    assert not found.paired


def test_with_windows_the_difference_is_paired() -> None:
    hard = [0.01, 0.05, 0.03]  # some windows are harder for both
    a, b = quality_body(0.03, window_kld=hard), quality_body(0.04, window_kld=[one + 0.01 for one in hard])
    found = one_of("quality", "mean KLD", a, b)
    assert found.paired and found.between == pytest.approx((0.01, 0.01))


def test_windows_of_another_number_are_not_paired() -> None:
    a, b = quality_body(0.03, window_kld=[0.1, 0.2]), quality_body(0.04, window_kld=[0.1, 0.2, 0.3])
    assert not one_of("quality", "mean KLD", a, b).paired


def test_pairs_margins_are_compared_pair_by_pair() -> None:
    body = variety_body(classes={"lexicon": {"pairs": 3, "margin": 2.0}}, gradients={}, gradient_pairs=[])
    body["overall"] |= {"pairs": 3, "margin": 2.0}
    a = body | {"margins": {f"lexicon-00{at}": [1.0 + at, 0.1] for at in range(3)}}
    b = body | {"margins": {f"lexicon-00{at}": [0.5 + at, 0.1] for at in range(3)}}
    found = one_of("variety", "lexicon: margin", a, b)
    assert found.paired and found.change == -0.5 and found.verdict == "A is better"


def of_real_pairs() -> list[dict[str, object]]:
    """Give two levels' rows of the pairs of this project, as variety writes them."""
    pairs, drawn = read_pairs(), np.random.default_rng(0)
    base, level = ([Margin(nats, nats / 40) for nats in drawn.normal(2, 3, len(pairs)).tolist()] for _ in range(2))
    gradients = sorted(pair.id for pair in pairs if pair.strength == "gradient")
    return [
        summarise(pairs, margins, base)
        | {
            "gradient_pairs": gradients,
            "margins": {pair.id: list(one) for pair, one in zip(pairs, margins, strict=True)},
        }
        for margins in (base, level)
    ]


def test_every_class_of_the_pairs_we_ship_is_paired() -> None:
    a, b = (row("variety", body) for body in of_real_pairs())
    found = list(differences("variety", "it", a, b))
    assert len(found) == 1 + len(a["classes"]) + len(a["gradients"])
    assert [one.figure for one in found if not one.paired] == []


def test_a_class_of_both_strengths_is_compared_by_each() -> None:
    a, b = of_real_pairs()
    for kind, figure in (("classes", "lexicon: margin"), ("gradients", "lexicon, gradient")):
        apart = b[kind]["lexicon"]["margin"] - a[kind]["lexicon"]["margin"]  # type: ignore[index]
        assert one_of("variety", figure, a, b).change == pytest.approx(apart)


def test_one_pair_has_no_spread() -> None:
    found = one_of("variety", "spelling, gradient", variety_body(0.01), variety_body(0.4))
    assert found.paired and found.between is None


def test_rows_that_do_not_name_their_gradients_are_paired_where_a_class_has_none() -> None:
    a, b = (variety_body(kld, gradient_pairs=None) for kld in (0.01, 0.4))
    assert one_of("variety", "clitics: margin", a, b).paired
    assert not one_of("variety", "lexicon: margin", a, b).paired


def test_without_pairs_the_drift_from_the_common_base_is_compared() -> None:
    a, b = (variety_body(kld, margins=None) for kld in (0.01, 0.4))
    assert one_of("variety", "overall: margin", a, b).a == a["overall"]["delta_margin"]


def test_answers_to_tasks_are_paired() -> None:
    told = {"accuracy": 0.5, "accuracy_ci95": [0.2, 0.8]}
    a, b = (told | {"answers": [[right, right, 1.0] for right in side]} for side in ([1, 0, 1, 0], [1, 1, 1, 0]))
    assert one_of("tasks", "accuracy", a, b).paired


def test_what_one_side_lacks_is_not_compared() -> None:
    a, b = row("quality", quality_body(mean_kld=None)), row("quality", quality_body())
    assert "mean KLD" not in [one.figure for one in differences("quality", "it", a, b)]


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.71), (2.9, 4.30), (20, 2.09), (30, 2.042), (1000, 1.96)])
def test_students_t_is_that_of_the_tables(freedom: float, t: float) -> None:
    assert student(freedom) == pytest.approx(t, abs=0.01)
