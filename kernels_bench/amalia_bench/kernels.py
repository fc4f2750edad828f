"""What each block type's kernels give here: quantize, dequantize, matrix × vector, matrix × matrix.

Weights lie in the memory libllama would choose for them, so that these are the kernels a model runs on. A matrix × vector
takes its turn on as many copies of the matrix as the caches cannot hold; its figure is held against the bandwidth of
memory. A matrix × matrix is limited by arithmetic and held against the best that ggml reaches with f32 or bf16 weights:
integer kernels may well be faster than that. Every result is compared with float64 (reference.py).
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from amalia_bench.bandwidth import Bandwidth, measure_bandwidth
from amalia_bench.cache import last_level_caches
from amalia_bench.matrices import Matrix
from amalia_bench.reference import (
    EXACT_LIMIT,
    PRODUCT_LIMIT,
    Weights,
    make_weights,
    noise,
    normalised_error,
    quantization_limit,
    to_blocks,
    waves,
)
from amalia_convert.blocks import BlockType
from amalia_edge.backend import LOOK_UP, MULTIPLY, Arena, Backend, Buffer, BufferType, copy, read, widen_rows, write
from amalia_edge.device import usable_cores
from amalia_edge.graph import F32
from amalia_edge.machine import glance

OPERATIONS = ("quantize", "dequantize", "mat_vec", "mat_mat")
CACHES, LEAST = 4, 512 << 20  # a matrix × vector reads so many times the last-level caches, and at least so many bytes
SHARE = 8  # at most one part in so many of the memory that is available
SAMPLE_NS, LONGEST = 20_000_000, 64  # a sample of a matrix × matrix lasts so long, or for so many multiplications
QUANTIZED = 1 << 22  # weights that a quantizer is given: more take longer, and tell nothing else
PEAK = Matrix(("peak",), 4096, 4096)


@dataclass(frozen=True)
class KernelsConfig:
    types: tuple[str, ...] = ("Q4_K", "Q6_K", "Q8_0")  # what a Q4_K_M file is made of, and the level beside it
    operations: tuple[str, ...] = OPERATIONS
    device: str = "CPU"
    threads: int = 0  # 0: physical cores
    batch: int = 512
    repetitions: int = 5


@dataclass(frozen=True)
class Limits:
    """What this device can give at best; figures are shares of it."""

    read_gbps: float | None = None
    peak_gflops: float | None = None
    peak_type: str = ""
    bandwidth: Bandwidth | None = None  # as measured, where the device reads the machine's memory


@dataclass(frozen=True)
class Task:
    """One thing to measure."""

    operation: str
    kind: BlockType
    matrix: Matrix
    batch: int = 0

    def __str__(self) -> str:
        return f"{self.operation} {self.kind.name} {self.matrix}"


@dataclass(frozen=True)
class Kernel:
    """What one kernel gave: nanoseconds for one operation, the median of the samples."""

    device: str
    buffer: str  # the kind of memory, which decides the kernel
    type: str
    operation: str
    rows: int
    columns: int
    batch: int
    ns: float
    samples_ns: tuple[float, ...]
    gbps: float  # 10⁹ bytes a second: weights read; and written, where weights are
    gflops: float | None
    bandwidth_share: float | None
    peak_share: float | None
    error: float  # normalised squared error against float64
    error_limit: float
    matrices: tuple[str, ...]  # the model's weights of this shape
    threads: int
    working_set: int  # bytes read before the first of them is read again
    read_gbps: float | None
    peak_gflops: float | None
    peak_type: str

    @property
    def wrong(self) -> bool:
        return not self.error <= self.error_limit


def tasks(config: KernelsConfig, matrices: Sequence[Matrix]) -> list[Task]:
    """List what there is to measure: (de)quantizers once for each length of row, which alone they depend on."""
    kinds = [BlockType[name] for name in config.types]
    longest = {matrix.columns: matrix for matrix in sorted(matrices, key=lambda matrix: matrix.rows)}
    found = []
    for operation in config.operations:
        alone = operation in ("quantize", "dequantize")
        batch = {"mat_vec": 1, "mat_mat": config.batch}.get(operation, 0)
        for kind in kinds:
            fitting = [one for one in (longest.values() if alone else matrices) if one.columns % kind.weights == 0]
            if not (kind is BlockType.F32 and alone):
                found += [Task(operation, kind, matrix, batch) for matrix in fitting]
    return found


class Bench:
    """A device with the memory that its weights are put into, and its limits."""

    def __init__(self, config: KernelsConfig) -> None:
        self.config, self.threads = config, config.threads or usable_cores()
        self.backend = Backend(config.device, self.threads)
        self._weights, self._activations = _Pool(weights=True), _Pool(weights=False)
        free = glance().available if self.backend.is_cpu else self.backend.memory_free()
        caches = last_level_caches() if self.backend.is_cpu else 0
        self.working_set = min(max(CACHES * caches, LEAST), free // SHARE)
        self.limits = Limits()

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self._weights.close()
        self._activations.close()
        self.backend.close()

    def find_limits(self) -> Limits:
        """Measure the bandwidth, on a GPU by ggml's f32 matrix × vector; and the peak, by f32 and bf16 matrix × matrix."""
        peaks = {}
        for kind in (BlockType.F32, BlockType.BF16):
            found = self.measure(Task("mat_mat", kind, PEAK, self.config.batch))
            if found is not None and found.gflops:
                peaks[kind.name] = found.gflops
        best = max(peaks, key=lambda name: peaks[name], default="")
        if self.backend.is_cpu:
            self._weights.close()  # the bandwidth's buffer is large
            bandwidth = measure_bandwidth(self.threads)
            self.limits = Limits(bandwidth.read_gbps, peaks.get(best), best, bandwidth)
        else:
            plain = self.measure(Task("mat_vec", BlockType.F32, PEAK, 1))
            self.limits = Limits(plain.gbps if plain else None, peaks.get(best), best)
        return self.limits

    def measure(self, task: Task) -> Kernel | None:
        """Measure one task; None if the device has no kernel for it."""
        if task.operation == "quantize":
            return self._quantize(task)
        operation = LOOK_UP if task.operation == "dequantize" else MULTIPLY
        memory = self.backend.choose(int(task.kind), task.matrix.rows, task.matrix.columns, operation)
        return None if memory is None else self._compute(task, memory)

    def _quantize(self, task: Task) -> Kernel:
        """Quantize with all threads, each its own rows, as `amalia convert` does."""
        columns = task.matrix.columns
        rows = waves(max(1, min(task.matrix.rows, QUANTIZED // columns)), columns)
        parts = [part for part in np.array_split(rows, self.threads) if len(part)]
        blocks: list[NDArray[np.uint8]] = []
        with ThreadPoolExecutor(self.threads) as pool:

            def run() -> None:
                blocks[:] = pool.map(lambda part: to_blocks(task.kind, part), parts)

            samples = self._time(run, self.config.repetitions)
        whole = np.concatenate(blocks)
        error = normalised_error(widen_rows(int(task.kind), whole, columns), rows)
        smaller = replace(task, matrix=replace(task.matrix, rows=len(rows)))
        nbytes = rows.nbytes + whole.nbytes
        return self._kernel(smaller, "host", samples, (nbytes, nbytes), (error, quantization_limit(task.kind)))

    def _compute(self, task: Task, memory: BufferType) -> Kernel:
        """Compute a graph of one operation on several copies of the weight, each in turn."""
        rows, columns, kind = task.matrix.rows, task.matrix.columns, int(task.kind)
        looked_up = task.operation == "dequantize"
        shape = (rows, columns) if looked_up else (task.batch, rows)  # of a result
        each = self.backend.size_of(memory, kind, rows, columns)
        written = self.backend.size_of(self.backend.plain, F32, *shape)
        moved = each + written if looked_up else each
        copies = 1 if task.operation == "mat_mat" else max(1, math.ceil(self.working_set / moved))
        weights = make_weights(task.kind, rows, columns)
        with Arena(2 * max(copies, LONGEST) + 8) as arena:
            sources = self._fill(arena, task, memory, each, copies, weights)
            given, content, wanted = _given(arena, task, weights)
            start = self.backend.size_of(self.backend.plain, F32, max(1, task.batch), max(rows, columns))
            space = self._activations.take(self.backend.plain, start + written * (copies if looked_up else 1))
            space.place(given)
            write(given, content)

            def describe(sources: Sequence[int]) -> tuple[int, int]:
                describer = arena.look_up if looked_up else arena.multiply
                nodes = [describer(source, given) for source in sources]
                for index, node in enumerate(nodes):
                    space.place(node, start + (index * written if looked_up else 0))
                return arena.graph(nodes), nodes[-1]

            graph, last = describe(sources)
            if task.operation == "mat_mat":
                taken = min(self._time(lambda: self.backend.compute(graph), 1))
                sources *= max(1, min(LONGEST, math.ceil(SAMPLE_NS / taken)))
                graph, last = describe(sources)
            write(last, np.full(shape, np.nan, np.float32))  # a kernel that leaves its result alone is seen
            taken_ns = self._time(lambda: self.backend.compute(graph), self.config.repetitions)
            error = normalised_error(read(last), wanted)
        samples = [ns / len(sources) for ns in taken_ns]
        limit = EXACT_LIMIT if looked_up else PRODUCT_LIMIT
        return self._kernel(task, memory.name, samples, (moved, copies * moved), (error, limit))

    def _fill(
        self, arena: Arena, task: Task, memory: BufferType, each: int, copies: int, weights: Weights
    ) -> list[int]:
        """Put copies of the weight beside one another."""
        room = self._weights.take(memory, each * copies)
        sources = [arena.matrix(int(task.kind), task.matrix.rows, task.matrix.columns) for _ in range(copies)]
        for index, source in enumerate(sources):
            room.place(source, index * each)
        write(sources[0], weights.blocks)
        for source in sources[1:]:
            copy(sources[0], source, memory)
        return sources

    @staticmethod
    def _time(run: Callable[[], None], times: int) -> list[float]:
        """Run once for the caches and the threads, then give each run's nanoseconds."""
        run()
        samples = []
        for _ in range(times):
            start = time.perf_counter_ns()
            run()
            samples.append(float(time.perf_counter_ns() - start))
        return samples

    def _kernel(
        self, task: Task, buffer: str, samples: Sequence[float], nbytes: tuple[int, int], errors: tuple[float, float]
    ) -> Kernel:
        """Make figures of nanoseconds; `nbytes`: moved by one operation, and by all before one is repeated."""
        ns = statistics.median(samples)
        operations = 2.0 * task.matrix.rows * task.matrix.columns * task.batch
        gbps, gflops = nbytes[0] / ns, operations / ns or None
        return Kernel(
            device=self.backend.name,
            buffer=buffer,
            type=task.kind.name,
            operation=task.operation,
            rows=task.matrix.rows,
            columns=task.matrix.columns,
            batch=task.batch,
            ns=ns,
            samples_ns=tuple(samples),
            gbps=gbps,
            gflops=gflops,
            bandwidth_share=_share(gbps, self.limits.read_gbps),
            peak_share=_share(gflops, self.limits.peak_gflops),
            error=errors[0],
            error_limit=errors[1],
            matrices=task.matrix.names,
            threads=self.threads,
            working_set=nbytes[1],
            read_gbps=self.limits.read_gbps,
            peak_gflops=self.limits.peak_gflops,
            peak_type=self.limits.peak_type,
        )


class _Pool:
    """Memory that is kept from one task to the next: the system takes long to give it."""

    def __init__(self, *, weights: bool) -> None:
        self._is_weights = weights
        self._held: list[Buffer] = []  # one, or none yet

    def take(self, kind: BufferType, nbytes: int) -> Buffer:
        """Give memory of that kind and at least that size; what was given before is no longer valid."""
        if not self._held or self._held[0].kind != kind or self._held[0].nbytes < nbytes:
            self.close()
            self._held.append(Buffer(kind, nbytes, weights=self._is_weights))
        return self._held[0]

    def close(self) -> None:
        while self._held:
            self._held.pop().close()


def _given(arena: Arena, task: Task, weights: Weights) -> tuple[int, NDArray[np.generic], NDArray[np.floating]]:
    """Describe an operation's other input, and give its content and the result that is wanted."""
    if task.operation == "dequantize":
        rows = np.arange(task.matrix.rows, dtype=np.int32)
        return arena.indices(len(rows)), rows, weights.rows()
    rows_in = noise(task.batch, task.matrix.columns)
    return arena.matrix(F32, *rows_in.shape), rows_in, weights.product(rows_in)


def _share(figure: float | None, limit: float | None) -> float | None:
    return figure / limit if figure is not None and limit else None
