"""The sampling chain does what its settings say, and refuses what makes no sense."""

import ctypes
import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from amalia_edge import native
from amalia_edge.errors import UsageError
from amalia_edge.model import Model
from amalia_edge.sampler import Sampler, SamplingConfig, logprobs

CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])  # llama_token_data
OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
A, B, C, X, Y = range(280, 285)  # plain tokens


def row(size: int, seed: int = 0) -> NDArray[np.float32]:
    """Give logits (vocabulary,) as a trained model's: few high ones."""
    return (np.random.default_rng(seed).standard_normal(size) * 3).astype(np.float32)


def left(sampler: Sampler, logits: NDArray[np.float32]) -> tuple[dict[int, tuple[float, float]], int]:
    """Run a chain over built logits; give the logit and probability of each token left, and the one picked."""
    bindings = native.library()
    candidates = np.zeros(len(logits), CANDIDATE)
    candidates["id"], candidates["logit"] = np.arange(len(logits)), logits
    data = ctypes.cast(candidates.ctypes.data, ctypes.POINTER(bindings.llama_token_data))
    array = bindings.llama_token_data_array(data, len(logits), -1, False)
    bindings.llama_sampler_apply(sampler._chain, ctypes.byref(array))
    picked = int(candidates["id"][array.selected])
    return {int(one): (float(logit), float(p)) for one, logit, p in candidates[: array.size].tolist()}, picked


def run(model: Model, logits: NDArray[np.float32], prompt: tuple[int, ...] = (), **settings: Any) -> Any:
    sampler = Sampler(SamplingConfig(**{"seed": 1, **settings}), model.vocabulary, prompt)
    try:
        return left(sampler, logits)
    finally:
        sampler.close()


def shifted(model: Model, prompt: tuple[int, ...], **settings: Any) -> dict[int, float]:
    """Give what the chain took from each token's logit, where that is anything."""
    logits = row(model.vocabulary.size)
    found, _ = run(model, logits, prompt, **{**OFF, "temperature": 1, **settings})
    return {token: float(logits[token] - logit) for token, (logit, _) in found.items() if logit != logits[token]}


def links(model: Model, **settings: Any) -> list[str]:
    bindings, sampler = native.library(), Sampler(SamplingConfig(**settings), model.vocabulary)
    count = bindings.llama_sampler_chain_n(sampler._chain)
    names = [bindings.llama_sampler_name(bindings.llama_sampler_chain_get(sampler._chain, one)) for one in range(count)]
    sampler.close()
    return [name.decode() for name in names]


def reference(logits: NDArray[np.float32], config: SamplingConfig) -> dict[int, float]:
    """Give the probabilities left by top-k, top-p, min-p and temperature, in this order."""
    order = np.argsort(-logits, kind="stable")[: config.top_k or None]
    kept = logits[order].astype(np.float64)
    share = np.exp(kept - kept[0]) / np.exp(kept - kept[0]).sum()
    if config.top_p < 1:
        kept = kept[: np.searchsorted(np.cumsum(share), config.top_p) + 1]
    if config.min_p > 0:
        kept = kept[kept >= kept[0] + math.log(config.min_p)]
    heat = np.exp((kept - kept[0]) / config.temperature)
    return dict(zip(order[: len(kept)].tolist(), (heat / heat.sum()).tolist(), strict=True))


def answer(model: Model, sampling: SamplingConfig) -> str:
    return "".join(piece.text for piece in model.complete(model.prompt("era uma vez"), sampling))


@pytest.mark.parametrize(("name", "value"), [
    ("temperature", -1), ("temperature", 99), ("temperature", math.nan), ("top_k", -1), ("top_k", 2**31), ("top_p", 0),
    ("top_p", 1.5), ("min_p", 1), ("seed", -1), ("seed", 2**32 - 1), ("limit", -2), ("repeat_penalty", 0),
    ("repeat_penalty", math.inf), ("repeat_last", -1), ("repeat_last", 2**20), ("presence_penalty", math.nan),
    ("frequency_penalty", -math.inf), ("dry_multiplier", -1), ("dry_base", 0.5), ("dry_base", math.nan),
    ("dry_allowed_length", -1), ("dry_last", -1), ("logprobs", -1), ("logprobs", 5000), ("deadline_s", 0),
    ("deadline_s", math.inf), ("overflow", "grow"), ("keep", -2), ("logit_bias", ((1, math.nan),)),
    ("logit_bias", ((1, math.inf),)), ("logit_bias", ((1, 1e39),)), ("logit_bias", ((-1, 1.0),)), ("logit_bias", ((1, 1.0),) * 70_000),
    ("stop", ("",)), ("stop", ("x" * 1001,)), ("stop", ("x",) * 65), ("dry_breakers", ("",)),
    ("dry_breakers", ("é" * 21,)), ("dry_breakers", ("\0",)),
])  # fmt: skip
def test_a_setting_out_of_range_is_named(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        SamplingConfig(**{name: value})


@pytest.mark.parametrize("settings", [
    {"top_k": 5}, {"top_p": 0.7}, {"top_p": 0.999}, {"min_p": 0.2}, {"temperature": 0.3}, {"temperature": 3},
    {"top_k": 1}, {"top_k": 40, "top_p": 0.95, "min_p": 0.05, "temperature": 0.8}, {"top_k": 30, "top_p": 0.5},
    {"top_k": 10_000, "top_p": 0.9, "min_p": 0.01},
])  # fmt: skip
@pytest.mark.parametrize("seed", [0, 1])
def test_what_is_left_and_how_likely_is_as_numpy_reckons(model: Model, settings: dict[str, Any], seed: int) -> None:
    config = SamplingConfig(**{**OFF, "temperature": 1, **settings})
    logits = row(model.vocabulary.size, seed)
    found, picked = run(model, logits, **{**OFF, "temperature": 1, **settings})
    wanted = reference(logits, config)
    assert found.keys() == wanted.keys()
    assert np.allclose([found[token][1] for token in wanted], list(wanted.values()), atol=1e-6)
    assert picked in wanted


def test_links_come_in_llama_cpps_order(model: Model) -> None:
    every = {"logit_bias": ((5, 1.0),), "repeat_penalty": 1.1, "dry_multiplier": 0.8}
    shifts = ["logit-bias", "penalties", "dry"]
    assert links(model, **every) == [*shifts, "top-k", "top-p", "min-p", "temp", "dist"]
    assert links(model, temperature=0, **every) == [*shifts, "greedy"]


def test_plain_greedy_is_one_link(model: Model) -> None:
    assert links(model, temperature=0) == ["greedy"]


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-6, 1e-3])
def test_the_coldest_temperatures_pick_the_likeliest(model: Model, temperature: float) -> None:
    logits = row(model.vocabulary.size)
    assert run(model, logits, temperature=temperature)[1] == logits.argmax()


def test_what_is_switched_off_is_no_link(model: Model) -> None:
    windows = {"repeat_penalty": 1.1, "repeat_last": 0, "dry_multiplier": 1, "dry_last": 0}
    assert links(model, **OFF, **windows) == ["temp", "dist"]


def test_tokens_are_picked_as_often_as_they_are_likely(model: Model) -> None:
    logits = np.full(model.vocabulary.size, -math.inf, np.float32)
    logits[[A, B, C]] = np.log([0.6, 0.3, 0.1])
    sampler = Sampler(SamplingConfig(seed=5, temperature=1, **OFF), model.vocabulary)  # type: ignore[arg-type]
    counts = Counter(left(sampler, logits)[1] for _ in range(2000))
    sampler.close()
    assert [round(counts[token] / 2000, 1) for token in (A, B, C)] == [0.6, 0.3, 0.1]


def test_penalties_divide_or_multiply_then_take_away(model: Model) -> None:
    logits = row(model.vocabulary.size)
    logits[[A, B]] = 4, -4
    settings = {"repeat_penalty": 1.5, "presence_penalty": 0.25, "frequency_penalty": 0.5}
    found, _ = run(model, logits, (A, B, B), **{**OFF, "temperature": 1, **settings})
    assert found[A][0] == pytest.approx(4 / 1.5 - 0.25 - 1 * 0.5)
    assert found[B][0] == pytest.approx(-4 * 1.5 - 0.25 - 2 * 0.5)
    assert found[C][0] == logits[C]


def test_penalties_look_back_on_the_last_tokens_of_the_prompt_only(model: Model) -> None:
    assert shifted(model, (A, B, C), presence_penalty=1, repeat_last=2) == {B: pytest.approx(1), C: pytest.approx(1)}


def test_penalties_look_back_on_the_last_tokens_sampled(model: Model) -> None:
    config = SamplingConfig(temperature=0, presence_penalty=1, repeat_last=2)
    sampler, logits = Sampler(config, model.vocabulary, (A, B)), row(model.vocabulary.size)
    native.library().llama_sampler_accept(sampler._chain, C)
    found, _ = left(sampler, logits)
    sampler.close()
    assert {token for token in (A, B, C) if found[token][0] != logits[token]} == {B, C}


def test_a_penalty_moves_the_greedy_choice(model: Model) -> None:
    logits = row(model.vocabulary.size)
    logits[[A, B]] = 20, 19
    assert run(model, logits, temperature=0)[1] == A
    assert run(model, logits, (A,), temperature=0, presence_penalty=2)[1] == B


@pytest.mark.parametrize(("prompt", "taken"), [
    ((A, B, C, X, A, B), {C: 0.5}),  # what followed the same two tokens
    ((A, B, C, X, A, B, C), {X: 0.5 * 2}),  # one token longer: times the base
    ((A, B, C, Y, A, B, X, A, B), {C: 0.5, X: 0.5}),
    ((A, C, X, A), {}),  # one token may come again
])  # fmt: skip
def test_dry_takes_from_what_goes_on_with_a_repetition(
    model: Model, prompt: tuple[int, ...], taken: dict[int, float]
) -> None:
    found = shifted(model, prompt, dry_multiplier=0.5, dry_base=2, dry_allowed_length=2, dry_breakers=())
    assert found == {token: pytest.approx(amount, rel=1e-4) for token, amount in taken.items()}


def test_a_breaker_ends_what_dry_calls_a_repetition(model: Model) -> None:
    a, b, stop = model.vocabulary.encode("ab,")
    settings = {"dry_multiplier": 0.5, "dry_breakers": (",",)}
    assert shifted(model, (a, b, X, a, b), **settings).keys() == {X}
    assert shifted(model, (a, stop, b, X, a, stop, b), **settings) == {}


def test_dry_looks_back_only_so_far(model: Model) -> None:
    assert shifted(model, (A, B, C, X, A, B), dry_multiplier=0.5, dry_last=4, dry_breakers=()) == {}


def test_a_bias_is_added_and_minus_infinity_forbids(model: Model) -> None:
    logits = row(model.vocabulary.size)
    best = int(logits.argmax())
    assert run(model, logits, temperature=0, logit_bias=((A, 100.0),))[1] == A
    assert run(model, logits, temperature=0, logit_bias=((best, -math.inf),))[1] == int(np.argsort(-logits)[1])


def test_two_biases_of_one_token_add_up(model: Model) -> None:
    assert shifted(model, (), logit_bias=((A, -1.0), (A, -2.0))) == {A: pytest.approx(3)}


def test_a_bias_for_a_token_the_model_has_not_is_refused(model: Model) -> None:
    size = model.vocabulary.size
    with pytest.raises(UsageError, match=f"token {size} of {size}"):
        Sampler(SamplingConfig(logit_bias=((size, 1.0),)), model.vocabulary)


def test_a_token_the_model_must_never_write_is_never_picked(model: Model) -> None:
    size, pointer = model.vocabulary.size, model.vocabulary.pointer
    sampler = Sampler(SamplingConfig(temperature=0), SimpleNamespace(size=size, pointer=pointer, suppressed=(A,)))  # type: ignore[arg-type]
    logits = row(size)
    logits[[A, B]] = 50, 40
    assert left(sampler, logits)[1] == B
    sampler.close()


def test_temperature_zero_is_the_same_answer_whatever_the_seed(model: Model) -> None:
    first, second = (answer(model, SamplingConfig(temperature=0, seed=seed, limit=12)) for seed in (1, 2))
    assert first == second


def test_one_seed_gives_one_answer_and_another_seed_another(model: Model) -> None:
    once, again, other = (answer(model, SamplingConfig(temperature=2, seed=seed, limit=24)) for seed in (7, 7, 8))
    assert once == again != other


def test_top_k_one_is_greedy(model: Model) -> None:
    narrow = SamplingConfig(temperature=2, top_k=1, seed=3, limit=12)
    assert answer(model, narrow) == answer(model, SamplingConfig(temperature=0, limit=12))


@pytest.mark.parametrize("offset", [0, 1e4, -1e4])
def test_log_probabilities_sum_to_one(offset: float) -> None:
    logits = row(1000) + np.float32(offset)
    likelihood, every = logprobs(logits, 17, 1000)
    assert sum(math.exp(one) for _, one in every) == pytest.approx(1, abs=1e-6)
    assert dict(every)[17] == likelihood


def test_log_probabilities_are_those_of_the_logits() -> None:
    logits = np.log(np.array([0.5, 0.125, 0.25, 0.125], np.float32))
    likelihood, likeliest = logprobs(logits, 3, 2)
    assert math.exp(likelihood) == pytest.approx(0.125)
    assert [(token, round(math.exp(one), 6)) for token, one in likeliest] == [(0, 0.5), (2, 0.25)]


def test_equally_likely_tokens_are_told_in_the_order_of_their_ids() -> None:
    assert [token for token, _ in logprobs(np.array([1, 2, 1, 2, 1], np.float32), 0, 3)[1]] == [1, 3, 0]


def test_a_forbidden_token_has_a_log_probability_of_minus_infinity() -> None:
    logits = np.array([0, -math.inf, 0], np.float32)
    assert logprobs(logits, 1, 0) == (-math.inf, ())
    assert logprobs(logits, 0, 2)[0] == pytest.approx(math.log(0.5))


def test_no_more_likeliest_tokens_are_told_than_there_are() -> None:
    assert len(logprobs(row(5), 0, 20)[1]) == 5
