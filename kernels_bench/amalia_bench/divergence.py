"""What a quantization cost, token by token: how far its probabilities are from the base's, on the same tokens.

Only some rows are in the works at a time, so that a vocabulary of 128,000 costs no more memory than a small one.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from amalia_bench.intervals import block_bootstrap, paired, proportion
from amalia_bench.perplexity import Rows, log_sums, mean_and_error, parts, perplexity
from amalia_edge.errors import BenchError

PERCENTILES = (90.0, 95.0, 99.0, 99.9)
ADVICE = "convert the model again, or try it on the CPU with -ngl 0"  # of a model whose numbers overflow
LEAST = np.float32(-1e4)  # a log-probability whose probability is nought, yet which can be multiplied by it


class Base(Protocol):
    """What the base said of some tokens."""

    @property
    def floor(self) -> float:
        """Give the log-probability above which a token counts."""

    def log_probabilities(self, part: slice) -> NDArray[np.float32]:
        """Give the log-probabilities (rows, vocabulary) of some of the rows."""


class BaseLogits:
    """The base's logits, at hand in memory: every token counts."""

    floor = -math.inf

    def __init__(self, logits: NDArray[np.float32]) -> None:
        self._logits = logits

    def log_probabilities(self, part: slice) -> NDArray[np.float32]:
        return log_softmax(self._logits[part])


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give the log-probabilities (rows, vocabulary); a row with what is no number is none throughout."""
    top = logits.max(1, keepdims=True)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        found: NDArray[np.float32] = logits - top
        found -= log_sums(found)[:, None].astype(np.float32)
    np.maximum(found, LEAST, out=found)
    return found


@dataclass(frozen=True)
class Tokens:
    """What was found for each token that is scored, in the order of the text."""

    window: NDArray[np.int64]
    nll: NDArray[np.float64]  # negative log-likelihood, nats
    nll_base: NDArray[np.float64]
    kld: NDArray[np.float64]  # Kullback-Leibler divergence of the level from the base, nats
    dp: NDArray[np.float64]  # probability of what came next: the level's less the base's
    same_top: NDArray[np.bool_]  # the likeliest token is the base's
    known: NDArray[np.bool_]  # the base's likelihood is: a file cuts off what is below its floor

    @staticmethod
    def joined(found: "list[Tokens]") -> "Tokens":
        columns = {field.name: [getattr(tokens, field.name) for tokens in found] for field in fields(Tokens)}
        return Tokens(**{name: np.concatenate(column) for name, column in columns.items()})

    def first(self, count: int) -> "Tokens":
        return Tokens(**{field.name: getattr(self, field.name)[:count] for field in fields(Tokens)})

    def __len__(self) -> int:
        return len(self.window)


def diverge(base: Base, rows: Rows, where: str) -> Tokens:
    """Compare what a level said of some tokens with what the base said of the same."""
    found = [_diverge(base.log_probabilities(part), base.floor, rows, part) for part in parts(*rows.logits.shape)]
    tokens = Tokens.joined(found)
    for what, values in (("the base's logits", tokens.nll_base), (where, tokens.nll), (where, tokens.kld)):
        if not np.isfinite(values).all():
            raise BenchError(what, f"window {rows.window + 1}: logits that are infinite or no number", ADVICE)
    return tokens


def _diverge(base: NDArray[np.float32], floor: float, rows: Rows, part: slice) -> Tokens:
    level, targets = log_softmax(rows.logits[part]), rows.targets[part, None]
    likeliest = level.argmax(1) == base.argmax(1)
    nll = -np.take_along_axis(level, targets, 1)[:, 0].astype(np.float64)
    nll_base = -np.take_along_axis(base, targets, 1)[:, 0].astype(np.float64)
    share = np.exp(base)  # (rows, vocabulary)
    share[base <= floor] = 0
    kld = np.multiply(share, np.subtract(base, level, out=level), out=share).sum(1, dtype=np.float64)
    window = np.full(len(nll), rows.window)
    return Tokens(window, nll, nll_base, kld, np.exp(-nll) - np.exp(-nll_base), likeliest, -nll_base > floor)


def summarize(tokens: Tokens) -> dict[str, Any]:
    """Give the figures of a text; intervals by whole windows, since neighbouring tokens are not independent.

    Where a file cut the base's likelihood of a token off, the token has no part in the ratio of the perplexities, or a
    model would be worse than itself.
    """
    blocks, known = tokens.window, tokens.known
    ppl, ppl_stderr = perplexity(tokens.nll)
    ppl_base, ppl_base_stderr = perplexity(tokens.nll_base)
    delta, delta_stderr = mean_and_error((tokens.nll - tokens.nll_base)[known])
    kld, kld_stderr = mean_and_error(tokens.kld)
    dp, dp_stderr = mean_and_error(tokens.dp)
    square, square_stderr = mean_and_error(np.square(tokens.dp))
    top, top_stderr = mean_and_error(tokens.same_top.astype(np.float64))
    loss = paired(tokens.nll[known], tokens.nll_base[known], blocks[known])
    ratio = loss.map(_exp, _exp(loss.mean))
    return {
        "ppl": ppl,
        "ppl_stderr": ppl_stderr,
        "ppl_base": ppl_base,
        "ppl_base_stderr": ppl_base_stderr,
        "ppl_ratio": _exp(delta),
        "ppl_ratio_stderr": _exp(delta) * delta_stderr,
        "ppl_ratio_ci95": ratio.bounds,
        "cut_off": int((~known).sum()),
        "delta_nll": delta,
        "delta_nll_stderr": delta_stderr,
        "delta_nll_ci95": loss.bounds,
        "mean_kld": kld,
        "kld_stderr": kld_stderr,
        "kld_ci95": block_bootstrap(tokens.kld, blocks).bounds,
        "median_kld": float(np.median(tokens.kld)),
        "kld_percentiles": {f"{at:g}": float(np.percentile(tokens.kld, at)) for at in PERCENTILES},
        "max_kld": float(tokens.kld.max()),
        "mean_dp": dp,
        "mean_dp_stderr": dp_stderr,
        "mean_dp_ci95": block_bootstrap(tokens.dp, blocks).bounds,
        "rms_dp": math.sqrt(square),
        "rms_dp_stderr": 0.5 * square_stderr / math.sqrt(square) if square else 0.0,
        "rms_dp_ci95": block_bootstrap(tokens.dp, blocks, "rms").bounds,
        "same_top": top,
        "same_top_stderr": top_stderr,
        "same_top_ci95": proportion(tokens.same_top, blocks).bounds,
        "window_kld": _by_window(tokens.kld, blocks),  # so that two levels can be compared in pairs
        "window_delta_nll": _by_window((tokens.nll - tokens.nll_base)[known], blocks[known]),
    }


def _by_window(values: NDArray[np.float64], blocks: NDArray[np.int64]) -> list[float]:
    """Give the mean of each window, in the order of the text."""
    _, places, counts = np.unique(blocks, return_inverse=True, return_counts=True)
    means: list[float] = (np.bincount(places, values) / counts).tolist()
    return means


def _exp(value: float) -> float:
    return math.exp(min(value, 700))
