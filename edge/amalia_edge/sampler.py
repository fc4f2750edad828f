"""The sampling chain: what picks the next token from the logits."""

import ctypes
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from amalia_edge import native
from amalia_edge.errors import UsageError
from amalia_edge.vocab import Vocabulary

RANDOM_SEED = 2**32 - 1  # LLAMA_DEFAULT_SEED: libllama takes it for "any", so it would not come again
LARGEST_WINDOW = 1 << 16  # tokens a penalty may look back on: libllama allocates them all at once
LARGEST_TOP_K = 2**31 - 1
COLDEST = 1e-3  # below it the likeliest token is the only one, and float32 would overflow
LARGEST_BIAS, MOST_BIASES, MOST_LOGPROBS = 1e4, 1 << 16, 1 << 10
MOST_STOPS, LONGEST_STOP = 64, 1000  # characters
MOST_BREAKERS, LONGEST_BREAKER = 16, 40  # bytes: libllama would cut a longer one; each costs 4 ms at 128,000 tokens
GROUPS, LEAST_GROUP, MOST_NARROWED = 64, 256, 128  # so that partitioning is of few
CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("probability", "<f4")])  # llama_token_data
OVERFLOWS = ("stop", "shift")


class Constraint(Protocol):
    """What one answer may still say."""

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Set the logits of all tokens that may not come next to −∞, in place."""

    def accept(self, token: int) -> None: ...


class Grammar(Protocol):
    """What answers may say; each answer opens a constraint of its own."""

    def open(self, vocabulary: Any) -> Constraint: ...


class Outputs(Protocol):
    """What the last batch led to; a Context gives it."""

    pointer: Any

    def row(self, index: int, vocabulary: int) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class SamplingConfig:
    """How to pick tokens, and when to end; the defaults are llama.cpp's own."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int | None = None  # None: another one each time
    limit: int | None = None  # tokens to generate; None: until the model ends or the context is full
    ignore_end: bool = False  # go on past the end of the answer, as a measurement must
    repeat_penalty: float = 1.0
    repeat_last: int = 64  # tokens, of the prompt too, that the three penalties look back on
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2  # tokens that may come again at no cost
    dry_last: int = 64
    dry_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, what is added); −∞ forbids it
    grammar: Grammar | None = None
    logprobs: int | None = None  # how many of the likeliest to tell with each token; 0: only the token's own
    stop: tuple[str, ...] = ()
    deadline_s: float | None = None  # from submit on
    overflow: str = "stop"  # "shift": an endless chat forgets its middle
    keep: int = 0  # tokens at the beginning that a shift keeps; −1: the whole prompt

    def __post_init__(self) -> None:
        for name, good in {**self._ranges(), **self._lists()}.items():
            if not good:
                raise UsageError(name, f"{str(getattr(self, name))[:60]} is out of range", "see amalia run --help")

    def _ranges(self) -> dict[str, bool]:
        """Say of each number whether it is in its range, which NaN never is."""
        return {
            "temperature": 0 <= self.temperature <= 10,
            "top_k": 0 <= self.top_k <= LARGEST_TOP_K,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p < 1,
            "seed": self.seed is None or 0 <= self.seed < RANDOM_SEED,
            "limit": self.limit is None or self.limit >= 0,
            "repeat_penalty": 0.01 <= self.repeat_penalty <= 100,
            "repeat_last": 0 <= self.repeat_last <= LARGEST_WINDOW,
            "presence_penalty": -100 <= self.presence_penalty <= 100,
            "frequency_penalty": -100 <= self.frequency_penalty <= 100,
            "dry_multiplier": 0 <= self.dry_multiplier <= 100,
            "dry_base": 1 <= self.dry_base <= 100,
            "dry_allowed_length": 0 <= self.dry_allowed_length <= LARGEST_WINDOW,
            "dry_last": 0 <= self.dry_last <= LARGEST_WINDOW,
            "logprobs": self.logprobs is None or 0 <= self.logprobs <= MOST_LOGPROBS,
            "deadline_s": self.deadline_s is None or 0 < self.deadline_s < math.inf,
            "overflow": self.overflow in OVERFLOWS,
            "keep": self.keep >= -1,
        }

    def _lists(self) -> dict[str, bool]:
        return {
            "logit_bias": len(self.logit_bias) <= MOST_BIASES
            and all(token >= 0 and -math.inf <= bias <= LARGEST_BIAS for token, bias in self.logit_bias),
            "stop": len(self.stop) <= MOST_STOPS and all(0 < len(stop) <= LONGEST_STOP for stop in self.stop),
            "dry_breakers": len(self.dry_breakers) <= MOST_BREAKERS
            and all(0 < len(_raw(text)) <= LONGEST_BREAKER and "\0" not in text for text in self.dry_breakers),
        }

    @property
    def penalizes(self) -> bool:
        wanted = (self.repeat_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)
        return wanted and self.repeat_last > 0

    @property
    def dries(self) -> bool:
        return self.dry_multiplier > 0 and self.dry_last > 0


class Sampler:
    """A chain in libllama, its links in llama.cpp's order; temperature 0 is greedy."""

    def __init__(self, config: SamplingConfig, vocabulary: Vocabulary, prompt: Sequence[int] = ()) -> None:
        """Penalties see the end of the prompt as if it had been sampled."""
        library = self._library = native.library()
        self.seed = secrets.randbelow(RANDOM_SEED) if config.seed is None else config.seed
        shifts = _shifts(config, vocabulary)
        links = [*shifts, *_choice(config, self.seed)]
        self._size = vocabulary.size
        narrow = not shifts and vocabulary.size >= GROUPS * LEAST_GROUP  # libllama is as quick with fewer
        self._greedy = not shifts and config.temperature < COLDEST
        self._top_k = config.top_k if narrow and not self._greedy and config.top_k <= MOST_NARROWED else 0
        self._chain: Any = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
        for link in links:
            library.llama_sampler_chain_add(self._chain, link)
        window = max(config.repeat_last * config.penalizes, config.dry_last * config.dries)
        for token in prompt[-window:] if window else ():
            library.llama_sampler_accept(self._chain, token)

    def sample(self, context: Outputs, row: int) -> int:
        """Pick the token after output row `row` of the last batch (−1: the last one)."""
        if self._greedy:
            return int(context.row(row, self._size).argmax())
        if self._top_k:
            logits = context.row(row, self._size)
            likely = likeliest(logits, self._top_k)
            if len(likely):
                return self._pick(likely, logits[likely])
        return int(self._library.llama_sampler_sample(self._chain, context.pointer, row))

    def _pick(self, ids: NDArray[np.intp], logits: NDArray[np.float32]) -> int:
        """Let the chain pick among a few candidates, as it would among all."""
        library, candidates = self._library, np.zeros(len(ids), CANDIDATE)
        candidates["id"], candidates["logit"] = ids, logits
        first = ctypes.cast(candidates.ctypes.data, self._library.llama_token_data_p)
        array = library.llama_token_data_array(first, len(ids), -1, False)
        library.llama_sampler_apply(self._chain, ctypes.byref(array))
        token = int(candidates["id"][array.selected])
        library.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        chain, self._chain = self._chain, None
        if chain:
            self._library.llama_sampler_free(chain)


def likeliest(logits: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Give the tokens among which the `count` likeliest are, and not many more; none where a logit is no number.

    The logits are looked at in groups: as many as `count` groups have a largest logit no smaller than the count-th
    largest of those, so what is smaller than that one is not among the likeliest.
    """
    width = len(logits) // GROUPS
    tops = logits[: GROUPS * width].reshape(GROUPS, width).max(axis=0)
    least = np.partition(tops, -count)[-count]
    return np.flatnonzero(logits >= least)


def _shifts(config: SamplingConfig, vocabulary: Vocabulary) -> list[Any]:
    """Make the links that move logits: biases, penalties, DRY."""
    library, links = native.library(), []
    beyond = [token for token, _ in config.logit_bias if token >= vocabulary.size]
    if beyond:
        raise UsageError("logit_bias", f"token {beyond[0]} of {vocabulary.size}", "give an id of this model")
    biases = [*config.logit_bias, *((token, -math.inf) for token in vocabulary.suppressed)]
    if biases:
        array = (library.llama_logit_bias * len(biases))(*biases)
        links.append(library.llama_sampler_init_logit_bias(vocabulary.size, len(biases), array))
    if config.penalizes:
        penalties = config.repeat_penalty, config.frequency_penalty, config.presence_penalty
        links.append(library.llama_sampler_init_penalties(vocabulary.size, config.repeat_last, *penalties))
    if config.dries:
        breakers = [_raw(text) for text in config.dry_breakers]
        array = (ctypes.c_char_p * len(breakers))(*breakers)
        strength = config.dry_multiplier, config.dry_base, config.dry_allowed_length, config.dry_last
        links.append(library.llama_sampler_init_dry(vocabulary.pointer, *strength, array, len(breakers)))
    return links


def _choice(config: SamplingConfig, seed: int) -> list[Any]:
    """Make the links that choose: the narrowing ones, the temperature, the draw."""
    library = native.library()
    if config.temperature < COLDEST:
        return [library.llama_sampler_init_greedy()]
    links = [library.llama_sampler_init_top_k(config.top_k)] if config.top_k else []
    if config.top_p < 1:
        links.append(library.llama_sampler_init_top_p(config.top_p, 1))
    if config.min_p > 0:
        links.append(library.llama_sampler_init_min_p(config.min_p, 1))
    return [*links, library.llama_sampler_init_temp(config.temperature), library.llama_sampler_init_dist(seed)]


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def logprobs(row: NDArray[np.float32], token: int, count: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Give a token's log-probability, and the `count` likeliest tokens with theirs, from raw logits (vocabulary,)."""
    peak = row.max()
    total = float(peak) + math.log(np.exp(row - peak).sum(dtype=np.float64))
    likeliest: tuple[tuple[int, float], ...] = ()
    if count:
        count = min(count, len(row))
        least = np.partition(row, -count)[-count]
        ids = np.flatnonzero(row >= least)  # more than `count` where logits are equal
        ids = ids[np.argsort(-row[ids], kind="stable")][:count]
        likeliest = tuple(zip(ids.tolist(), (row[ids].astype(np.float64) - total).tolist(), strict=True))
    return float(row[token]) - total, likeliest
