"""Two sides set against each other, and what is refused."""

import dataclasses

import pytest

from amalia_bench.compare import Side, compare, select
from amalia_edge.errors import NotComparable
from bench.example_records import (
    HERE,
    JETSON,
    LIBRARY,
    energy_body,
    everything,
    kernel_body,
    quality_body,
    row,
    speed_body,
    tasks_body,
    variety_body,
)

ROWS = everything()


def refusal(kind: str, a: dict[str, object], b: dict[str, object]) -> str:
    with pytest.raises(NotComparable) as refused:
        compare(Side("a", [row(kind, a)]), Side("b", [row(kind, b)]))
    return str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text_sha256": "f" * 64}, "other text"),
        ({"context": 1024}, "other context: 512 against 1024"),
        ({"base": {"level": "BF16", "sha256": "9" * 64}}, "other base"),
        ({"quick": True}, "other length: whole against quick"),
        ({"tokens_sha256": "9" * 64}, "other tokens"),
    ],
)
def test_quality_of_another_kind_is_refused(change: dict[str, object], said: str) -> None:
    assert said in refusal("quality", quality_body(), quality_body() | change)


def test_speeds_with_other_settings_are_refused() -> None:
    assert "other type_k: f16 against q8_0" in refusal("speed", speed_body(), speed_body(type_k="q8_0"))


def test_other_pairs_are_refused() -> None:
    assert "other pairs" in refusal("variety", variety_body(), variety_body(pairs_sha256="9" * 64))


def test_the_base_may_be_compared_with_what_is_set_against_it() -> None:
    base = variety_body(against=None, base=None)
    assert compare(
        Side("a", [row("variety", base)]), Side("b", [row("variety", variety_body(base={"sha256": "c"}))])
    ).differences


def test_speeds_of_two_machines_are_refused_unless_asked_for() -> None:
    a, b = (Side(name, [row("speed", speed_body(), machine=one)]) for name, one in (("a", HERE), ("b", JETSON)))
    with pytest.raises(NotComparable, match="--across-machines"):
        compare(a, b)
    found = compare(a, b, across_machines=True)
    assert len(found.differences) == 2 and any(line.startswith("other machine") for line in found.said)


def test_quality_does_not_depend_on_the_machine() -> None:
    a, b = (Side(name, [row("quality", quality_body(), machine=one)]) for name, one in (("a", HERE), ("b", JETSON)))
    assert len(compare(a, b).differences) == 3


def test_another_library_is_said() -> None:
    other = dataclasses.replace(LIBRARY, version="llama-cpp-python 0.4.0")
    found = compare(Side("a", [row("speed", speed_body())]), Side("b", [row("speed", speed_body(), library=other)]))
    assert found.said == (
        "other library: llama-cpp-python 0.3.36 built by zig 0.16.0 against llama-cpp-python 0.4.0 built by zig 0.16.0",
    )


def test_levels_are_paired_with_themselves_where_a_side_holds_several() -> None:
    found = compare(Side("a", ROWS), Side("b", ROWS))
    assert {one.change for one in found.differences if one.of.startswith("speed")} == {1.0}


def test_two_levels_of_one_file_are_compared() -> None:
    found = compare(Side("a", select(ROWS, "Q4_K_M")), Side("b", select(ROWS, "q8_0")))
    losses = [one for one in found.differences if one.of == "quality pt-PT" and one.figure == "mean KLD"]
    assert [one.verdict for one in losses] == ["B is better"]


def test_what_may_not_be_compared_does_not_hide_what_may() -> None:
    a = [row("quality", quality_body()), row("speed", speed_body())]
    b = [row("quality", quality_body(context=1024)), row("speed", speed_body())]
    found = compare(Side("a", a), Side("b", b))
    assert len(found.differences) == 2 and found.refused == ("quality pt-PT: other context: 512 against 1024",)


def test_sides_with_nothing_in_common_are_refused() -> None:
    with pytest.raises(NotComparable, match="no measurement of the same kind"):
        compare(Side("a", [row("speed", speed_body())]), Side("b", [row("quality", quality_body())]))


def test_a_machine_may_be_selected_by_part_of_its_name() -> None:
    assert {one["kind"] for one in select(ROWS, "orin")} == {"energy"}


def test_of_a_register_only_the_divergence_is_compared() -> None:
    a, b = ([row("quality", quality_body(text="pt-PT/news"), level)] for level in ("Q4_0", "Q8_0"))
    assert [one.figure for one in compare(Side("a", a), Side("b", b)).differences] == ["mean KLD"]


def test_kernels_with_other_threads_are_refused() -> None:
    body = kernel_body("Q4_K", "mat_vec", 20, 3.6)
    assert "other threads: 2 against 1" in refusal("kernels", body, body | {"threads": 1})


@pytest.mark.parametrize("change", [{"threads": 2}, {"gpu_layers": 0}])
def test_energy_with_other_settings_is_refused(change: dict[str, object]) -> None:
    assert f"other {next(iter(change))}" in refusal("energy", energy_body(), energy_body() | change)


def test_energy_of_two_power_modes_is_compared_where_it_is_asked_for() -> None:
    modes = [dataclasses.replace(JETSON, board=f"Jetson Orin Nano, L4T 36.4.7, mode {mode}") for mode in ("25W", "7W")]
    a, b = (Side(one.board, [row("energy", energy_body(), machine=one)]) for one in modes)
    with pytest.raises(NotComparable, match="--across-machines"):
        compare(a, b)
    (found,) = compare(a, b, across_machines=True).differences
    assert found.between is not None


def test_settings_of_another_machine_are_said() -> None:
    a, b = (Side(str(cores), [row("speed", speed_body(n_threads=cores))]) for cores in (2, 6))
    assert "other n_threads: 2 against 6" in compare(a, b, across_machines=True).said


def test_each_number_of_threads_is_compared_with_its_like() -> None:
    sides = [[row("speed", speed_body(tps * n, n_threads=n)) for n in (1, 2)] for tps in (10.0, 20.0)]
    for across_machines in (False, True):
        found = compare(Side("a", sides[0]), Side("b", sides[1][::-1]), across_machines=across_machines)
        decode = [one for one in found.differences if one.figure == "tokens/s, decode"]
        assert [(one.of, one.a, one.b) for one in decode] == [
            ("speed tg128 n_threads 1", 10.0, 20.0),
            ("speed tg128 n_threads 2", 20.0, 40.0),
        ]


def test_each_model_is_compared_with_itself() -> None:
    a, b = ([row("speed", speed_body(tps), name=name) for name, tps in told] for told in (
        (("Toy", 10.0), ("Other", 20.0)), (("Other", 20.0), ("Toy", 10.0)),
    ))  # fmt: skip
    found = compare(Side("a", a), Side("b", b)).differences
    assert {one.of for one in found} == {"speed tg128 Toy", "speed tg128 Other"}
    assert {one.change for one in found} == {1.0}


def test_two_models_of_one_each_are_compared_and_named() -> None:
    a, b = (Side(name, [row("speed", speed_body(), name=name)]) for name in ("Toy", "Other"))
    assert compare(a, b).said == ("other model: Toy against Other",)


def test_answers_to_the_same_questions_are_compared() -> None:
    (found,) = compare(
        Side("a", [row("tasks", tasks_body(120))]), Side("b", [row("tasks", tasks_body(150))])
    ).differences
    assert found.paired and found.change == 30 / 240
