"""Options that several commands share, and the configs made of them."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import click

from amalia_edge import __version__
from amalia_edge.console import progress
from amalia_edge.load_config import LoadConfig
from amalia_edge.model import Model
from amalia_edge.sampler import SamplingConfig
from amalia_edge.store import find


def with_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Stack click options that several commands share."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


LOADING = (
    click.option("-c", "--ctx-size", "context", type=int, envvar="LLAMA_ARG_CTX_SIZE", show_envvar=True, help="Context, tokens. [default: the model's, at most 8192]"),
    click.option("-ngl", "--gpu-layers", "--n-gpu-layers", "gpu_layers", default=LoadConfig.gpu_layers, envvar="LLAMA_ARG_N_GPU_LAYERS", show_envvar=True, help="Layers on the GPU; -1: all."),
    click.option("-t", "--threads", type=int, envvar="LLAMA_ARG_THREADS", show_envvar=True, help="Threads. [default: physical cores]"),
    click.option("-b", "--batch-size", "batch", default=LoadConfig.batch, envvar="LLAMA_ARG_BATCH", show_default=True, show_envvar=True, help="Tokens in a batch."),
    click.option("-ub", "--ubatch-size", "micro_batch", default=LoadConfig.micro_batch, envvar="LLAMA_ARG_UBATCH", show_default=True, show_envvar=True, help="Tokens computed at once."),
    click.option("-ctk", "--cache-type-k", "cache_keys", default=LoadConfig.cache_keys, envvar="LLAMA_ARG_CACHE_TYPE_K", show_default=True, show_envvar=True, help="Type of the keys' cache."),
    click.option("-ctv", "--cache-type-v", "cache_values", default=LoadConfig.cache_values, envvar="LLAMA_ARG_CACHE_TYPE_V", show_default=True, show_envvar=True, help="Type of the values' cache."),
    click.option("-fa", "--flash-attn", "flash_attention", default=LoadConfig.flash_attention, envvar="LLAMA_ARG_FLASH_ATTN", show_default=True, show_envvar=True, help="Flash attention: on, off or auto."),
    click.option("--mmap/--no-mmap", "mapped", default=LoadConfig.mapped, help="Map the file instead of reading it."),
    click.option("--mlock", "locked", is_flag=True, help="Keep the weights out of swap."),
)  # fmt: skip
SAMPLING = (
    click.option("-n", "--predict", "--n-predict", "limit", type=int, envvar="LLAMA_ARG_N_PREDICT", show_envvar=True, help="Tokens to generate at most; -1: no limit."),
    click.option("--temp", "--temperature", "temperature", type=float, envvar="LLAMA_ARG_TEMPERATURE", show_envvar=True, help=f"Temperature; 0: always the likeliest token. [default: the model's, else {SamplingConfig.temperature}]"),
    click.option("--top-k", type=int, envvar="LLAMA_ARG_TOP_K", show_envvar=True, help=f"Keep the k likeliest; 0: all. [default: the model's, else {SamplingConfig.top_k}]"),
    click.option("--top-p", type=float, envvar="LLAMA_ARG_TOP_P", show_envvar=True, help=f"Keep the likeliest of this mass. [default: the model's, else {SamplingConfig.top_p}]"),
    click.option("--min-p", type=float, envvar="LLAMA_ARG_MIN_P", show_envvar=True, help=f"Drop what is below this share of the likeliest. [default: the model's, else {SamplingConfig.min_p}]"),
    click.option("-s", "--seed", type=int, help="Seed. [default: another one each time]"),
)  # fmt: skip
MODEL = click.option(
    "-m",
    "--model",
    "model_option",
    envvar="LLAMA_ARG_MODEL",
    show_envvar=True,
    help="The model, if not given as MODEL.",
)
SYSTEM = click.option("-sys", "--system-prompt", "system", help="System prompt; '' for none at all. [default: ours for AMÁLIA and fadinho, none for others]")  # fmt: skip
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
VERSION = click.version_option(__version__, prog_name="amalia")


@contextlib.contextmanager
def opened(name: str, settings: dict[str, Any]) -> Iterator[Model]:
    """Find and open a model with the command line's settings, under a progress bar."""
    names = LoadConfig.__dataclass_fields__
    told = {name: value for name, value in settings.items() if name in names}
    config = LoadConfig(**{**told, "context": told.get("context") or None})  # llama.cpp's -c 0: the model's own
    path = find(name)
    size = path.stat().st_size if path.is_file() else 0
    shown = 0.0
    with progress("loading", size) as bar:

        def advance(share: float) -> None:
            nonlocal shown
            bar.advance((share - shown) * size)
            shown = share

        model = Model.open(path, config, advance)
    with model:
        yield model


def sampling_for(model: Model, settings: dict[str, Any]) -> SamplingConfig:
    """Take each setting from the command line, else from the model's metadata, else from the defaults."""
    names = SamplingConfig.__dataclass_fields__
    told = {name: settings[name] for name in names if settings.get(name) is not None}
    for name in ("limit", "seed"):  # llama.cpp's −1: no limit, any seed
        if told.get(name, 0) < 0:
            del told[name]
    return SamplingConfig(**{**{name: getattr(model.sampling, name) for name in names}, **told})
