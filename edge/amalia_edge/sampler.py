"""The sampling chain: what picks the next token from the logits."""

import secrets
from dataclasses import dataclass
from typing import Any

from amalia_edge import native
from amalia_edge.errors import UsageError

RANDOM_SEED = 2**32 - 1  # LLAMA_DEFAULT_SEED: libllama takes it for "any", so it would not come again


@dataclass(frozen=True)
class SamplingConfig:
    """How to pick tokens; the defaults are llama.cpp's own."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    seed: int | None = None  # None: another one each time
    limit: int | None = None  # tokens to generate; None: until the model ends or the context is full
    ignore_end: bool = False  # go on past the end of the answer, as a measurement must

    def __post_init__(self) -> None:
        wrong = {
            "temperature": not 0 <= self.temperature <= 10,
            "top_k": self.top_k < 0,
            "top_p": not 0 < self.top_p <= 1,
            "min_p": not 0 <= self.min_p < 1,
            "seed": self.seed is not None and not 0 <= self.seed < RANDOM_SEED,
            "limit": self.limit is not None and self.limit < 0,
        }
        for name in (name for name, bad in wrong.items() if bad):
            raise UsageError(name, f"{getattr(self, name)} is out of range", "see amalia run --help")


class Sampler:
    """A chain in libllama; temperature 0 is greedy."""

    def __init__(self, config: SamplingConfig) -> None:
        library = self._library = native.library()
        self.seed = secrets.randbelow(RANDOM_SEED) if config.seed is None else config.seed
        self._chain: Any = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
        for link in self._links(config):
            library.llama_sampler_chain_add(self._chain, link)

    def _links(self, config: SamplingConfig) -> list[Any]:
        library = self._library
        if config.temperature == 0:
            return [library.llama_sampler_init_greedy()]
        links = [library.llama_sampler_init_top_k(config.top_k)] if config.top_k else []
        if config.top_p < 1:
            links.append(library.llama_sampler_init_top_p(config.top_p, 1))
        if config.min_p > 0:
            links.append(library.llama_sampler_init_min_p(config.min_p, 1))
        return [
            *links,
            library.llama_sampler_init_temp(config.temperature),
            library.llama_sampler_init_dist(self.seed),
        ]

    def sample(self, context: Any, row: int) -> int:
        """Pick the token after output row `row` of the last batch (−1: the last one)."""
        return int(self._library.llama_sampler_sample(self._chain, context, row))

    def close(self) -> None:
        if self._chain:
            self._library.llama_sampler_free(self._chain)
            self._chain = None
