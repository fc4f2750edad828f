"""A level is compared with its base token by token, as the definitions say."""

import math
import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from amalia_bench.divergence import BaseLogits, Tokens, diverge, log_softmax, summarize
from amalia_edge.errors import BenchError
from bench.windows import compared, logits, rows_of


def shares(values: NDArray[np.float32]) -> NDArray[np.float64]:
    found = np.exp(values.astype(np.float64) - values.max(1, keepdims=True))
    return np.asarray(found / found.sum(1, keepdims=True))


def test_figures_are_those_of_float64() -> None:
    base, level = logits(50, seed=1), logits(50, seed=2)
    p, q, found = shares(base), shares(level), compared(base, level)
    targets, places = rows_of(level).targets, np.arange(50)
    np.testing.assert_allclose(found.kld, (p * np.log(p / q)).sum(1), rtol=1e-5)
    np.testing.assert_allclose(found.nll, -np.log(q[places, targets]), rtol=1e-5)
    np.testing.assert_allclose(found.nll_base, -np.log(p[places, targets]), rtol=1e-5)
    np.testing.assert_allclose(found.dp, (q - p)[places, targets], atol=1e-6)
    assert found.same_top.tolist() == (p.argmax(1) == q.argmax(1)).tolist()


def test_a_model_against_itself_has_no_divergence_at_all() -> None:
    found = compared(logits(20), logits(20).copy())
    assert found.kld.max() == found.dp.max() == 0
    assert found.same_top.all()


def test_logits_that_differ_by_a_constant_say_the_same() -> None:
    assert np.abs(compared(logits(20), logits(20) + np.float32(64)).kld).max() < 1e-5


def test_of_two_tokens_alike_the_first_is_the_top() -> None:
    base, level = np.array([[2, 2, 0], [0, 2, 2]], np.float32), np.array([[2, 0, 0], [0, 0, 2]], np.float32)
    assert compared(base, level).same_top.tolist() == [True, False]


def test_a_token_that_both_forbid_costs_nothing() -> None:
    base, level = np.array([[1, -np.inf, 0]], np.float32), np.array([[1, -np.inf, 0]], np.float32)
    assert compared(base, level).kld.tolist() == [0.0]


def test_a_token_that_only_the_base_forbids_costs_what_the_level_gives_it() -> None:
    base, level = np.array([[0, -np.inf]], np.float32), np.array([[0, 0]], np.float32)
    assert compared(base, level).kld.tolist() == pytest.approx([math.log(2)])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_logit_that_is_no_number_names_the_file_and_the_window(wrong: float) -> None:
    level = logits(5)
    level[3, 7] = wrong
    with pytest.raises(BenchError, match=r"level\.gguf: window 3: logits that are infinite or no number"):
        compared(logits(5), level, window=2)


def test_a_base_that_is_no_number_is_told_from_the_level() -> None:
    base = logits(5)
    base[0, 0] = np.nan
    with pytest.raises(BenchError, match="the base's logits: window 1"):
        compared(base, logits(5))


def test_memory_is_bounded_whatever_the_vocabulary() -> None:
    values = np.zeros((96, 128_000), np.float32)  # 49 MB, that libllama holds
    rows = rows_of(values)
    tracemalloc.start()
    try:
        diverge(BaseLogits(values), rows, "level.gguf")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 60e6


def test_log_probabilities_add_up_to_one() -> None:
    np.testing.assert_allclose(np.exp(log_softmax(logits(9) * 3).astype(np.float64)).sum(1), 1, rtol=1e-6)


def tokens(nll: list[float], nll_base: list[float], kld: list[float], *, known: list[bool] | None = None) -> Tokens:
    """Give two tokens to each window."""
    count = len(nll)
    nll_found, base, divergence = (np.array(values, np.float64) for values in (nll, nll_base, kld))
    return Tokens(
        np.arange(count) // 2,
        nll_found,
        base,
        divergence,
        np.exp(-nll_found) - np.exp(-base),
        divergence < 1,
        np.array(known if known is not None else [True] * count),
    )


def test_a_summary_has_every_figure() -> None:
    found = summarize(tokens([1, 2, 3, 4], [1, 1, 2, 3], [0, 0.5, 1.5, 2]))
    assert found["ppl"] == pytest.approx(math.exp(2.5))
    assert found["ppl_base"] == pytest.approx(math.exp(1.75))
    assert found["ppl_ratio"] == pytest.approx(math.exp(0.75))
    assert (found["delta_nll"], found["mean_kld"], found["median_kld"], found["max_kld"]) == (0.75, 1.0, 1.0, 2.0)
    assert found["kld_percentiles"] == {
        "90": pytest.approx(1.85), "95": pytest.approx(1.925), "99": pytest.approx(1.985), "99.9": pytest.approx(1.9985),
    }  # fmt: skip
    assert found["same_top"] == 0.5
    assert found["rms_dp"] >= abs(found["mean_dp"])
    assert found["ppl_ratio_ci95"][0] < found["ppl_ratio"] < found["ppl_ratio_ci95"][1]


def test_the_loss_is_paired() -> None:
    # The tokens differ much from each other, and nothing at all between the two models.
    found = summarize(tokens([0.1, 9, 3, 0.2], [0, 8.9, 2.9, 0.1], [0] * 4))
    assert found["delta_nll_stderr"] < 1e-9 < found["ppl_stderr"]


def test_intervals_are_of_whole_windows() -> None:
    # Two windows that agree with each other, and tokens within them that do not.
    low, high = summarize(tokens([1] * 4, [1] * 4, [0, 2, 0, 2]))["kld_ci95"]
    assert high - low < 1e-9


def test_what_a_file_cut_off_has_no_part_in_the_ratio() -> None:
    found = summarize(tokens([1, 22, 1, 1], [1, 16, 1, 1], [0] * 4, known=[True, False, True, True]))
    assert (found["ppl_ratio"], found["delta_nll"], found["cut_off"]) == (1.0, 0.0, 1)
    assert found["ppl_ratio_ci95"] == [1.0, 1.0]
    assert found["ppl_base"] == pytest.approx(math.exp(19 / 4))  # llama-perplexity's own figure
