"""What a context computes can be watched; what goes wrong in the watching comes out, and nothing is misread."""

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from amalia_edge import graph, native
from amalia_edge.errors import LibraryMissing
from amalia_edge.graph import Tensor, WatchedContext, check_layout, read_rows, weight_name
from amalia_edge.model import LoadConfig, Model
from models import tiny_model

IDS = list(range(5, 25))


class Notes:
    """An observer that keeps the shapes of what it sees, and can be told to do something on the way."""

    def __init__(self, on_wants: Callable[[], None] = int, on_see: Callable[[], None] = int) -> None:
        self.seen: list[tuple[str, tuple[int, ...]]] = []
        self._on_wants, self._on_see = on_wants, on_see

    def wants(self, weight: str) -> bool:
        self._on_wants()
        return weight.startswith("blk.1.")

    def see(self, weight: str, rows: NDArray[np.float32]) -> None:
        self.seen.append((weight, rows.shape))
        self._on_see()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Q8_0 is what the AMX and REPACK kernels lay out anew: the names must still be the file's."""
    path = tiny_model(tmp_path_factory.mktemp("graph") / "tiny.gguf", kind="Q8_0")
    with Model.open(path, LoadConfig(context=256, threads=2)) as opened:
        yield opened


def watch(model: Model, notes: Notes, *, every: bool = True, times: int = 1) -> None:
    context = WatchedContext(model, 256, notes)
    try:
        for _ in range(times):
            context.truncate(0)
            context.decode(IDS, 0, every=every)
    finally:
        context.close()


def fail() -> None:
    raise ZeroDivisionError


def test_every_wanted_weight_is_seen_once_with_the_rows_it_meets(small: Model) -> None:
    notes = Notes()
    watch(small, notes)
    wide = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"}
    assert sorted(notes.seen) == sorted(
        [(f"blk.1.{name}.weight", (20, 256)) for name in wide] + [("blk.1.ffn_down.weight", (20, 512))]
    )


def test_without_every_tokens_logits_the_last_feed_forward_sees_one_row(small: Model) -> None:
    notes = Notes()
    watch(small, notes, every=False)
    assert dict(notes.seen)["blk.1.ffn_down.weight"] == (1, 512)


@pytest.mark.parametrize("notes", [Notes(on_wants=fail), Notes(on_see=fail)], ids=["wants", "see"])
def test_an_observers_exception_comes_out_of_decode(small: Model, notes: Notes) -> None:
    with pytest.raises(ZeroDivisionError):
        watch(small, notes)
    assert len(notes.seen) <= 1  # nothing is shown after it


def test_a_context_goes_on_after_an_observers_exception(small: Model) -> None:
    steps = iter([fail])
    notes = Notes(on_see=lambda: next(steps, int)())
    context = WatchedContext(small, 256, notes)
    with pytest.raises(ZeroDivisionError):
        context.decode(IDS, 0)
    context.truncate(0)
    context.decode(IDS, 0)
    context.close()
    assert len(notes.seen) == 1 + 7


def test_ctrl_c_while_c_computes_comes_out_of_decode(small: Model) -> None:
    started = threading.Event()

    def interrupt() -> None:
        started.wait()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):  # lost in a callback, it would not come at all
        watch(small, Notes(on_see=started.set), times=500)
    thread.join()


def test_ctrl_c_waits_while_c_calls_us_and_is_raised_again_after() -> None:
    kept: list[BaseException] = []
    with native.held_interrupts(kept.append):
        signal.raise_signal(signal.SIGINT)
    assert [type(reason) for reason in kept] == [KeyboardInterrupt]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_another_owners_handling_of_ctrl_c_is_left_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with native.held_interrupts(lambda _reason: None):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_copy_on_another_device_has_its_weights_name() -> None:
    assert weight_name("CUDA0#blk.0.attn_k.weight#0") == "blk.0.attn_k.weight"
    assert weight_name("blk.0.attn_k.weight") == "blk.0.attn_k.weight"


def test_rows_are_read_by_their_strides() -> None:
    content = np.arange(24, dtype=np.float32).reshape(2, 4, 3)[:, ::2]  # 3 columns, every second of 4 rows, twice
    tensor = Tensor(sides=(3, 2, 2, 1), strides=(4, 24, 48, 96))

    def copy(_pointer: int, target: int, offset: int, nbytes: int) -> None:
        ctypes.memmove(target, content.ctypes.data + offset, nbytes)

    reach = 48 + 24 + 12  # bytes from the first value to the last one
    handle = SimpleNamespace(ggml_nbytes=lambda _pointer: reach, ggml_backend_tensor_get=copy)
    rows = read_rows(handle, ctypes.addressof(tensor))
    assert rows.tolist() == [[0, 1, 2], [6, 7, 8], [12, 13, 14], [18, 19, 20]]


def test_the_layout_is_the_librarys(small: Model) -> None:
    check_layout(native.library()._lib)


def test_a_tensor_that_grew_is_refused(small: Model) -> None:
    class Grown:
        def __getattr__(self, name: str) -> object:
            real = getattr(native.library()._lib, name)
            return (lambda: real() + 8) if name == "ggml_tensor_overhead" else real

    with pytest.raises(LibraryMissing, match="ggml_tensor: layout differs"):
        check_layout(Grown())


def test_fields_that_moved_are_refused(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = list(Tensor._fields_)
    fields[2], fields[3] = fields[3], fields[2]  # sides and strides: the size stays the same
    moved = type("Moved", (ctypes.Structure,), {"_fields_": fields})
    monkeypatch.setattr(graph, "Tensor", moved)
    with pytest.raises(LibraryMissing, match="layout differs"):
        check_layout(native.library()._lib)
