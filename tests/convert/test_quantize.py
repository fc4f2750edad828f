"""Pieces become blocks in parallel, and what no block can hold is counted and refused."""

import threading
from pathlib import Path

import numpy as np
import pytest

from amalia_convert.blocks import BlockType
from amalia_convert.checkpoint import Piece
from amalia_convert.conversion import ConvertConfig, convert
from amalia_convert.families import MappedTensor
from amalia_convert.levels import LEVELS
from amalia_convert.plan import OutputPlan, PlannedTensor
from amalia_convert.quantize import Quantizer, Settings, Tally, run_all, widen
from amalia_convert.shard import StoredTensor
from amalia_convert.writer import Target
from amalia_edge.errors import Unquantizable
from checkpoints import Tiny, to_bytes, weights, write_safetensors

TINY = Tiny(layers=2, feed_forward=64, hidden=64, heads=2, head_dim=32)


def piece(name: str, first: int = 0) -> Piece:
    return Piece(StoredTensor(name, "BF16", (4, 4), Path("x"), 0, 32), first, bytes(16))


def test_bf16_is_the_upper_half_of_f32() -> None:
    values = np.array([[1.5, -0.0, 2.0**-130, 3.0e38]], np.float32)
    exact = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
    bits = np.frombuffer(to_bytes(values, "BF16"), "<u2")
    assert widen(bits, "BF16").tobytes() == exact.tobytes()


def test_a_piece_with_a_fault_never_reaches_ggml(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of ggml's quantizers abort the process on a value that is not a number."""
    stored = StoredTensor("a", "BF16", (1, 32), Path("x"), 0, 64)
    planned = PlannedTensor("a", MappedTensor("a", stored), BlockType.Q8_0, 0)
    plan = OutputPlan(LEVELS["Q8_0"], Path("y"), b"", (planned,), 34)
    monkeypatch.setattr("amalia_convert.quantize.quantize_rows", lambda *_: pytest.fail("it did"))
    broken = Piece(stored, 0, to_bytes(np.full(32, np.nan, np.float32), "BF16"), end=64)
    assert Quantizer([(plan, Target(Path("y"), 34))], Settings({}))(broken) == (32, 0)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_values_that_are_not_numbers_are_counted_and_their_tensor_named(checkpoint: Path, dtype: str) -> None:
    table = weights(TINY)
    broken = table["model.layers.1.mlp.up_proj.weight"]
    broken[7, :3], broken[9, 0], broken[9, 1] = np.nan, np.inf, -np.inf
    write_safetensors(checkpoint / "model.safetensors", table, dtype)
    found = r"blk|model\.layers\.1\.mlp\.up_proj\.weight.*3 values are not a number and 2 are infinite"
    with pytest.raises(Unquantizable, match=found) as caught:
        convert(ConvertConfig(str(checkpoint), ("Q4_0",), checkpoint / "out"))
    assert caught.value.exit_code == 6 and "3 values are not a number and 2" in caught.value.found
    assert list((checkpoint / "out").iterdir()) == []


def test_f16_refuses_what_it_would_make_infinite(checkpoint: Path) -> None:
    table = weights(TINY)
    table["model.layers.0.mlp.up_proj.weight"][5, 5] = 70000
    write_safetensors(checkpoint / "model.safetensors", table)
    with pytest.raises(Unquantizable, match=r"ffn_up.*1 values beyond 65504.*BF16"):
        convert(ConvertConfig(str(checkpoint), ("F16",), checkpoint / "out"))
    convert(ConvertConfig(str(checkpoint), ("BF16",), checkpoint / "out"))


def test_faults_are_counted_over_the_whole_tensor_before_it_is_refused() -> None:
    tally = Tally(allow=False)
    tally.add(piece("a"), (1, 0))
    tally.add(piece("a", 2), (1, 3))
    with pytest.raises(Unquantizable, match=r"tensor a: 2 values are not a number and 3 are infinite"):
        tally.add(piece("b"), (0, 0))


def test_allowed_faults_are_written_as_zero_and_told(checkpoint: Path) -> None:
    table, name = weights(TINY), "model.layers.1.mlp.up_proj.weight"
    table[name][7, :3], table[name][9, 0] = np.nan, -np.inf
    write_safetensors(checkpoint / "model.safetensors", table)
    (spoilt,) = convert(ConvertConfig(str(checkpoint), ("Q8_0",), checkpoint / "a", allow_nonfinite=True))
    assert spoilt.replaced == {name: [3, 1]} and spoilt.options == {"allow_nonfinite": True}
    table[name][7, :3], table[name][9, 0] = 0, 0
    write_safetensors(checkpoint / "model.safetensors", table)
    (sound,) = convert(ConvertConfig(str(checkpoint), ("Q8_0",), checkpoint / "b"))
    assert sound.sha256 == spoilt.sha256


def test_pieces_are_worked_on_at_the_same_time_and_few_wait() -> None:
    together, read = threading.Barrier(2, timeout=20), 0

    def pieces():  # type: ignore[no-untyped-def]
        nonlocal read
        for index in range(40):
            read += 1
            yield piece(str(index))

    done: list[str] = []

    def work(one: Piece) -> tuple[int, int]:
        together.wait()  # passes only when two threads are here at once
        assert read <= len(done) + 6
        return 0, 0

    run_all(pieces(), work, 2, lambda one, faults: done.append(one.tensor.name))
    assert done == [str(index) for index in range(40)]  # in the order of reading


def test_an_error_in_a_thread_ends_the_work() -> None:
    def work(one: Piece) -> tuple[int, int]:
        raise OSError("broken disk")

    with pytest.raises(OSError, match="broken disk"):
        run_all((piece(str(index)) for index in range(1000)), work, 2, lambda one, faults: None)
