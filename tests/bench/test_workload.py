"""A real tiny model at work in a child process."""

import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from amalia_bench.energy import EnergyConfig, Step
from amalia_bench.speed import Case
from amalia_bench.workload import RemoteLoad, Worker, open_load
from amalia_edge.errors import BenchError, ModelCorrupt
from amalia_edge.load_config import LoadConfig
from amalia_edge.model import Model

LOAD = LoadConfig(threads=1)
CONFIG = EnergyConfig(prompt=12, generated=30, load=LOAD)


@pytest.fixture(scope="module")
def remote(tiny: Path) -> Iterator[RemoteLoad]:
    with open_load(tiny, CONFIG) as load:
        yield load


def steps_of(load: RemoteLoad, case: Case, count: int) -> list[Step]:
    load.begin(case)
    steps: list[Step] = []
    while len(steps) < count:
        steps += load.wait(time.monotonic() + 5)
    load.end()
    return steps


def test_a_child_tells_what_it_loaded(remote: RemoteLoad) -> None:
    assert remote.facts.threads == 1
    assert remote.facts.library.backends[0] == "CPU"


@pytest.mark.parametrize("case", [Case(prompt=12), Case(generated=30)], ids=lambda case: str(case.name))
def test_work_goes_on_until_it_is_ended_and_its_steps_only_grow(remote: RemoteLoad, case: Case) -> None:
    steps = steps_of(remote, case, 2)
    assert all(later.tokens > earlier.tokens for earlier, later in itertools.pairwise(steps))
    assert all(later.time_s > earlier.time_s for earlier, later in itertools.pairwise(steps))


def test_a_child_at_rest_says_nothing(remote: RemoteLoad) -> None:
    steps_of(remote, Case(generated=30), 1)
    assert remote.wait(time.monotonic() + 0.3) == []


def test_every_token_counts_once_and_what_was_in_the_cache_not_at_all(tiny: Path) -> None:
    with Model.open(tiny, LoadConfig(threads=1, context=31)) as model:
        reading = Worker(model).steps(Case(prompt=12))
        assert [next(reading) for _ in range(3)] == [12, 23, 34]  # all begin with <s>
        writing = Worker(model).steps(Case(generated=5))
        assert [next(writing) for _ in range(7)] == [1, 2, 3, 4, 5, 6, 7]


def test_an_error_crosses_over_to_the_parent_whole(tiny: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.read_bytes()[:-1000])
    with pytest.raises(ModelCorrupt, match=r"cut\.gguf"), open_load(cut, CONFIG):
        pass


def test_a_child_that_dies_at_work_is_named_with_its_signal(tiny: Path) -> None:
    with pytest.raises(BenchError, match="SIGKILL"), open_load(tiny, CONFIG) as load:
        load.begin(Case(generated=30))
        os.kill(load._process.pid, signal.SIGKILL)
        while True:
            load.wait(time.monotonic() + 5)
