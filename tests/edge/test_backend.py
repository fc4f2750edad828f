"""Single operations on ggml's devices, in the memory that libllama would choose."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

from amalia_edge.backend import (
    LOOK_UP,
    Arena,
    Backend,
    Buffer,
    BufferType,
    alignment,
    copy,
    read,
    size_in,
    widen_rows,
    write,
)
from amalia_edge.errors import DecodeError, DoesNotFit, UsageError
from amalia_edge.gguf import read_header
from amalia_edge.graph import F32
from amalia_edge.model import LoadConfig, Model
from amalia_edge.quantizer import quantize_rows
from models import tiny_model

Q8_0, Q4_K = 8, 12
ROWS, COLUMNS, TOKENS = 96, 256, 5
STEP = 1 << 20


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with Backend("cpu", 2) as opened:
        yield opened


def random_rows(count: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-1, 1, (count, COLUMNS)).astype(np.float32)


def product(
    backend: Backend, memory: BufferType, kind: int, blocks: NDArray[np.uint8], *, copied: bool = False
) -> NDArray[np.float32]:
    """Multiply random rows with a weight, or with a copy of it."""
    with Arena(8) as arena, Buffer(memory, 2 * STEP, weights=True) as room, Buffer(backend.plain, 2 * STEP) as space:
        first, second = (arena.matrix(kind, ROWS, COLUMNS) for _ in range(2))
        rows = arena.matrix(F32, TOKENS, COLUMNS)
        room.place(first)
        room.place(second, STEP)
        space.place(rows)
        node = arena.multiply(second if copied else first, rows)
        space.place(node, STEP)
        write(first, blocks)
        write(rows, random_rows(TOKENS, 1))
        if copied:
            copy(first, second, memory)
        backend.compute(arena.graph([node]))
        return read(node)


def test_a_multiplication_is_the_one_of_float64(backend: Backend) -> None:
    weight = random_rows(ROWS)
    wanted = random_rows(TOKENS, 1).astype(np.float64) @ weight.astype(np.float64).T
    found = product(backend, backend.plain, F32, weight.view(np.uint8))
    assert found.shape == (TOKENS, ROWS)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", [Q8_0, Q4_K])
def test_every_kind_of_memory_gives_the_same_product(backend: Backend, kind: int) -> None:
    blocks = quantize_rows(kind, random_rows(ROWS))
    plain = product(backend, backend.plain, kind, blocks)
    memory = backend.choose(kind, ROWS, COLUMNS)
    assert memory is not None
    special = product(backend, memory, kind, blocks)
    assert ((special - plain) ** 2).sum() < 1e-4 * (plain**2).sum()
    assert (product(backend, memory, kind, blocks, copied=True) == special).all()


def test_rows_are_looked_up_in_the_order_of_the_indices(backend: Backend) -> None:
    weight = random_rows(ROWS)
    with Arena(4) as arena, Buffer(backend.plain, 3 * STEP) as room:
        source, order = arena.matrix(F32, ROWS, COLUMNS), arena.indices(3)
        node = arena.look_up(source, order)
        for index, tensor in enumerate((source, order, node)):
            room.place(tensor, index * STEP)
        write(source, weight)
        write(order, np.array([7, 0, 95], np.int32))
        backend.compute(arena.graph([node]))
        assert (read(node) == weight[[7, 0, 95]]).all()


def test_weights_lie_where_libllama_puts_them(
    backend: Backend, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", kind="Q8_0")
    with caplog.at_level(logging.DEBUG, "amalia.native"), Model.open(path, LoadConfig(context=256)):
        told = set(re.findall(r"(\S+?)(?:_Mapped)? model buffer size", caplog.text))
    weights = [
        tensor for tensor in read_header(path).tensors if tensor.name.startswith("blk.") and tensor.kind == "Q8_0"
    ]
    found = {backend.choose(Q8_0, tensor.shape[1], tensor.shape[0]) for tensor in weights}
    assert None not in found
    assert {memory.name for memory in found if memory} <= told
    special = told - {"CPU"}
    assert special <= {memory.name for memory in found if memory}


def test_an_embedding_stays_in_plain_memory(backend: Backend) -> None:
    assert backend.choose(Q8_0, ROWS, COLUMNS, LOOK_UP) == backend.plain


def test_plain_memory_is_a_processors_last_choice(backend: Backend) -> None:
    assert backend.weight_types()[-1] == backend.plain
    assert backend.is_cpu


def test_a_device_that_is_not_there_is_said_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"device 'TPU9': libllama lists none of that name; devices: .*CPU"):
        Backend("TPU9", 1)


def test_a_tensor_beyond_the_end_of_a_buffer_is_refused(backend: Backend) -> None:
    with Arena(1) as arena, Buffer(backend.plain, STEP) as room:
        tensor = arena.matrix(F32, 1024, 256)
        assert size_in(backend.plain, tensor) == STEP
        with pytest.raises(DoesNotFit, match="no room at byte 64"):
            room.place(tensor, 64)
        room.place(tensor)


def test_a_tensor_between_two_places_is_refused(backend: Backend) -> None:
    assert alignment(backend.plain) > 8
    with Arena(1) as arena, Buffer(backend.plain, STEP) as room, pytest.raises(DoesNotFit, match="byte 8"):
        room.place(arena.matrix(F32, 2, 32), 8)


def test_content_of_another_size_is_refused(backend: Backend) -> None:
    with Arena(1) as arena, Buffer(backend.plain, STEP) as room:
        tensor = arena.matrix(F32, 2, 32)
        room.place(tensor)
        with pytest.raises(DecodeError, match="252 bytes for one of 256"):
            write(tensor, np.zeros(63, np.float32))


def test_the_next_weight_begins_where_the_memory_lets_it(backend: Backend) -> None:
    nbytes = backend.size_of(backend.plain, F32, 1, 3)
    assert nbytes >= 12
    assert nbytes % alignment(backend.plain) == 0


@pytest.mark.parametrize("kind", sorted(quants._type_traits), ids=lambda kind: kind.name)
def test_blocks_stand_for_the_weights_that_ggufs_own_reader_finds(kind: GGMLQuantizationType) -> None:
    weights, nbytes = quants.GGML_QUANT_SIZES[kind]
    random, shape = np.random.default_rng(0), (40, COLUMNS // weights * nbytes)
    blocks = (random.integers(0, 60, shape) + 128 * random.integers(0, 2, shape)).astype(np.uint8)  # no infinite scale
    np.testing.assert_allclose(widen_rows(int(kind), blocks, COLUMNS), quants.dequantize(blocks, kind), rtol=1e-5)


def test_f32_rows_stand_for_themselves() -> None:
    rows = random_rows(3)
    assert (widen_rows(F32, rows.view(np.uint8), COLUMNS) == rows).all()
