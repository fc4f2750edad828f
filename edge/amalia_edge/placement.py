"""Which layers lie on which device, and whether what each one needs is there."""

import bisect
import dataclasses
import itertools
from dataclasses import dataclass

from amalia_edge.host import Host
from amalia_edge.load_config import EVERY_LAYER, LoadConfig
from amalia_edge.memory import CPU, Model, Needs, adapters_size

PROCESS = 96 << 20  # bytes of Python, the libraries and a vocabulary of 128,000; measured
DRIVER = 256 << 20  # bytes a GPU's driver takes of its memory for a process
SHARED_DRIVER = 512 << 20  # and where it has no memory of its own, the kernels' code and its host side too


@dataclass(frozen=True)
class Placement:
    """What each device needs for one configuration, the CPU first."""

    needs: tuple[Needs, ...]
    host: Host

    @property
    def pools(self) -> tuple[tuple[str, int, int], ...]:
        """Give (device, needed, budget) wherever memory must suffice: what is shared is counted together too."""
        cpu, gpus = self.needs[0], list(zip(self.needs[1:], self.host.gpus, strict=False))
        needed = sum(one.needed for one in self.needs) if self.host.shared else cpu.needed
        own = ((one.device, one.needed, self.host.gpu_budget(gpu)) for one, gpu in gpus)
        return (("memory", needed, self.host.budget), *own)

    @property
    def tightest(self) -> tuple[str, int, int]:
        """Give the pool that lacks most, or has least to spare."""
        return max(self.pools, key=lambda pool: pool[1] - pool[2])

    @property
    def lack(self) -> int:
        """Count the bytes that are not there, on all devices."""
        return sum(max(0, needed - budget) for _, needed, budget in self.pools)

    @property
    def fits(self) -> bool:
        return self.lack == 0

    @property
    def fits_from_disk(self) -> bool:
        """Say whether all fits but the file's own pages, which the system drops and reads again."""
        kept = sum(one.anonymous for one in (self.needs if self.host.shared else self.needs[:1]))
        return kept <= self.host.budget and all(needed <= budget for _, needed, budget in self.pools[1:])


@dataclass(frozen=True)
class Trial:
    """A model and a machine: configurations are tried on them."""

    model: Model
    host: Host

    def seat(self, config: LoadConfig) -> tuple[LoadConfig, Placement]:
        """Put on the GPUs as many layers as fit where their number is open; where nothing fits, what lacks least."""
        if config.gpu_layers != EVERY_LAYER:
            return config, place(self.model, config, self.host)
        everything = self.model.shape.layers + 1
        # In one pool a part on the GPU takes no less than all of it, and none hardly less, at a fraction of the speed.
        counts = (everything,) if self.host.one_pool else range(everything, -1, -1)
        best: tuple[LoadConfig, Placement] | None = None
        for layers in counts:
            tried = dataclasses.replace(config, gpu_layers=layers)
            placement = place(self.model, tried, self.host)
            if placement.fits:
                return tried, placement
            if best is None or placement.lack < best[1].lack:
                best = tried, placement
        assert best is not None
        return best

    def fits(self, config: LoadConfig) -> bool:
        return self.seat(config)[1].fits


def place(model: Model, config: LoadConfig, host: Host) -> Placement:
    """Lay a model out as libllama does: the last layers on the GPUs, the output after them, the embedding on the CPU.

    With no layer there, nothing is: the model is then opened without GPUs.
    """
    everything = model.shape.layers + 1
    offloaded = _offloaded(config, host, everything)
    first = everything - offloaded
    cpu = _on_cpu(model, config, host, list(range(first)))
    shares = _shares(host, range(first, everything))
    if not offloaded:
        return Placement((cpu,), host)
    partial = offloaded < everything
    gpus = [
        _on_gpu(model, config, host, (gpu.name, layers, partial)) for gpu, layers in zip(host.gpus, shares, strict=True)
    ]
    return Placement((cpu, *gpus), host)


def _offloaded(config: LoadConfig, host: Host, everything: int) -> int:
    if not host.gpus:
        return 0
    return everything if config.gpu_layers < 0 else min(config.gpu_layers, everything)


def _shares(host: Host, layers: range) -> list[list[int]]:
    """Split layers among GPUs by their free memory, where libllama draws the lines."""
    free = [max(1, gpu.memory_free or host.free) for gpu in host.gpus]
    lines = [part / sum(free) for part in itertools.accumulate(free)]
    shares: list[list[int]] = [[] for _ in host.gpus]
    for position, layer in enumerate(layers):
        shares[min(bisect.bisect_right(lines, position / len(layers)), len(free) - 1)].append(layer)
    return shares


def _on_cpu(model: Model, config: LoadConfig, host: Host, layers: list[int]) -> Needs:
    alone = len(layers) > model.shape.layers  # no GPU then stands in the way of copies
    copied, left = model.weights(layers, on_gpu=False, copies=(host.copies or alone) and not config.forced)
    embedding = model.embedding.nbytes if model.embedding else 0
    output = model.shape.layers in layers
    read_whole = model.tied and output and copied == 0  # then the embedding is a matrix like any other
    rows = model.per_layer_embedding  # wherever the layers are
    mapped = left + embedding + rows if config.mapped else 0
    return Needs(
        CPU,
        weights=copied + (0 if config.mapped else left + embedding + rows),
        mapped=mapped,
        looked_up=rows + (0 if read_whole else embedding) if mapped and not config.locked else 0,
        cache=model.cache(layers, config),
        compute=model.compute(config, output=output, layers=bool(layers)) + model.logits(config),
        overhead=PROCESS + adapters_size(config),
    )


def _on_gpu(model: Model, config: LoadConfig, host: Host, share: tuple[str, list[int], bool]) -> Needs:
    name, layers, partial = share
    mapped = config.mapped and host.maps_gpu
    weights, _ = model.weights(layers, on_gpu=True, copies=False)
    compute = model.compute(config, output=model.shape.layers in layers, layers=bool(layers))
    return Needs(
        name,
        weights=0 if mapped else weights,
        mapped=weights if mapped else 0,
        cache=model.cache(layers, config),
        compute=compute + (model.largest if partial else 0),  # it helps the CPU with large batches
        overhead=0 if host.maps_gpu else SHARED_DRIVER if host.shared else DRIVER,
    )
