"""The sampling chain does what its settings say, and refuses what makes no sense."""

import pytest

from amalia_edge.errors import UsageError
from amalia_edge.model import Model
from amalia_edge.sampler import SamplingConfig


def answer(model: Model, sampling: SamplingConfig) -> str:
    return "".join(piece.text for piece in model.complete(model.prompt("era uma vez"), sampling))


@pytest.mark.parametrize(("name", "value"), [
    ("temperature", -1), ("temperature", 99), ("top_k", -1), ("top_p", 0), ("top_p", 1.5), ("min_p", 1), ("seed", -1),
    ("seed", 2**32 - 1), ("limit", -2),
])  # fmt: skip
def test_a_setting_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=name):
        SamplingConfig(**{name: value})  # type: ignore[arg-type]


def test_temperature_zero_is_the_same_answer_whatever_the_seed(model: Model) -> None:
    first, second = (answer(model, SamplingConfig(temperature=0, seed=seed, limit=12)) for seed in (1, 2))
    assert first == second


def test_one_seed_gives_one_answer_and_another_seed_another(model: Model) -> None:
    once, again, other = (answer(model, SamplingConfig(temperature=2, seed=seed, limit=24)) for seed in (7, 7, 8))
    assert once == again != other


def test_top_k_one_is_greedy(model: Model) -> None:
    narrow = SamplingConfig(temperature=2, top_k=1, seed=3, limit=12)
    assert answer(model, narrow) == answer(model, SamplingConfig(temperature=0, limit=12))
