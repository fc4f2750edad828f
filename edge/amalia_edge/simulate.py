"""What libllama itself says a model would take: its `no_alloc` simulation, in a child because it may abort.

The child opens the file without its weights, makes a context that allocates nothing, and reads the sizes from the log.
"""

import ctypes
import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amalia_edge.errors import ModelUnsupported
from amalia_edge.load_config import LoadConfig
from amalia_edge.memory import micro_batch, outputs, padded

_PATIENCE = 120  # seconds; a fifth of one is usual
_CHILD = "import sys; sys.path[:] = filter(None, sys.path); from amalia_edge.simulate import answer; answer()"
_SENT = ("context", "sequences", "gpu_layers", "batch", "micro_batch", "cache_keys", "cache_values", "flash_attention")
_SIZE = re.compile(r"(\S+)\s+(KV|RS|output|compute) buffer size =\s*([\d.]+) MiB")
_CACHE = re.compile(r": size =\s*([\d.]+) MiB \(\s*\d+ cells")


@dataclass(frozen=True)
class Simulation:
    """Bytes as libllama counts them; it prints hundredths of a MiB."""

    weights: int
    cache: int  # keys and values, and the states of recurrent layers
    output: int  # the logits' buffer
    compute: dict[str, int]  # by buffer type: CPU, CUDA0, CUDA_Host

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.output + sum(self.compute.values())


def simulate(path: Path, config: LoadConfig) -> Simulation:
    """Let libllama simulate loading a checked file with a config whose context and threads are settled."""
    asked = json.dumps({"path": str(path), "config": {name: getattr(config, name) for name in _SENT}})
    command = [sys.executable, "-c", _CHILD]
    try:
        done = subprocess.run(command, input=asked.encode(), capture_output=True, timeout=_PATIENCE)
        return Simulation(**json.loads(done.stdout))
    except (subprocess.TimeoutExpired, ValueError, TypeError):
        raise ModelUnsupported(path.name, "libllama cannot simulate it", "load it to see what it takes") from None


def answer() -> None:
    """Be the child: read what to simulate from standard input, print the sizes."""
    asked = json.load(sys.stdin)
    print(json.dumps(dataclasses.asdict(_simulate(Path(asked["path"]), LoadConfig(**asked["config"])))))


def _simulate(path: Path, config: LoadConfig) -> Simulation:
    from amalia_edge import native

    lines = _Lines()
    logging.getLogger("amalia.native").addHandler(lines)
    logging.getLogger("amalia.native").setLevel(logging.DEBUG)
    bindings = native.library()
    parameters = bindings.llama_model_default_params()
    parameters.n_gpu_layers, parameters.no_alloc = config.gpu_layers, True
    nothing = (ctypes.c_void_p * 1)()  # no GPU, as native.py opens it
    if config.gpu_layers == 0:
        parameters.devices = ctypes.cast(nothing, ctypes.c_void_p)
    parameters.load_mode = bindings.LLAMA_LOAD_MODE_NONE  # with any other it aborts
    model = bindings.llama_model_load_from_file(os.fsencode(path), parameters)
    context = bindings.llama_init_from_model(model, _context_parameters(native, config)) if model else None
    if not context:
        raise ModelUnsupported(path.name, "; ".join(native.complaints) or "no reason given", "")
    return _read(int(bindings.llama_model_size(model)), lines.lines)


def _context_parameters(native: Any, config: LoadConfig) -> Any:
    """Ask for the same context as context.py does."""
    parameters = native.library().llama_context_default_params()
    parameters.n_ctx, parameters.n_seq_max = padded(config.context or 0) * config.sequences, config.sequences
    parameters.kv_unified = False
    parameters.n_batch = max(min(config.batch, config.context or 0), config.sequences)
    parameters.n_ubatch, parameters.n_outputs_max = micro_batch(config), outputs(config)
    keys, values = (native.CACHE_TYPES[kind] for kind in (config.cache_keys, config.cache_values))
    parameters.type_k, parameters.type_v = keys, values
    parameters.flash_attn_type = native.FLASH_ATTENTION[config.flash_attention]
    return parameters


def _read(weights: int, lines: list[str]) -> Simulation:
    compute: dict[str, int] = {}
    cache = output = 0
    for line in lines:
        if found := _CACHE.search(line):
            cache += _bytes(found[1])
        elif found := _SIZE.search(line):
            name, kind, size = found[1], found[2], _bytes(found[3])
            if kind == "compute":
                compute[name] = size
            elif kind == "output":
                output = size
    return Simulation(weights, cache, output, compute)


def _bytes(mebibytes: str) -> int:
    return round(float(mebibytes) * (1 << 20))


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
