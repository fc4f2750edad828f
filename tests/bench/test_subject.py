"""A real tiny model under measurement, here and in a child process."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from amalia_bench.speed import Case, SpeedConfig
from amalia_bench.subject import LocalSubject, RemoteSubject, open_remote
from amalia_edge.errors import BenchError, ModelCorrupt
from amalia_edge.model import LoadConfig
from amalia_edge.sampler import SamplingConfig

CONFIG = SpeedConfig(
    prompts=(12,), generations=(30,), pairs=((12, 30),), depths=(0, 20), load=LoadConfig(threads=1, batch=8)
)


@pytest.fixture(scope="module")
def local(tiny: Path) -> Iterator[LocalSubject]:
    with LocalSubject(tiny, CONFIG) as subject:
        yield subject


@pytest.fixture(scope="module")
def remote(tiny: Path) -> Iterator[RemoteSubject]:
    with open_remote(tiny, CONFIG) as subject:
        yield subject


def test_both_ways_generate_the_same_number_of_tokens(local: LocalSubject) -> None:
    turn = local.measure(Case(generated=30))
    assert turn.decode.tokens == turn.engine.tokens == 30


def test_the_engine_goes_on_past_the_end_of_an_answer(local: LocalSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local._model.vocabulary, "ends", lambda token: True)
    assert local.measure(Case(generated=30)).engine.tokens == 30
    first = list(local._model.complete([1], SamplingConfig(temperature=0, limit=30)))
    assert [piece.finish for piece in first] == ["stop"]  # without the measurement's own setting it does end


def test_a_prompts_token_that_was_still_in_the_cache_is_not_counted_as_read(local: LocalSubject) -> None:
    local.measure(Case(prompt=12))
    turn = local.measure(Case(prompt=12))  # both begin with <s>
    assert (turn.decode.tokens, turn.engine.tokens) == (12, 11)


def test_a_prompt_and_an_answer_together_count_both(local: LocalSubject) -> None:
    local.measure(Case(prompt=12))
    turn = local.measure(Case(12, 30))
    assert (turn.decode.tokens, turn.engine.tokens) == (42, 41)  # the engine had <s> in its memory


@pytest.mark.parametrize("case", [Case(prompt=12, depth=20), Case(generated=30, depth=20), Case(12, 30, 20)], ids=str)
def test_what_lies_before_a_test_at_some_depth_is_not_counted(local: LocalSubject, case: Case) -> None:
    turn = local.measure(case)
    assert turn.decode.tokens == turn.engine.tokens == case.tokens


def test_at_a_depth_the_memory_holds_it_and_the_test_begins_there(local: LocalSubject) -> None:
    seen: list[int] = []
    assert local._bare is not None
    decode = local._bare.decode
    local._bare.decode = lambda ids, start: seen.extend(range(start, start + len(ids))) or decode(ids, start)  # type: ignore[method-assign, assignment, func-returns-value]
    try:
        local._decode(Case(prompt=12))
        seen.clear()
        local._decode(Case(generated=3, depth=20))
        assert seen == [*range(20), 20, 20, 21, 22]  # filled, one to wake the threads, then the test
        seen.clear()
        local._decode(Case(generated=3, depth=20))
        assert seen == [20, 20, 21, 22]  # it is still there
    finally:
        local._bare.decode = decode  # type: ignore[method-assign]


def test_a_model_that_cannot_forget_a_part_is_filled_again(local: LocalSubject) -> None:
    assert local._bare is not None
    truncate, kept = local._bare.truncate, []
    local._bare.truncate = lambda keep: not keep and truncate(keep)  # type: ignore[method-assign, assignment]
    try:
        local._filled = 20
        local._fill(20)
        kept.append(local._filled)
        assert local._decode(Case(generated=3, depth=20)).tokens == 3
    finally:
        local._bare.truncate = truncate  # type: ignore[method-assign]
    assert kept == [20]


def test_the_first_token_comes_before_the_last(local: LocalSubject) -> None:
    turn = local.measure(Case(generated=30))
    assert 0 < turn.first_token_ns < turn.engine.ns


def test_random_tokens_begin_as_a_text_does(local: LocalSubject) -> None:
    one, other = local._ids(12), local._ids(12)
    assert one[0] == other[0] == local._model.vocabulary.begin
    assert one != other
    assert max(one) < local._model.vocabulary.size


def test_a_child_tells_what_it_loaded(remote: RemoteSubject, tiny: Path) -> None:
    found = remote.facts
    assert (found.path, found.level, found.threads) == (tiny, "Q8_0", 1)
    assert "Q8_0" in found.description
    assert found.load_s > 0
    assert found.peak_rss > tiny.stat().st_size
    assert found.header.weight_bytes < tiny.stat().st_size
    assert not found.on_gpu
    assert found.library.backends[0] == "CPU"


def test_a_child_measures_what_it_is_asked_for(remote: RemoteSubject) -> None:
    assert remote.measure(Case(generated=5)).engine.tokens == 5


def test_an_error_crosses_over_to_the_parent_whole(tiny: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.read_bytes()[:-1000])
    with pytest.raises(ModelCorrupt) as caught, open_remote(cut, CONFIG):
        pass
    assert "cut.gguf" in caught.value.where
    assert caught.value.advice


def test_a_child_that_dies_is_named_with_its_signal(tiny: Path) -> None:
    with pytest.raises(BenchError, match="SIGKILL"), open_remote(tiny, CONFIG) as subject:
        os.kill(subject._process.pid, signal.SIGKILL)
        subject.measure(Case(generated=5))


def test_no_child_outlives_its_block(tiny: Path) -> None:
    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt), open_remote(tiny, CONFIG):
        assert set(multiprocessing.active_children()) - before
        raise KeyboardInterrupt
    assert set(multiprocessing.active_children()) == before
