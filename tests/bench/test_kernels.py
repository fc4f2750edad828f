"""What each block type's kernels give."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from amalia_bench import kernels, reference
from amalia_bench.bandwidth import Bandwidth
from amalia_bench.kernels import OPERATIONS, Bench, KernelsConfig, Limits, Task, tasks
from amalia_bench.matrices import Matrix
from amalia_bench.reference import to_blocks
from amalia_convert.blocks import DEMANDING, BlockType
from amalia_edge.backend import read

SMALL = Matrix(("attn_k",), 96, 256)
MATRICES = [Matrix(("ffn_up",), 512, 256), SMALL, Matrix(("ffn_down",), 256, 512)]
CONFIG = KernelsConfig(types=("Q4_K", "Q8_0"), threads=2, batch=33, repetitions=2)
SLOW = () if os.environ.get("AMALIA_ALL_TESTS") else DEMANDING  # their quantizers make tables for 20 s
EVERY = [(name, kind) for name in OPERATIONS for kind in BlockType if not (name == "quantize" and kind in SLOW)]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench(CONFIG) as opened:
        opened.working_set = 1 << 18
        opened.limits = Limits(10.0, 100.0, "F32")
        yield opened


def task(operation: str, kind: BlockType = BlockType.Q4_K, matrix: Matrix = SMALL) -> Task:
    return Task(operation, kind, matrix, {"mat_vec": 1, "mat_mat": 33}.get(operation, 0))


def made_up(kind: BlockType, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Make blocks without a quantizer: any codes are weights, below a scale of a sixteenth."""
    shape = (len(rows), rows.shape[1] // kind.weights, kind.nbytes(kind.weights))
    blocks = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    blocks[..., -1 if kind is BlockType.IQ1_M else 1] = 0x2C  # the upper byte of the scale, an f16
    return blocks.reshape(len(rows), -1)


@pytest.mark.parametrize(("operation", "kind"), EVERY, ids=lambda one: getattr(one, "name", one))
def test_every_types_result_is_that_of_float64(
    bench: Bench, operation: str, kind: BlockType, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind in SLOW:
        monkeypatch.setattr(reference, "to_blocks", made_up)
    found = bench.measure(task(operation, kind))
    assert found is not None
    assert not found.wrong, f"{found.error} in {found.buffer} memory"
    assert (found.error > 0) == (operation != "dequantize" and not (kind is BlockType.F32 and operation == "quantize"))


@pytest.mark.parametrize("operation", ["dequantize", "mat_vec", "mat_mat"])
def test_a_result_with_one_row_changed_is_wrong(bench: Bench, operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupted(tensor: int) -> NDArray[np.float32]:
        found = read(tensor)
        found[..., 17] *= -1
        return found

    monkeypatch.setattr(kernels, "read", corrupted)
    found = bench.measure(task(operation))
    assert found is not None
    assert found.wrong


@pytest.mark.parametrize("operation", ["dequantize", "mat_vec", "mat_mat"])
def test_a_kernel_that_does_nothing_is_wrong_however_fast(
    bench: Bench, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.backend, "compute", int)
    found = bench.measure(task(operation))
    assert found is not None
    assert found.wrong


def test_a_quantizer_that_gives_the_blocks_of_other_rows_is_wrong(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "to_blocks", lambda kind, rows: to_blocks(kind, rows[::-1].copy()))
    found = bench.measure(task("quantize"))
    assert found is not None
    assert found.wrong


def test_a_vector_meets_more_copies_of_the_matrix_than_the_working_set_holds(bench: Bench) -> None:
    found = bench.measure(task("mat_vec"))
    assert found is not None
    assert bench.working_set <= found.working_set < bench.working_set + 2 * 96 * 256
    each = found.ns * found.gbps
    assert found.working_set == pytest.approx(each * round(found.working_set / each))


def test_weights_lie_in_the_memory_that_libllama_would_choose(bench: Bench) -> None:
    found = bench.measure(task("mat_vec"))
    chosen = bench.backend.choose(int(BlockType.Q4_K), 96, 256)
    assert found is not None
    assert chosen is not None
    assert found.buffer == chosen.name


def test_rates_follow_from_the_nanoseconds(bench: Bench) -> None:
    found = bench.measure(task("mat_mat", BlockType.F32))
    assert found is not None
    assert found.gflops is not None
    assert found.gflops == pytest.approx(2 * 96 * 256 * 33 / found.ns)
    assert found.gbps == pytest.approx(96 * 256 * 4 / found.ns)
    assert found.bandwidth_share == pytest.approx(found.gbps / 10)
    assert found.peak_share == pytest.approx(found.gflops / 100)
    assert min(found.samples_ns) <= found.ns <= max(found.samples_ns)
    assert len(found.samples_ns) == CONFIG.repetitions


@pytest.mark.parametrize(("operation", "each_ns"), [("mat_vec", 1e7), ("mat_mat", 1e7 / 2)])
def test_a_graphs_time_is_shared_among_its_operations(
    bench: Bench, operation: str, each_ns: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_for_10_ms(run: Callable[[], None], times: int) -> list[float]:
        run()
        return [1e7] * times

    monkeypatch.setattr(bench, "_time", run_for_10_ms)
    found = bench.measure(task(operation))
    assert found is not None
    count = round(found.working_set / (found.ns * found.gbps)) if operation == "mat_vec" else 1
    assert found.ns == pytest.approx(each_ns / count)
    assert count > 1 or operation == "mat_mat"


def test_a_dequantizer_reads_blocks_and_writes_rows(bench: Bench) -> None:
    found = bench.measure(task("dequantize", BlockType.Q8_0))
    assert found is not None
    assert found.gbps * found.ns == pytest.approx(96 * 256 * (34 / 32 + 4))
    assert found.gflops is None


def test_a_type_the_device_has_no_kernel_for_is_passed_over(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.backend, "choose", lambda *_: None)
    assert bench.measure(task("mat_vec")) is None


def test_the_limits_are_this_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "PEAK", SMALL)
    monkeypatch.setattr(kernels, "measure_bandwidth", lambda threads: Bandwidth(threads, 7.5, (7.5,)))
    with Bench(CONFIG) as opened:
        limits = opened.find_limits()
    assert limits.read_gbps == 7.5
    assert limits.peak_gflops is not None
    assert limits.peak_gflops > 0
    assert limits.peak_type in ("F32", "BF16")


def test_quantizers_are_measured_once_for_each_length_of_row() -> None:
    found = tasks(replace(CONFIG, operations=("quantize", "dequantize")), MATRICES)
    assert [(one.kind.name, one.matrix.columns) for one in found] == 2 * [
        ("Q4_K", 256), ("Q4_K", 512), ("Q8_0", 256), ("Q8_0", 512),
    ]  # fmt: skip


def test_multiplications_are_measured_at_every_shape() -> None:
    found = tasks(replace(CONFIG, types=("Q8_0",), operations=("mat_vec", "mat_mat")), MATRICES)
    assert [(one.operation, one.matrix, one.batch) for one in found] == [
        *(("mat_vec", matrix, 1) for matrix in MATRICES),
        *(("mat_mat", matrix, 33) for matrix in MATRICES),
    ]


def test_rows_that_are_no_whole_blocks_are_not_measured() -> None:
    odd = Matrix(("odd",), 96, 96)
    assert {one.kind.name for one in tasks(CONFIG, [odd])} == {"Q8_0"}
