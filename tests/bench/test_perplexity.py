"""Windows are cut and scored as llama-perplexity does it."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from amalia_bench.perplexity import (
    MICRO_BATCH,
    Rows,
    WindowReader,
    cut,
    load_config,
    log_sums,
    losses,
    mean_and_error,
    perplexity,
    pieces,
    scored,
)
from amalia_edge.context import Context
from amalia_edge.errors import BenchError, UsageError
from amalia_edge.model import LoadConfig, Model
from models import tiny_model


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("perplexity") / "tiny-F32.gguf", kind="F32", context=2048)


def windows_of(count: int, context: int) -> NDArray[np.int32]:
    return np.random.default_rng(7).integers(5, 300, (count, context), dtype=np.int32)


def read(path: Path, windows: NDArray[np.int32], begin: int = 0) -> list[tuple[int, int, list[float]]]:
    with Model.open(path, load_config(windows.shape[1], threads=1)) as model, WindowReader(model) as reader:
        return [(rows.window, rows.first, losses(rows).tolist()) for rows in reader.read(windows, begin)]


def one_by_one(path: Path, window: NDArray[np.int32]) -> Iterator[float]:
    """Read a window token by token, after BOS, and give what its second half costs."""
    with Model.open(path, LoadConfig(context=len(window), threads=1)) as model:
        context = Context(model.pointer, len(window), 1, model.config)
        for place, token in enumerate([model.vocabulary.begin, *window[1:-1].tolist()]):
            context.decode([token], place)
            row = context.row(0, model.vocabulary.size).astype(np.float64)
            if place >= len(window) // 2:
                yield float(np.log(np.exp(row).sum()) - row[window[place + 1]])
        context.close()


def test_the_second_half_is_scored_after_bos_and_all_that_came_before(exact: Path) -> None:
    windows = windows_of(1, 32)
    ((window, first, found),) = read(exact, windows)
    assert (window, first, len(found)) == (0, 0, scored(32) == 15 and 15)
    np.testing.assert_allclose(found, list(one_by_one(exact, windows[0])), rtol=2e-3)


def test_a_window_knows_nothing_of_the_one_before(exact: Path) -> None:
    windows = np.repeat(windows_of(1, 64), 11, 0)  # eight at once, then three
    found = [values for _, _, values in read(exact, windows)]
    assert len(found) == 11
    assert all(values == found[0] for values in found)


def test_windows_read_together_are_as_read_alone(exact: Path) -> None:
    windows = windows_of(3, 64)
    alone = [read(exact, windows[place : place + 1])[0][2] for place in range(3)]
    np.testing.assert_allclose([values for _, _, values in read(exact, windows)], alone, rtol=1e-5)


def test_reading_can_begin_in_the_middle(exact: Path) -> None:
    windows = windows_of(4, 64)
    assert [(window, values) for window, _, values in read(exact, windows, 2)] == [
        (window, values) for window, _, values in read(exact, windows)[2:]
    ]


def test_a_long_window_passes_by_in_micro_batches_and_each_token_is_scored_once(exact: Path) -> None:
    found = read(exact, windows_of(2, 1200))
    parts = [(window, first, len(values)) for window, first, values in found]
    assert parts == [(0, 0, 424), (0, 424, 175), (1, 0, 424), (1, 424, 175)]  # 600 to 1023, then to 1198


def test_a_piece_without_anything_to_score_gives_no_rows() -> None:
    # The last token of a window stands alone in its piece, and nothing follows it.
    context = 2 * MICRO_BATCH + 1
    assert [piece.wanted(context) for piece in pieces(0, 1, context)] == [0, MICRO_BATCH, 1]


def test_what_is_left_at_the_end_is_not_read() -> None:
    assert cut(list(range(100)), 32, "text").tolist() == np.arange(96).reshape(3, 32).tolist()


def test_a_text_too_small_says_how_many_tokens_are_needed() -> None:
    with pytest.raises(BenchError, match=r"text: 1023 tokens, at least 1024 needed.*--context 256"):
        cut([5] * 1023, 512, "text")


def test_an_empty_text_is_too_small() -> None:
    with pytest.raises(BenchError, match="0 tokens, at least 1024 needed"):
        cut([], 512, "text")


def test_a_context_in_which_nothing_is_scored_is_refused() -> None:
    with pytest.raises(UsageError, match="context: 0; at least 8"):
        load_config(0)


def test_a_large_logit_does_not_overflow() -> None:
    assert log_sums(np.array([[1e4, 1e4]], np.float32)).tolist() == pytest.approx([1e4 + math.log(2)])


def test_a_forbidden_token_counts_for_nothing() -> None:
    assert log_sums(np.array([[-np.inf, 3.0]], np.float32)).tolist() == [3.0]


def test_losses_are_the_same_however_the_rows_are_parted() -> None:
    values = np.random.default_rng(0).standard_normal((120, 40_000), np.float32)  # more than one part
    targets = np.arange(120, dtype=np.int32)
    whole = np.log(np.exp(values.astype(np.float64)).sum(1)) - values[targets, targets]
    np.testing.assert_allclose(losses(Rows(0, 0, targets, values)), whole, rtol=1e-6)


def test_the_error_is_that_of_llama_perplexity() -> None:
    # sqrt((mean of squares − square of mean) ÷ (count − 1)): of 1, 2, 6 it is sqrt((41/3 − 9) / 2)
    mean, error = mean_and_error(np.array([1.0, 2.0, 6.0]))
    assert (mean, error) == (3.0, pytest.approx(math.sqrt((41 / 3 - 9) / 2)))
    assert perplexity(np.array([1.0, 2.0, 6.0])) == (pytest.approx(math.exp(3)), pytest.approx(math.exp(3) * error))
