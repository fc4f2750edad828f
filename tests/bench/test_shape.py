"""Before the download: what is written, measured, planned and predicted."""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from amalia_bench.clock import Sample
from amalia_bench.machine import Machine
from amalia_bench.records import Row, read
from amalia_bench.shape import (
    Room,
    ShapeConfig,
    check_predictable,
    efficiency_of,
    fitting,
    measure_shape,
    predict,
    rooms,
    shape_headers,
)
from amalia_bench.speed import Case, SpeedConfig, Subject, Surroundings, Turn
from amalia_bench.target import Target, find_target
from amalia_convert.plan import OutputPlan
from amalia_edge.errors import DoesNotFit, ModelNotFound, UsageError
from amalia_edge.gguf import read_header
from amalia_edge.host import Host
from amalia_edge.load_config import LoadConfig
from amalia_edge.native import BackendDevice
from amalia_edge.plan import make_plan

from .conftest import facts
from .shapes import small_shape

BIG, SMALL = (Host(size * 10**9, size * 10**9, 2) for size in (64, 7))
SPEED = SpeedConfig(prompts=(8,), generations=(128,), repetitions=1, load=LoadConfig(threads=1))


class One:
    """A second for each case by decode, two through the engine."""

    def __init__(self, path: Path) -> None:
        self.facts = dataclasses.replace(facts(path), header=read_header(path), threads=1)

    def measure(self, case: Case) -> Turn:
        return Turn(Sample(case.tokens, 1_000_000_000), Sample(case.tokens, 2_000_000_000), 500)


class Reader:
    """An opener that reads the file's header while it is there, and measures nothing."""

    def __init__(self, stop: BaseException | None = None) -> None:
        self.paths: list[Path] = []
        self._stop = stop

    @contextlib.contextmanager
    def __call__(self, path: Path, config: SpeedConfig) -> Iterator[Subject]:
        self.paths.append(path)
        if self._stop:
            raise self._stop
        yield One(path)


@pytest.fixture
def config(tmp_path: Path) -> ShapeConfig:
    return ShapeConfig(small_shape(tmp_path), ("Q8_0", "q4_k_m"), (256, 512), SPEED, tmp_path / "scratch")


def measured(config: ShapeConfig, machine: Machine, opener: Reader, keep: Path | None = None) -> list[Row]:
    surroundings = Surroundings(bandwidth=lambda _: 10.0)
    return list(measure_shape(config, machine, BIG, opener=opener, surroundings=surroundings, keep=keep))


def test_each_level_is_written_measured_and_gone(config: ShapeConfig, machine: Machine) -> None:
    opener = Reader()
    rows = measured(config, machine, opener)
    assert [(row["level"], row["test"]) for row in rows] == [
        ("Q8_0", "pp8"), ("Q8_0", "tg128"), ("Q4_K_M", "pp8"), ("Q4_K_M", "tg128"),
    ]  # fmt: skip
    assert [path.name for path in opener.paths] == ["petite-Q8_0.gguf", "petite-Q4_K_M.gguf"]
    assert list((config.folder or Path()).iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), RuntimeError()], ids=repr)
def test_the_file_is_gone_whatever_happens(config: ShapeConfig, machine: Machine, stop: BaseException) -> None:
    with pytest.raises(type(stop)):
        measured(config, machine, Reader(stop))
    assert list((config.folder or Path()).iterdir()) == []


def test_what_a_killed_run_left_is_cleared_and_a_running_ones_is_not(config: ShapeConfig, machine: Machine) -> None:
    scratch = config.folder or Path()
    for name in ("shape-999999999-x", f"shape-{os.getppid()}-x", "shape-mine"):
        (scratch / name).mkdir(parents=True)
    measured(config, machine, Reader())
    assert sorted(path.name for path in scratch.iterdir()) == sorted([f"shape-{os.getppid()}-x", "shape-mine"])


def test_a_row_says_that_its_weights_are_made_up_and_what_fits(
    config: ShapeConfig, machine: Machine, tmp_path: Path
) -> None:
    keep = tmp_path / "run.jsonl"
    rows = measured(config, machine, Reader(), keep)
    assert read(keep) == rows
    row = rows[1]
    assert (row["kind"], row["synthetic"], row["shape"], row["model_filename"]) == ("shape", True, "petite", "petite-Q8_0.gguf")  # fmt: skip
    assert list(row["memory"]) == ["256", "512"]
    assert row["fits"]["Q8_0"]["context"] == 2048
    assert row["model"]["name"] == "petite"


def test_what_is_known_is_given_and_not_measured_again(config: ShapeConfig, machine: Machine) -> None:
    known, again = measured(config, machine, Reader())[:3], Reader()
    rows = list(measure_shape(config, machine, BIG, opener=again, surroundings=Surroundings(), known=known))
    assert rows[:3] == known
    assert [path.name for path in again.paths] == ["petite-Q4_K_M.gguf"]
    assert rows[3]["test"] == "tg128"


def test_what_is_known_needs_no_room_on_the_disk(
    config: ShapeConfig, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(plan: OutputPlan) -> None:
        raise DoesNotFit(plan.path.name, "no room")

    known = measured(config, machine, Reader())
    monkeypatch.setattr("amalia_bench.shape.check_disk", full)
    assert list(measure_shape(config, machine, BIG, opener=Reader(), known=known)) == known
    with pytest.raises(DoesNotFit, match=r"petite-Q4_K_M\.gguf"):
        list(measure_shape(config, machine, BIG, opener=Reader(), known=known[:3]))


def test_what_is_known_of_another_geometry_is_measured(config: ShapeConfig, machine: Machine, tmp_path: Path) -> None:
    known, again = measured(config, machine, Reader()), Reader()
    small_shape(tmp_path, num_hidden_layers=3)
    rows = list(measure_shape(config, machine, BIG, opener=again, surroundings=Surroundings(), known=known))
    assert len(again.paths) == 2
    assert len(rows) == 4


def test_a_real_file_is_run_by_libllama_and_its_share_told(config: ShapeConfig, machine: Machine) -> None:
    quick = dataclasses.replace(config, levels=("Q4_K_M",), speed=dataclasses.replace(SPEED, generations=(16,)))
    rows = list(measure_shape(quick, machine, BIG, surroundings=Surroundings(bandwidth=lambda _: 10.0)))
    assert [row["test"] for row in rows] == ["pp8", "tg16"]
    assert all(min(row["avg_ts"], row["engine_ts"], row["first_token_s"], row["load_s"]) > 0 for row in rows)
    assert rows[1]["roofline_share"] > 0


def test_a_shape_nobody_knows_is_named(machine: Machine) -> None:
    with pytest.raises(ModelNotFound, match="amalia-9b"):
        measured(ShapeConfig("amalia-90b"), machine, Reader())


@pytest.mark.parametrize("settings", [{"levels": ()}, {"levels": ("Q8_0", "q8_0")}, {"contexts": (0,)}], ids=str)
def test_what_cannot_be_asked_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ShapeConfig("amalia-9b", **settings)  # type: ignore[arg-type]


def test_memory_is_what_the_runtime_plans() -> None:
    found = shape_headers(ShapeConfig("amalia-9b"))
    (room,) = rooms({"Q4_K_M": found["Q4_K_M"]}, (4096,), BIG, LoadConfig())
    assert room.memory == {4096: make_plan(found["Q4_K_M"], LoadConfig(context=4096), BIG).needed}


def test_the_longest_context_fits_and_a_longer_one_does_not() -> None:
    found = shape_headers(ShapeConfig("amalia-9b"))
    (room,) = rooms({"Q4_K_M": found["Q4_K_M"]}, (4096,), SMALL, LoadConfig())
    assert room.context is not None
    assert make_plan(found["Q4_K_M"], LoadConfig(context=room.context), SMALL).needed == room.needed <= SMALL.budget
    (longer,) = rooms({"Q4_K_M": found["Q4_K_M"]}, (room.context + 256,), SMALL, LoadConfig())
    assert longer.memory[room.context + 256] > SMALL.budget


def test_a_level_that_does_not_fit_is_not_among_those_that_do() -> None:
    every = rooms(shape_headers(ShapeConfig("amalia-9b")), (4096,), SMALL, LoadConfig())
    fits = fitting(every)
    assert "Q8_0" not in fits
    assert fits["Q2_K"] == {"context": 32768, "bytes": fits["Q2_K"]["bytes"]} or fits["Q2_K"]["context"] > 4096


def test_contexts_beyond_the_training_are_left_out() -> None:
    (room, *_) = rooms(shape_headers(ShapeConfig("eurollm-9b")), (4096, 8192), BIG, LoadConfig())
    assert list(room.memory) == [4096]


def test_a_prediction_is_bandwidth_times_efficiency_over_bytes() -> None:
    body = predict(ShapeConfig("amalia-9b"), "q4_k_m", find_target("jetson-orin-nano"), (0.6, 0.06), source="a test")
    assert body["prediction"] is True
    assert body["engine_ts"] == pytest.approx(68e9 * 0.6 / body["bytes_per_token"])
    assert body["engine_stddev_ts"] == pytest.approx(body["engine_ts"] / 10)
    assert 7 < body["engine_ts"] < 8  # its ceiling is 12 to 13


def test_a_prediction_tells_what_fits_on_that_machine_and_not_on_this() -> None:
    body = predict(ShapeConfig("amalia-9b"), "Q4_K_M", find_target("jetson-orin-nano"), (0.6, 0), source="a test")
    assert "Q8_0" not in body["fits"]
    body = predict(ShapeConfig("amalia-9b"), "Q4_K_M", find_target("jetson-agx-orin"), (0.6, 0), source="a test")
    assert body["fits"]["Q8_0"]["context"] == 32768


def test_of_a_machine_without_a_memory_nothing_is_said_of_what_fits() -> None:
    body = predict(ShapeConfig("amalia-9b"), "Q4_K_M", Target("kiosk", 30.0), (0.6, 0), source="a test")
    assert (body["fits"], body["memory"]) == ({}, {})


def test_an_efficiency_above_one_came_from_a_cache_and_counts_as_one() -> None:
    body = predict(ShapeConfig("amalia-9b"), "Q4_K_M", Target("kiosk", 30.0), (1.4, 0), source="a test")
    assert body["efficiency"] == 1


def test_where_a_gpu_has_the_layers_there_is_no_efficiency_to_predict_with(config: ShapeConfig) -> None:
    gpu = BackendDevice("CUDA0", "a GPU", "gpu", 24 * 10**9, 24 * 10**9)
    check_predictable(config, BIG)
    with pytest.raises(UsageError, match="a GPU has some of the layers; give one: --efficiency"):
        check_predictable(config, dataclasses.replace(BIG, gpus=(gpu,)))


@pytest.mark.parametrize("efficiency", [0.0, -0.5, float("nan"), float("inf")])
def test_an_efficiency_that_is_none_is_refused(efficiency: float) -> None:
    with pytest.raises(UsageError, match="--efficiency"):
        predict(ShapeConfig("amalia-9b"), "Q4_K_M", Target("kiosk", 30.0), (efficiency, 0), source="a test")


def test_the_efficiency_is_the_engines(config: ShapeConfig, machine: Machine) -> None:
    rows = measured(config, machine, Reader())
    found = efficiency_of(rows[1])
    assert found is not None
    assert found[0] == pytest.approx(rows[1]["roofline_share"] / 2)  # the engine took twice as long
    assert efficiency_of(rows[0]) is None


def test_a_room_without_a_context_does_not_fit() -> None:
    assert not Room("Q8_0", 1, {}, None, 1).fits
