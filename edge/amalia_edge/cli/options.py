"""Options that several commands share, and the configs made of them."""

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from amalia_edge import __version__
from amalia_edge.adapter import Adapter
from amalia_edge.console import err, progress
from amalia_edge.errors import ModelNotFound, UsageError
from amalia_edge.known_templates import TEMPLATES
from amalia_edge.load_config import EVERY_LAYER, LoadConfig
from amalia_edge.model import Model
from amalia_edge.profile import read_text
from amalia_edge.pull import find_or_pull
from amalia_edge.sampler import OVERFLOWS, Grammar, SamplingConfig

ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}  # llama.cpp reads them in stop strings too
LAYERS = {"auto": EVERY_LAYER, "all": 999}  # the second is more than any model has
LONGEST_SCHEMA = 1 << 20  # bytes of a schema's file


class Option(click.Option):
    """An option that is listed under a heading of its own."""

    def __init__(self, *names: Any, heading: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self.heading = heading


class Layers(click.types.IntParamType):
    """A number of layers, or one of llama.cpp's words for it."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        return super().convert(LAYERS.get(str(value).lower(), value), parameter, context)


class Command(click.Command):
    """A command that lists its options by their headings."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
            if record:
                groups.setdefault(getattr(parameter, "heading", "Options"), []).append(record)
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def with_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Stack click options that several commands share."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _adapters(_context: Any, _parameter: Any, words: tuple[str, ...]) -> tuple[Adapter, ...]:
    return tuple(map(Adapter.parse, words))


def _biases(_context: Any, _parameter: Any, words: tuple[str, ...]) -> tuple[tuple[int, float], ...]:
    return tuple(map(_bias, words))


def _bias(word: str) -> tuple[int, float]:
    found = re.fullmatch(r"(\d{1,10})([+-].+)", word)
    try:
        return int(found[1]), float(found[2])  # type: ignore[index]
    except (TypeError, ValueError):
        raise UsageError(
            "--logit-bias", repr(word), "give TOKEN_ID+BIAS or TOKEN_ID-BIAS: 15043+1, 15043-inf"
        ) from None


def _unescaped(_context: Any, _parameter: Any, words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(re.sub(r"\\([ntr\\\"'])", lambda found: ESCAPES[found[1]], word) for word in words)


_load, _pick, _end = (partial(click.option, cls=Option, heading=name) for name in ("Loading", "Sampling", "Limits"))
_constrain = partial(click.option, cls=Option, heading="Constraints")
LOADING = (
    _load("-c", "--ctx-size", "context", type=int, envvar="LLAMA_ARG_CTX_SIZE", show_envvar=True, help="Context, tokens. [default: the model's, at most 8192]"),
    _load("-ngl", "--gpu-layers", "--n-gpu-layers", "gpu_layers", type=Layers(), default=LoadConfig.gpu_layers, envvar="LLAMA_ARG_N_GPU_LAYERS", show_envvar=True, help="Layers on the GPU; all; auto or -1: as many as fit."),
    _load("-t", "--threads", type=int, envvar="LLAMA_ARG_THREADS", show_envvar=True, help="Threads. [default: physical cores]"),
    _load("-b", "--batch-size", "batch", default=LoadConfig.batch, envvar="LLAMA_ARG_BATCH", show_default=True, show_envvar=True, help="Tokens in a batch."),
    _load("-ub", "--ubatch-size", "micro_batch", default=LoadConfig.micro_batch, envvar="LLAMA_ARG_UBATCH", show_default=True, show_envvar=True, help="Tokens computed at once."),
    _load("-ctk", "--cache-type-k", "cache_keys", default=LoadConfig.cache_keys, envvar="LLAMA_ARG_CACHE_TYPE_K", show_default=True, show_envvar=True, help="Type of the keys' cache: f16, q8_0 or q4_0."),
    _load("-ctv", "--cache-type-v", "cache_values", default=LoadConfig.cache_values, envvar="LLAMA_ARG_CACHE_TYPE_V", show_default=True, show_envvar=True, help="Type of the values' cache: f16, q8_0 or q4_0."),
    _load("-fa", "--flash-attn", "flash_attention", default=LoadConfig.flash_attention, envvar="LLAMA_ARG_FLASH_ATTN", show_default=True, show_envvar=True, help="Flash attention: on, off or auto."),
    _load("--mmap/--no-mmap", "mapped", default=LoadConfig.mapped, help="Map the file instead of reading it."),
    _load("--mlock", "locked", is_flag=True, help="Keep the weights out of swap."),
    _load("--large-pages/--no-large-pages", "large_pages", default=LoadConfig.large_pages, help="Ask the system for large pages: faster."),
    _load("--lora", "--lora-scaled", "adapters", multiple=True, callback=_adapters, metavar="FILE[:SCALE]", help="Add a LoRA adapter; may be given again."),
    _load("--chat-template", metavar="NAME", envvar="LLAMA_ARG_CHAT_TEMPLATE", show_envvar=True, help=f"Use one of our templates instead of the file's own: {', '.join(TEMPLATES)}."),
    _load("--no-plan", "forced", is_flag=True, help="Load it even where it does not fit: slowly, or not at all."),
    _load("--fit", is_flag=True, envvar="LLAMA_ARG_FIT", show_envvar=True, help="Where it does not fit, take what does: less context, a smaller cache."),
)  # fmt: skip
PARALLEL = _load("-np", "--parallel", "sequences", default=LoadConfig.sequences, envvar="LLAMA_ARG_N_PARALLEL", show_default=True, show_envvar=True, help="Answers at once, each with a whole context.")  # fmt: skip
SAMPLING = (
    _pick("--temp", "--temperature", "temperature", type=float, envvar="LLAMA_ARG_TEMPERATURE", show_envvar=True, help=f"Temperature; 0: always the likeliest token. [default: the model's, else {SamplingConfig.temperature}]"),
    _pick("--top-k", type=int, envvar="LLAMA_ARG_TOP_K", show_envvar=True, help=f"Keep the k likeliest; 0: all. [default: the model's, else {SamplingConfig.top_k}]"),
    _pick("--top-p", type=float, envvar="LLAMA_ARG_TOP_P", show_envvar=True, help=f"Keep the likeliest of this mass. [default: the model's, else {SamplingConfig.top_p}]"),
    _pick("--min-p", type=float, envvar="LLAMA_ARG_MIN_P", show_envvar=True, help=f"Drop what is below this share of the likeliest. [default: the model's, else {SamplingConfig.min_p}]"),
    _pick("-s", "--seed", type=int, help="Seed. [default: another one each time]"),
    _pick("--repeat-penalty", type=float, envvar="LLAMA_ARG_REPEAT_PENALTY", show_envvar=True, help="Divide the logits of tokens that were there. [default: the model's, else 1, off]"),
    _pick("--repeat-last-n", "repeat_last", type=int, help=f"Tokens that the penalties look back on. [default: {SamplingConfig.repeat_last}]"),
    _pick("--presence-penalty", type=float, envvar="LLAMA_ARG_PRESENCE_PENALTY", show_envvar=True, help="Take this from the logits of tokens that were there."),
    _pick("--frequency-penalty", type=float, envvar="LLAMA_ARG_FREQUENCY_PENALTY", show_envvar=True, help="Take this from them for each time they were."),
    _pick("--dry-multiplier", type=float, help="Penalize what goes on with a repetition, by this and more the longer it is. [default: 0, off]"),
    _pick("--dry-base", type=float, help=f"How fast that grows with its length. [default: {SamplingConfig.dry_base}]"),
    _pick("--dry-allowed-length", type=int, help=f"Tokens that may come again at no cost. [default: {SamplingConfig.dry_allowed_length}]"),
    _pick("--dry-penalty-last-n", "dry_last", type=int, help=f"Tokens that DRY looks back on. [default: {SamplingConfig.dry_last}]"),
    _pick("--dry-sequence-breaker", "dry_breakers", multiple=True, callback=_unescaped, metavar="TEXT", help="What ends a repetition, instead of the line's end, a colon, a quote and a star; none: nothing does."),
    _pick("-l", "--logit-bias", multiple=True, callback=_biases, metavar="TOKEN_ID±BIAS", help="Add to a token's logit: 15043+1; 15043-inf forbids it. May be given again."),
    _constrain("-j", "--json-schema", metavar="SCHEMA", help='Answer in JSON of this schema: {} for any JSON.'),
    _constrain("-jf", "--json-schema-file", metavar="FILE", help="The schema, from a file."),
    _constrain("--regex", metavar="PATTERN", help="Answer what this regular expression matches."),
    _end("-n", "--predict", "--n-predict", "limit", type=int, envvar="LLAMA_ARG_N_PREDICT", show_envvar=True, help="Tokens to generate at most; -1: no limit."),
    _end("-r", "--reverse-prompt", "--stop", "stop", multiple=True, callback=_unescaped, metavar="TEXT", help=r"End the answer before this text (\n: a line's end). May be given again."),
    _end("--time-limit", "deadline_s", type=float, metavar="SECONDS", help="Fail when the answer takes longer."),
    _end("--overflow", type=click.Choice(OVERFLOWS), help=f"When the context is full: end, or forget the oldest of it. [default: {SamplingConfig.overflow}]"),
    _end("--keep", type=int, help="Tokens at the beginning that are never forgotten; -1: the whole prompt. [default: 0]"),
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


def model_name(word: str | None, option: str | None) -> str:
    """Give the model a command was asked for: its MODEL, else -m, else the variable."""
    source = click.get_current_context().get_parameter_source("model_option")
    if word is not None and option is not None and source is ParameterSource.COMMANDLINE:
        raise UsageError(word, "one word too many", "give one model")
    if not (name := word or option):
        raise ModelNotFound("MODEL", "none given", "give a GGUF file, a stored name, or fadinho")
    return name


def load_config(settings: dict[str, Any]) -> LoadConfig:
    told = {name: settings[name] for name in LoadConfig.__dataclass_fields__ if name in settings}
    return LoadConfig(**{**told, "context": told.get("context") or None})  # llama.cpp's -c 0: the model's own


@contextlib.contextmanager
def opened(name: str, settings: dict[str, Any]) -> Iterator[Model]:
    """Find and open a model with the command line's settings, under a progress bar."""
    config = load_config(settings)
    path = find_or_pull(name)
    size = path.stat().st_size if path.is_file() else 0
    shown = 0.0
    with progress("loading", size) as bar:

        def advance(share: float) -> None:
            nonlocal shown
            bar.advance((share - shown) * size)
            shown = share

        model = Model.open(path, config, advance)
    with model:
        for reduction in model.plan.reductions:
            err.print(f"amalia: to fit this machine, {reduction}", markup=False)
        if model.plan.shortage:
            err.print(f"amalia: {model.plan.shortage}", markup=False)
        yield model


def sampling_for(model: Model, settings: dict[str, Any]) -> SamplingConfig:
    """Take each setting from the command line, else from the model's metadata, else from the defaults."""
    names = SamplingConfig.__dataclass_fields__
    told = {name: settings[name] for name in names if settings.get(name) not in (None, ())}
    for name in ("limit", "seed"):  # llama.cpp's −1: no limit, any seed
        if told.get(name, 0) < 0:
            del told[name]
    if told.get("dry_breakers") == ("none",):
        told["dry_breakers"] = ()
    if grammar := _grammar(settings):
        told["grammar"] = grammar
    return SamplingConfig(**{**{name: getattr(model.sampling, name) for name in names}, **told})


def _grammar(settings: dict[str, Any]) -> Grammar | None:
    """Make the constraint that was asked for, of which there may be one."""
    given = {
        name: settings[name] for name in ("json_schema", "json_schema_file", "regex") if settings.get(name) is not None
    }
    if not given:
        return None
    if len(given) > 1:
        raise UsageError("--json-schema", "more than one constraint", "give one of --json-schema[-file] and --regex")
    from amalia_edge.schema import JsonSchema, Regex

    if "regex" in given:
        return Regex(given["regex"])
    if "json_schema_file" in given:
        return JsonSchema(read_text(Path(given["json_schema_file"]), LONGEST_SCHEMA))
    return JsonSchema(given["json_schema"])
