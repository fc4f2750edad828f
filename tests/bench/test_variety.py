"""A tiny model and a second one as its level: what is set beside what, and what is taken over from records."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from amalia_bench.machine import Machine
from amalia_bench.margins import Margin
from amalia_bench.pairs import Pair
from amalia_bench.variety import Measured, VarietyConfig, measure_variety, steps, summarise
from amalia_edge.errors import BenchError, NotComparable, UsageError
from models import tiny_model

CONFIG = VarietyConfig(threads=1, context=256, batch=32)
WORDS = ("casa", "cedo", "mar", "rio", "rua", "vinho", "carta", "gato", "porta", "lume")
PAIRS = [
    *(Pair(f"clitics-{n:03}", "clitics", "categorical", f"Ela disse-me: {w}.", f"Ela me disse: {w}.", "a / b", "neutral", "", "") for n, w in enumerate(WORDS)),
    Pair("motion-001", "motion", "gradient", "Fui à praia cedo.", "Fui na praia cedo.", "a / b", "informal", "Era verão.", ""),
]  # fmt: skip


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("level") / "tiny-F16.gguf", kind="F16", seed=1)


def measure(paths: list[Path], machine: Machine, config: VarietyConfig = CONFIG, known: list[Measured] | None = None) -> list[Measured]:  # fmt: skip
    return list(measure_variety(paths, PAIRS, config, machine, [one.row for one in known or []]))


@pytest.fixture(scope="module")
def measured(tiny: Path, other: Path) -> list[Measured]:
    machine = Machine("A CPU", "x86_64", 2, 4, 16_000_000_000, 8_000_000_000, "Debian 12", "3.11.2", (), "")
    return measure([tiny, other], machine)


def margins(*nats: float) -> list[Margin]:
    return [Margin(value, value / 10) for value in nats]


def test_shares_and_margins_are_told_by_class_and_gradients_apart() -> None:
    told = summarise(PAIRS[-3:], margins(2.0, -1.0, -7.0), None)
    assert told["classes"].keys() == {"clitics"}
    assert told["gradients"].keys() == {"motion"}
    clitics = told["classes"]["clitics"]
    assert (clitics["pairs"], clitics["prefers_european"], clitics["margin"]) == (2, 0.5, 0.5)
    assert told["gradients"]["motion"]["margin"] == -7.0


def test_the_whole_is_of_categorical_pairs_alone() -> None:
    assert summarise(PAIRS[-3:], margins(2.0, -1.0, -7.0), None)["overall"]["margin"] == 0.5


def test_a_pair_without_a_preference_is_no_preference_for_portugal() -> None:
    assert summarise(PAIRS[:2], margins(0.0, 1.0), None)["overall"]["prefers_european"] == 0.5


def test_a_difference_is_paired() -> None:
    """Every pair moved by the same amount: the interval is that amount, however far apart the pairs are."""
    base = np.linspace(-40, 40, 10)
    told = summarise(PAIRS[:10], margins(*(base - 0.25)), margins(*base))["overall"]
    assert told["delta_margin"] == pytest.approx(-0.25)
    assert told["delta_margin_ci95"] == pytest.approx([-0.25, -0.25])
    assert told["margin_ci95"][1] - told["margin_ci95"][0] > 10


def test_where_no_pair_turned_the_interval_still_has_a_width() -> None:
    told = summarise(PAIRS[:4], margins(1, 1, 1, 1), margins(1, 1, 1, 1))["overall"]
    low, high = told["delta_prefers_european_ci95"]
    assert low < 0 < high


def test_pairs_that_turned_are_told_as_a_difference_of_shares() -> None:
    told = summarise(PAIRS[:4], margins(-1, 1, 1, 1), margins(1, 1, 1, 1))["overall"]
    assert told["delta_prefers_european"] == -0.25


def test_without_categorical_pairs_there_is_no_whole() -> None:
    assert summarise(PAIRS[-1:], margins(1.0), None)["overall"] is None


def test_there_is_a_row_for_each_model_and_prompt(measured: list[Measured]) -> None:
    told = [(one.row["model"]["level"], one.row["prompt"], one.row["against"]) for one in measured]
    assert told == [
        ("Q8_0", "bare", None),
        ("Q8_0", "default", None),
        ("F16", "bare", "Q8_0"),
        ("F16", "default", "Q8_0"),
    ]


def test_the_base_is_set_against_nothing(measured: list[Measured]) -> None:
    assert measured[0].row["overall"]["delta_margin"] is None


def test_a_level_is_set_against_the_base_under_the_same_prompt(measured: list[Measured]) -> None:
    for base, level in zip(measured[:2], measured[2:], strict=True):
        difference = level.row["overall"]["margin"] - base.row["overall"]["margin"]
        assert level.row["overall"]["delta_margin"] == pytest.approx(difference, abs=1e-6)
        assert level.row["base"]["sha256"] == base.row["model"]["sha256"]


def test_the_prompt_is_named_in_the_record(measured: list[Measured]) -> None:
    bare, default = (one.row for one in measured[:2])
    assert (bare["turn"], bare["system"]) == (None, None)
    assert (default["turn"], default["system"]) == ("Uma frase, por favor.", None)  # the tiny model is not ours


def test_ours_is_told_who_it_is(tmp_path: Path, machine: Machine) -> None:
    path = tiny_model(tmp_path / "fadinho-Q8_0.gguf", name="fadinho", kind="Q8_0")
    (one,) = measure([path], machine, dataclasses.replace(CONFIG, prompts=("default",), context=512))
    assert one.row["system"].startswith("És o fadinho")


def test_a_model_against_itself_does_not_move(tiny: Path, machine: Machine) -> None:
    _, again = measure([tiny, tiny], machine, dataclasses.replace(CONFIG, prompts=("bare",)))
    assert again.row["overall"]["delta_margin_ci95"] == [0, 0]


def test_each_pairs_margin_is_in_the_record(measured: list[Measured]) -> None:
    kept = measured[0].row["margins"]
    assert kept.keys() == {pair.id for pair in PAIRS}
    assert np.mean([kept[pair.id][0] for pair in PAIRS[:10]]) == pytest.approx(measured[0].row["overall"]["margin"], abs=1e-5)  # fmt: skip


def test_what_is_known_is_not_measured_again(tiny: Path, other: Path, machine: Machine, measured: list[Measured]) -> None:  # fmt: skip
    resumed = measure([tiny, other], machine, known=measured[:3])
    assert [one.fresh for one in resumed] == [False, False, False, True]
    assert resumed[3].row["overall"]["delta_margin"] == pytest.approx(measured[3].row["overall"]["delta_margin"], abs=1e-4)  # fmt: skip


def test_what_is_known_against_another_base_is_measured_again(other: Path, machine: Machine, measured: list[Measured]) -> None:  # fmt: skip
    (alone, _) = measure([other], machine, known=measured)
    assert alone.fresh


def test_a_base_of_the_same_level_is_told_from_another_by_its_hash(other: Path, machine: Machine, measured: list[Measured], tmp_path: Path) -> None:  # fmt: skip
    base = tiny_model(tmp_path / "tiny-Q8_0.gguf", kind="Q8_0", seed=2)
    again = measure([base, other], machine, known=measured)
    assert [one.row["against"] for one in again[2:]] == ["Q8_0", "Q8_0"]
    assert [one.fresh for one in again] == [True] * 4


def test_what_is_known_of_other_pairs_is_measured_again(tiny: Path, machine: Machine, measured: list[Measured]) -> None:
    changed = [dataclasses.replace(PAIRS[0], european="Ela contou-me: casa."), *PAIRS[1:]]
    known = [one.row for one in measured]
    (one,) = measure_variety([tiny], changed, dataclasses.replace(CONFIG, prompts=("bare",)), machine, known)
    assert one.fresh


def test_what_was_stopped_goes_on_with_the_pair_it_was_at(
    tiny: Path, machine: Machine, measured: list[Measured], tmp_path: Path
) -> None:
    bare, heard = dataclasses.replace(CONFIG, prompts=("bare",)), []

    def stop(count: int) -> None:
        heard.append(count)
        if len(heard) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(measure_variety([tiny], PAIRS, bare, machine, watch=stop, notes=tmp_path))
    (kept,) = tmp_path.iterdir()
    lines = kept.read_text().splitlines()
    assert [json.loads(line)[0] for line in lines] == [pair.id for pair in PAIRS[:6]]
    lines[0] = json.dumps([PAIRS[0].id, [1234.0, 1.0]])  # taken over, not scored again
    kept.write_text("\n".join(lines)[:-3])  # and the last is cut
    (one,) = measure_variety([tiny], PAIRS, bare, machine, notes=tmp_path)
    assert one.row["margins"] == measured[0].row["margins"] | {PAIRS[0].id: [1234.0, 1.0]}
    assert not list(tmp_path.iterdir())


def test_notes_are_of_one_file(tiny: Path, other: Path, machine: Machine, tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    for path in (tiny, other):
        with pytest.raises(KeyboardInterrupt):
            list(measure_variety([path], PAIRS, CONFIG, machine, watch=stop, notes=tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


def test_answers_are_not_given_twice(tiny: Path, machine: Machine, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, answers=2, limit=5, prompts=("default",))

    def stop(count: int) -> None:
        if count > 1:  # an answer
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(measure_variety([tiny], PAIRS, config, machine, watch=stop, notes=tmp_path))
    (kept,) = tmp_path.iterdir()
    *lines, last = kept.read_text().splitlines()
    assert json.loads(last)[0].startswith("answer to ")
    kept.write_text("\n".join([*lines, json.dumps([json.loads(last)[0], "uma duas três"])]) + "\n")
    (one,) = measure_variety([tiny], PAIRS, config, machine, notes=tmp_path)
    (plain,) = measure_variety([tiny], PAIRS, config, machine)
    assert one.row["generated"] != plain.row["generated"]


def test_where_no_notes_can_be_kept_it_goes_on_without(
    tiny: Path, machine: Machine, measured: list[Measured], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    bare = dataclasses.replace(CONFIG, prompts=("bare",))
    (one,) = measure_variety([tiny], PAIRS, bare, machine, notes=tmp_path / "file" / "folder")
    assert one.row["margins"] == measured[0].row["margins"]


def test_gradient_pairs_are_named_in_the_record(measured: list[Measured]) -> None:
    assert measured[0].row["gradient_pairs"] == ["motion-001"]


def test_every_step_is_heard_of(tiny: Path, other: Path, machine: Machine, measured: list[Measured]) -> None:
    heard: list[int] = []
    known = [one.row for one in measured[:1]]
    list(measure_variety([tiny, other], PAIRS, CONFIG, machine, known, heard.append))
    assert sum(heard) == steps([tiny, other], PAIRS, CONFIG)


def test_another_vocabulary_is_refused(tiny: Path, tmp_path: Path, machine: Machine) -> None:
    stranger = tiny_model(tmp_path / "stranger-Q8_0.gguf", kind="Q8_0", pieces=("▁de",))
    with pytest.raises(NotComparable, match=r"stranger-Q8_0.gguf: another vocabulary than tiny-Q8_0.gguf"):
        measure([tiny, stranger], machine)


def test_another_template_is_refused_where_it_is_used(tiny: Path, tmp_path: Path, machine: Machine) -> None:
    stranger = tiny_model(tmp_path / "stranger-Q8_0.gguf", kind="Q8_0", template="{{ messages[0]['content'] }}")
    with pytest.raises(NotComparable, match="another chat template"):
        measure([tiny, stranger], machine)
    assert len(measure([tiny, stranger], machine, dataclasses.replace(CONFIG, prompts=("bare",)))) == 2


def test_a_pair_that_is_too_long_is_named(tiny: Path, machine: Machine) -> None:
    long = [dataclasses.replace(PAIRS[0], european="Ela disse-me: " + "casa " * 80)]
    with pytest.raises(BenchError, match=r"clitics-000: \d+ tokens, and the context has 256"):
        list(measure_variety([tiny], long, CONFIG, machine))


def test_answers_need_the_default_prompt() -> None:
    with pytest.raises(UsageError, match="--prompt default"):
        VarietyConfig(prompts=("bare",), answers=3)


def test_more_answers_than_questions_are_refused(tiny: Path, machine: Machine) -> None:
    with pytest.raises(UsageError, match="there are 50 questions"):
        measure([tiny], machine, VarietyConfig(answers=51))


def test_answers_are_generated_under_the_default_prompt_alone(tiny: Path, machine: Machine) -> None:
    bare, default = measure([tiny], machine, dataclasses.replace(CONFIG, answers=2, limit=5))
    assert bare.row["generated"] is None
    assert (default.row["generated"]["answers"], default.row["generated"]["limit"]) == (2, 5)
