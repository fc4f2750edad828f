"""Header + machine + wish → a plan: what to load with, the bytes it takes, and why; or a refusal that says what would fit.

    plan = make_plan(read_header(path), LoadConfig(context=4096), this_host())

Nothing is loaded and nothing is run: it costs a few milliseconds, and every start can bear it.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from amalia_edge.console import megabytes
from amalia_edge.errors import DoesNotFit
from amalia_edge.gguf import Header
from amalia_edge.host import Host
from amalia_edge.load_config import EVERY_LAYER, LARGEST_DEFAULT_CONTEXT, LoadConfig
from amalia_edge.machine import HEADLESS
from amalia_edge.memory import Model, Needs, unpredicted
from amalia_edge.placement import Placement, Trial
from amalia_edge.smaller import best_smaller, options

MOST_THREADS = 512


@dataclass(frozen=True)
class Plan:
    """How a model will be loaded on a machine, and what it takes there."""

    model: str
    level: str
    config: LoadConfig  # nothing in it is left open
    needs: tuple[Needs, ...]  # of each device, the CPU first
    budget: int  # bytes of memory that may be taken
    reserve: int  # bytes left to the system beside them
    reasons: tuple[str, ...]
    reductions: tuple[str, ...] = ()  # where it is less than was wished
    shortage: str = ""  # where it does not fit, and is loaded all the same

    @property
    def needed(self) -> int:
        return sum(one.needed for one in self.needs)

    def as_dict(self) -> dict[str, Any]:
        config = dataclasses.asdict(self.config)
        config["adapters"] = [{"path": str(one.path), "scale": one.scale} for one in self.config.adapters]
        needs = [dataclasses.asdict(one) | {"needed": one.needed} for one in self.needs]
        return dataclasses.asdict(self) | {"config": config, "needs": needs, "needed": self.needed}

    def lines(self) -> dict[str, str]:
        """Lay it out for a person: a name and a line each."""
        config = self.config
        shown = {
            "model": f"{self.model} {self.level}",
            "context": f"{config.context} tokens" + (f" × {config.sequences}" if config.sequences > 1 else ""),
            "cache": config.cache_keys
            if config.cache_keys == config.cache_values
            else f"{config.cache_keys}, {config.cache_values}",
            "batch": f"{config.batch} tokens, {config.micro_batch} computed at once",
            "threads": str(config.threads),
        }
        for one in self.needs:
            shown |= _lines(one)
        shown["budget"] = f"{megabytes(self.budget)}, beside {megabytes(self.reserve)} left to the system"
        return shown


def _lines(needs: Needs) -> dict[str, str]:
    """Say what one device holds, a line for each thing it holds any of."""
    in_place = needs.mapped - needs.looked_up
    weights = [f"{megabytes(needs.weights)} copied"] * bool(needs.weights)
    weights += [f"{megabytes(in_place)} in the file's pages"] * bool(in_place)
    parts = {
        "weights": ", ".join(weights),
        "cache": megabytes(needs.cache) if needs.cache else "",
        "compute": megabytes(needs.compute),
        "overhead": megabytes(needs.overhead) if needs.overhead else "",
        "in all": megabytes(needs.needed),
        "embedding": f"{megabytes(needs.looked_up)} more in the file's pages, read by the row"
        if needs.looked_up
        else "",
    }
    return {f"{needs.device} {name}": said for name, said in parts.items() if said}


def make_plan(header: Header, wish: LoadConfig, host: Host) -> Plan:
    """Settle what the wish leaves open; where it does not fit, take less if the wish says `fit`, else refuse."""
    trial = Trial(Model(header, host.features), host)
    config = dataclasses.replace(settle(header, wish, host), forced=False)  # which it is only where nothing else does
    settled, seated = trial.seat(config)
    reductions: tuple[str, ...] = ()
    if not seated.fits:
        found = best_smaller(trial, config) if wish.fit else None
        if found is None and not wish.forced:
            raise _refusal(trial, config, seated)
        settled, seated = found or trial.seat(dataclasses.replace(config, forced=True))
        reductions = _reductions(config, settled) if found else ()
    shortage = _shortage(seated)
    return Plan(
        model=header.name,
        level=header.level,
        config=settled,
        needs=seated.needs,
        budget=host.budget,
        reserve=host.reserve,
        reasons=(*[shortage][: bool(shortage)], *_reasons(header, wish, settled, seated)),
        reductions=reductions,
        shortage=shortage,
    )


def settle(header: Header, wish: LoadConfig, host: Host) -> LoadConfig:
    """Fill in context and threads; layers on the GPU stay open until they are seated."""
    trained = max(0, header.trained_context) or LARGEST_DEFAULT_CONTEXT
    return dataclasses.replace(
        wish,
        context=wish.context or min(LARGEST_DEFAULT_CONTEXT, trained),
        threads=wish.threads or min(host.cores, MOST_THREADS),
        gpu_layers=wish.gpu_layers if host.gpus else 0,
    )


def _refusal(trial: Trial, config: LoadConfig, placement: Placement) -> DoesNotFit:
    device, needed, budget = placement.tightest
    header, host = trial.model.header, trial.host
    shortage = options(trial, config, placement)
    found = (
        f"{device} for {header.level} at {config.context} tokens"
        + (f" × {config.sequences}" if config.sequences > 1 else "")
        + f": {megabytes(needed)} needed, {megabytes(budget)} free"
        + (f" beside {megabytes(host.reserve)} left to the system" if device == "memory" else "")
    )
    ways = "; or ".join(option.advice for option in shortage.options)
    advice = f"would fit: {ways}" if ways else "nothing smaller of this model would fit; choose a smaller model"
    if any("level" not in option.settings for option in shortage.options):
        advice += "; or let --fit choose"
    if placement.fits_from_disk and not config.locked:
        advice += "; or it would run slowly from the disk with --no-plan"
    if host.jetson and not host.headless:
        advice += f"; or free about 1 GB by starting without the desktop: {HEADLESS}"
    return DoesNotFit(header.name, found, advice, shortage)


def _shortage(placement: Placement) -> str:
    """Say what is not there for a model that is loaded all the same."""
    if placement.fits:
        return ""
    device, needed, budget = placement.tightest
    found = f"{device}: {megabytes(needed)} needed, {megabytes(max(0, needed - budget))} of them not there"
    slow = (
        "weights are read from the disk again and again" if placement.fits_from_disk else "it may be ended at any time"
    )
    return f"{found}; {slow}"


def _reductions(wished: LoadConfig, taken: LoadConfig) -> tuple[str, ...]:
    names = {
        "context": "context",
        "sequences": "sequences",
        "cache_keys": "keys' cache",
        "cache_values": "values' cache",
        "micro_batch": "tokens computed at once",
        "gpu_layers": "layers on the GPU",
    }
    return tuple(
        f"{words}: {getattr(taken, name)} instead of {getattr(wished, name)}"
        for name, words in names.items()
        if getattr(wished, name) not in (getattr(taken, name), EVERY_LAYER)
    )


def _reasons(header: Header, wish: LoadConfig, config: LoadConfig, placement: Placement) -> list[str]:
    """Say why each thing is as it is, the surprising first."""
    host, cpu = placement.host, placement.needs[0]
    trained, context = header.trained_context, config.context or 0
    said = []
    if trained and context > trained:
        said.append(f"context: {context} is more than the {trained} it was trained for; expect worse answers beyond")
    elif wish.context is None and context == min(LARGEST_DEFAULT_CONTEXT, trained):
        said.append(f"context: the smaller of {LARGEST_DEFAULT_CONTEXT} and the {trained} it was trained for")
    if wish.threads is None:
        said.append(f"threads: {config.threads}, the physical cores that compute well and may be used here")
    said += _gpu_reasons(wish, config, placement)
    if cpu.weights and config.mapped:
        said.append(f"weights: {megabytes(cpu.weights)} are copied into the order this CPU's kernels read best")
    elif config.mapped and cpu.mapped:
        said.append("weights: read where the file is mapped, so that they are shared and can be dropped")
    if config.locked:
        said.append("lock: the weights are kept out of swap; the system's limit is shown by: ulimit -l")
    if config.flash_attention == "auto":
        said.append("flash attention: on wherever the devices can")
    if host.shared:
        said.append("memory: CPU and GPU share it, so there is one budget")
    if host.nodes > 1:
        said.append(f"memory: {host.nodes} NUMA nodes; a model on one of them is read faster: numactl -N 0 -m 0")
    if unknown := unpredicted(header):
        said.append(f"not predicted: {unknown}; amalia doctor FILE asks libllama")
    return said


def _gpu_reasons(wish: LoadConfig, config: LoadConfig, placement: Placement) -> list[str]:
    if not placement.host.gpus:
        return ["GPU: none that this build can use"] if wish.gpu_layers > 0 else []
    names = ", ".join(gpu.name for gpu in placement.host.gpus)
    if wish.gpu_layers == EVERY_LAYER:
        return [f"GPU: {config.gpu_layers} layers, the output counted, are as many as fit on {names}"]
    return [f"GPU: {config.gpu_layers} layers on {names}, as asked"]
