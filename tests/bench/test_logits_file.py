"""llama-perplexity's file is written byte for byte, continued where it was cut, and refused where it is another's."""

import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from amalia_bench.divergence import BaseLogits, diverge
from amalia_bench.logits_file import (
    HEADER,
    MAGIC,
    Layout,
    LogitsFile,
    LogitsWriter,
    encode,
    is_logits_file,
    windows_there,
)
from amalia_bench.perplexity import scored
from amalia_edge.errors import BenchError, NotComparable
from bench.windows import CONTEXT, VOCABULARY, layout, logits, rows_of, write_windows

F = np.float32


def coded_by_hand(row: list[float]) -> bytes:
    """Code one row in steps of single precision, as llama-perplexity's source does."""
    values = [F(value) for value in row]
    top = max(values)
    least = max(min(values), F(top - F(16)))
    total = F(np.log(sum(float(np.exp(F(value - top))) for value in values)))
    scale = F(F(top - least) / F(65535))
    inverse = F(F(1) / scale) if scale else F(0)
    codes = [int(np.rint(F(inverse * F(value - least)))) if value > least and scale else 0 for value in values]
    padding = [0] * (len(values) % 2)
    return struct.pack(f"<2f{len(codes + padding)}H", scale, F(F(least - top) - total), *codes, *padding)


@pytest.mark.parametrize(
    "row",
    [
        [0.5, 3.0, -2.0, 1.0, 0.0],
        [1.0, 1.0, 1.0, 1.0],  # all alike: no scale
        [0.0, -16.0, -15.999, -16.001, -40.0],  # around what is cut off
        [0.0, -65535 / 65536, -0.5 / 65536, -1.5 / 65536],  # halves between two codes
        [7.0, -np.inf],
    ],
)
def test_a_row_is_coded_as_llama_perplexity_does(row: list[float]) -> None:
    held = Layout(CONTEXT, len(row), np.zeros((1, CONTEXT), np.int32))
    assert encode(np.array([row], np.float32), held.row).tobytes() == coded_by_hand(row)


def test_the_header_is_llama_perplexitys(tmp_path: Path) -> None:
    held = layout(2)
    content = write_windows(tmp_path / "base.logits", held).read_bytes()
    assert content[:20] == b"_logits_" + struct.pack("<3i", CONTEXT, VOCABULARY, 2)
    assert content[20 : 20 + 4 * 2 * CONTEXT] == held.tokens.astype("<i4").tobytes()
    each = 2 * (VOCABULARY + 1 + 4) * (CONTEXT - 1 - CONTEXT // 2)  # 16-bit codes, one of padding, scale and least
    assert len(content) == 20 + 4 * 2 * CONTEXT + 2 * each == held.file_bytes


def test_what_was_written_is_read_within_half_a_code(tmp_path: Path) -> None:
    values = logits(scored(CONTEXT), seed=1)
    with LogitsFile(write_windows(tmp_path / "base.logits", layout())) as file:
        found = file.base(rows_of(values, window=1)).log_probabilities(slice(0, 7))
    exact = BaseLogits(values).log_probabilities(slice(0, 7))
    kept = exact > -16
    assert np.abs(found - exact)[kept].max() < 16 / 65535
    assert (found[~kept] <= -15.99).all()


def test_rows_in_the_middle_of_a_window_are_found(tmp_path: Path) -> None:
    with LogitsFile(write_windows(tmp_path / "base.logits", layout())) as file:
        whole = file.base(rows_of(logits(7), window=2)).log_probabilities(slice(0, 7))
        part = file.base(rows_of(logits(3), window=2, first=4)).log_probabilities(slice(1, 3))
    assert part.tolist() == whole[5:7].tolist()


def test_a_model_against_itself_through_the_file(tmp_path: Path) -> None:
    values = logits(scored(CONTEXT), seed=0)
    with LogitsFile(write_windows(tmp_path / "base.logits", layout())) as file:
        found = diverge(file.base(rows_of(values)), rows_of(values), "level.gguf")
    assert abs(found.kld.mean()) < 1e-5
    assert found.same_top.all()


def test_what_is_cut_off_is_known_to_be(tmp_path: Path) -> None:
    values = np.full((scored(CONTEXT), VOCABULARY), -30, np.float32)
    values[:, 0] = 0
    with LogitsWriter(tmp_path / "base.logits", layout(1)) as writer:
        writer.write(rows_of(values), "base.gguf")
    with LogitsFile(tmp_path / "base.logits") as file:
        found = diverge(file.base(rows_of(values)), rows_of(np.where(values < 0, np.float32(-1000), 0)), "level.gguf")
    assert np.abs(found.kld).max() < 1e-6  # nor does it count that the level differs there
    assert found.known.tolist() == [True] + [False] * 6  # only the first target is token 0
    assert found.nll_base[1] == pytest.approx(16)


def test_an_interrupted_file_is_continued_to_the_same_bytes(tmp_path: Path) -> None:
    held, whole = layout(), write_windows(tmp_path / "whole.logits", layout()).read_bytes()
    for cut in (
        held.header_bytes,
        held.header_bytes + held.window_bytes - 1,
        held.header_bytes + 2 * held.window_bytes + 5,
        30,
        0,
    ):
        path = tmp_path / f"cut{cut}.logits"
        path.write_bytes(whole[:cut])
        there = windows_there(path, held, "fado")
        assert there == max(0, cut - held.header_bytes) // held.window_bytes
        assert write_windows(path, held, there).read_bytes() == whole


def test_a_file_under_way_holds_its_whole_windows(tmp_path: Path) -> None:
    held = layout()
    with LogitsWriter(tmp_path / "base.logits", held) as writer:
        writer.write(rows_of(logits(scored(CONTEXT))), "base.gguf")
        assert windows_there(tmp_path / "base.logits", held, "fado") == 1


def test_the_first_part_of_a_longer_texts_file_will_do(tmp_path: Path) -> None:
    held = layout(5)
    path = write_windows(tmp_path / "base.logits", held, end=3)
    assert windows_there(path, Layout(CONTEXT, VOCABULARY, held.tokens[:2]), "fado") == 2


def test_a_longer_texts_file_that_was_cut_is_not_ours_to_finish(tmp_path: Path) -> None:
    held = layout(5)
    path = write_windows(tmp_path / "base.logits", held, end=1)
    with pytest.raises(BenchError, match="cut: 1 of 5 windows in it"):
        windows_there(path, Layout(CONTEXT, VOCABULARY, held.tokens[:2]), "fado")


def test_a_file_of_a_shorter_text_does_not_reach(tmp_path: Path) -> None:
    held = layout(5)
    path = write_windows(tmp_path / "base.logits", Layout(CONTEXT, VOCABULARY, held.tokens[:2]))
    with pytest.raises(NotComparable, match="2 of 5 windows of fado"):
        windows_there(path, held, "fado")


def test_a_cut_file_is_refused_as_a_base(tmp_path: Path) -> None:
    with LogitsFile(write_windows(tmp_path / "base.logits", layout(), end=2)) as file:
        with pytest.raises(BenchError, match=r"base\.logits: cut: 2 of 3 windows in it; finish it"):
            file.require_whole()
        file.require_whole(2)  # no more are wanted


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    file = LogitsFile(write_windows(tmp_path / "base.logits", layout()))
    with file, pytest.raises(NotComparable, match=r"37 tokens in its vocabulary, level\.gguf has 38"):
        file.require_vocabulary(38, "level.gguf")


def test_a_file_of_another_text_is_refused(tmp_path: Path) -> None:
    file = LogitsFile(write_windows(tmp_path / "base.logits", layout()))
    with file, pytest.raises(NotComparable, match="made of another text than fado"):
        file.require_windows(layout(seed=2).tokens, "fado")


def test_a_file_of_another_context_is_refused(tmp_path: Path) -> None:
    file = LogitsFile(write_windows(tmp_path / "base.logits", layout()))
    with file, pytest.raises(NotComparable, match="windows of 16 tokens, not 32"):
        file.require_windows(layout(context=32).tokens, "fado")


def header(context: int = CONTEXT, vocabulary: int = VOCABULARY, windows: int = 3) -> bytes:
    return HEADER.pack(MAGIC, context, vocabulary, windows)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"GGUF" + bytes(100), "not a file of log-probabilities"),
        (b"", "not a file of log-probabilities"),
        (MAGIC + bytes(4), "cut after 12 bytes"),
        (header() + bytes(40), "byte 60: its text's tokens want 152 bytes more"),
        (header(windows=-1), "-1 windows of 16 tokens"),
        (header(windows=0), "0 windows"),
        (header(context=0), "3 windows of 0 tokens"),
        (header(vocabulary=0), "a vocabulary of 0"),
        (header(2**24, 2**24, 2**31 - 1), "want"),  # more than any disk: nothing is allocated
        (header() + b"\xff" * 4 * 3 * CONTEXT, "tokens that its vocabulary does not have"),
    ],
)
def test_a_header_that_cannot_be_is_refused(content: bytes, found: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.logits"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=found):
        LogitsFile(path)


def test_bytes_after_the_end_are_refused(tmp_path: Path) -> None:
    path = write_windows(tmp_path / "base.logits", layout())
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(BenchError, match="4 bytes more than its header tells of"):
        LogitsFile(path)


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="No such file"):
        LogitsFile(tmp_path / "none.logits")
    assert not is_logits_file(tmp_path / "none.logits")


def test_a_damaged_window_is_named(tmp_path: Path) -> None:
    held = layout()
    path = write_windows(tmp_path / "base.logits", held)
    content = bytearray(path.read_bytes())
    content[held.header_bytes + held.window_bytes : held.header_bytes + held.window_bytes + 4] = b"\xff" * 4  # NaN
    path.write_bytes(content)
    with LogitsFile(path) as file, pytest.raises(BenchError, match="window 2: numbers that are infinite or none"):
        file.base(rows_of(logits(1), window=1)).log_probabilities(slice(0, 1))


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    held = layout()
    path = write_windows(tmp_path / "base.logits", held)
    with LogitsFile(path) as file:
        with path.open("r+b") as shrunk:
            shrunk.truncate(held.file_bytes - 1)
        with pytest.raises(BenchError, match="window 3: 1 bytes are gone"):
            file.base(rows_of(logits(7), window=2)).log_probabilities(slice(0, 7))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_is_not_written(wrong: float, tmp_path: Path) -> None:
    values = logits(scored(CONTEXT))
    values[2, 3] = wrong
    held = layout()
    writer, found = (
        LogitsWriter(tmp_path / "base.logits", held),
        r"base\.gguf: window 1: logits that are infinite or no",
    )
    with writer, pytest.raises(BenchError, match=found):
        writer.write(rows_of(values), "base.gguf")
    assert windows_there(tmp_path / "base.logits", held, "fado") == 0


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "precious.txt"
    path.write_text("não apagar")
    with pytest.raises(BenchError, match="not a file of log-probabilities"):
        windows_there(path, layout(), "fado")
    assert path.read_text() == "não apagar"


def test_a_place_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BenchError, match="cannot be written"):
        LogitsWriter(tmp_path / "file" / "base.logits", layout())


@given(st.binary(max_size=200), st.integers(-3, 40), st.integers(-3, 40), st.integers(-3, 40))
def test_no_header_is_trusted(tail: bytes, context: int, vocabulary: int, windows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.logits"
        path.write_bytes(header(context, vocabulary, windows) + tail)
        try:
            with LogitsFile(path) as file:
                assert 0 <= file.whole <= file.layout.windows
        except BenchError:
            pass


def coded(row: list[float]) -> NDArray[np.void]:
    return encode(np.array([row], np.float32), layout(vocabulary=len(row)).row)


def test_the_likeliest_token_has_the_highest_code() -> None:
    assert coded([1.0, 9.0, 3.0])["codes"][0].tolist() == [0, 65535, 16384, 0]
