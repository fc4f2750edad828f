"""What would fit instead: the nearest smaller things, each tried before it is named."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from amalia_edge.console import megabytes
from amalia_edge.errors import Option, Shortage
from amalia_edge.load_config import EVERY_LAYER, LoadConfig
from amalia_edge.memory import CACHE_BITS, PAD, Model
from amalia_edge.placement import Placement, Trial
from amalia_edge.requantized import smaller_levels

USEFUL_CONTEXT = 2048  # tokens below which a coarser cache is the lesser evil
LITTLE_BATCH = 128  # tokens computed at once where memory is short: a prompt is read a little slower
COARSER = ("q8_0", "q4_0")


def best_smaller(trial: Trial, config: LoadConfig) -> tuple[LoadConfig, Placement] | None:
    """Give the best smaller configuration that fits: what costs speed before context, and context before precision."""
    for candidate, least in _steps(trial, _open(config)):
        fitting = largest_context(trial, candidate, least)
        if fitting is not None:
            return trial.seat(dataclasses.replace(candidate, context=fitting))
    return None


def _steps(trial: Trial, config: LoadConfig) -> Iterator[tuple[LoadConfig, int]]:
    """Give configurations and the least context each is worth having with."""
    whole, useful = config.context or PAD, min(config.context or PAD, USEFUL_CONTEXT)
    little = dataclasses.replace(config, micro_batch=min(config.micro_batch, LITTLE_BATCH))
    coarse = [config, *_coarser(trial, config)][:2][-1]
    coarse_little = dataclasses.replace(coarse, micro_batch=little.micro_batch)
    coarsest = [little, *_coarser(trial, little)][-1]
    yield config, whole  # with as many layers on the GPU as fit
    yield little, whole
    yield coarse, whole
    yield coarse_little, useful
    yield coarsest, min(PAD, whole)
    for sequences in range(config.sequences - 1, 0, -1):
        yield dataclasses.replace(coarsest, sequences=sequences), min(PAD, whole)


def _coarser(trial: Trial, config: LoadConfig) -> Iterator[LoadConfig]:
    """Give the same with a coarser cache, where libllama has one: with flash attention, and heads of whole blocks."""
    if config.flash_attention in ("off", "0") or not trial.model.shape.blocks:
        return
    for kind in COARSER:
        if CACHE_BITS[kind] < max(CACHE_BITS[config.cache_keys], CACHE_BITS[config.cache_values]):
            yield dataclasses.replace(config, cache_keys=kind, cache_values=kind)


def largest_context(trial: Trial, config: LoadConfig, least: int = PAD) -> int | None:
    """Give the most tokens that fit, at most the wished, a whole number of libllama's pads; None below `least`."""
    wished = config.context or PAD
    if trial.fits(config):
        return wished
    low, high = (least + PAD - 1) // PAD, (wished - 1) // PAD  # in pads; `high` is below the wished
    if high < low or not trial.fits(dataclasses.replace(config, context=low * PAD)):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if trial.fits(dataclasses.replace(config, context=middle * PAD)):
            low = middle
        else:
            high = middle - 1
    return low * PAD


def options(trial: Trial, config: LoadConfig, placement: Placement) -> Shortage:
    """List the nearest things that would fit: each alone, else together, and the file at a smaller level."""
    found = [_option(config, *trial.seat(change)) for change in _alone(trial, config) if trial.fits(change)]
    if not found:
        together = best_smaller(trial, config)
        found = [_option(config, *together)] if together else []
    device, needed, budget = placement.tightest
    return Shortage(device, needed, budget, (*found, *_level(trial, config)))


def _alone(trial: Trial, config: LoadConfig) -> Iterator[LoadConfig]:
    """Give changes of one thing each, to be tried."""
    if _open(config) != config:
        yield _open(config)
    context = largest_context(trial, config)
    if context is not None:
        yield dataclasses.replace(config, context=context)
    if config.micro_batch > LITTLE_BATCH:
        yield dataclasses.replace(config, micro_batch=LITTLE_BATCH)
    for coarser in list(_coarser(trial, config))[:1]:
        fitting = largest_context(trial, coarser)
        if fitting is not None and fitting > (context or 0):
            yield dataclasses.replace(coarser, context=fitting)
    fewer = (dataclasses.replace(config, sequences=count) for count in range(config.sequences - 1, 0, -1))
    yield from [one for one in fewer if trial.fits(one)][:1]


def _open(config: LoadConfig) -> LoadConfig:
    """Let as many layers go to the GPU as fit, instead of as many as were asked for."""
    return dataclasses.replace(config, gpu_layers=EVERY_LAYER) if config.gpu_layers > 0 else config


def _option(wished: LoadConfig, taken: LoadConfig, placement: Placement) -> Option:
    """Say a change as it is typed, and as settings of a LoadConfig."""
    flags = {
        "context": "-c",
        "cache_keys": "-ctk",
        "cache_values": "-ctv",
        "micro_batch": "-ub",
        "sequences": "-np",
        "gpu_layers": "-ngl",
    }
    changed: dict[str, Any] = {
        name: getattr(taken, name)
        for name in flags
        if getattr(taken, name) != getattr(wished, name) and getattr(wished, name) != EVERY_LAYER
    }
    words = " ".join(f"{flags[name]} {value}" for name, value in changed.items())
    return Option(words, changed, sum(one.needed for one in placement.needs))


def _level(trial: Trial, config: LoadConfig) -> list[Option]:
    """Name the largest level that fits as wished; else the largest that fits with something else made smaller."""
    others = [
        (level, Trial(Model(header, trial.host.features), trial.host))
        for level, header in smaller_levels(trial.model.header)
    ]
    for smaller in (lambda other: other.seat(config), lambda other: best_smaller(other, config)):
        for level, other in others:
            found = smaller(other)
            if found is not None and found[1].fits:
                option = _option(config, *found)
                words = f"the level {level} (about {megabytes(other.model.header.weight_bytes)})"
                words += f" with {option.advice}" if option.advice else ""
                return [Option(words, {"level": level, **option.settings}, option.needed)]
    return []
