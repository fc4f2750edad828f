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

CONFIG = SpeedConfig(prompts=(12,), generations=(30,), load=LoadConfig(threads=1, batch=8))


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
    assert found.nbytes < tiny.stat().st_size
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
