"""The command line of this room: build a config, call one function, print; and the door that finds all the others'."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from amalia_edge import __version__
from amalia_edge.chat import Message
from amalia_edge.console import as_text, emit, emit_failure, err, out, progress
from amalia_edge.engine import Piece, Sequence
from amalia_edge.errors import AmaliaError, ContextFull, LibraryMissing, ModelNotFound, UsageError
from amalia_edge.model import LoadConfig, Model
from amalia_edge.sampler import SamplingConfig
from amalia_edge.store import find

INTERRUPTED = 130
EXTRAS = {
    "gguf": "convert",
    "sentencepiece": "convert",
    "tokenizers": "convert",
}  # packages the base install leaves out
HELP = """\
/help    these lines
/reset   forget the conversation
/bye     leave (or Ctrl-D)
Ctrl-C stops an answer; at the prompt it leaves."""


class Door(click.Group):
    """A group whose commands are entry points, so that no room imports another one's command line."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return sorted(point.name for point in entry_points(group="amalia.commands"))

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        for point in entry_points(group="amalia.commands"):
            if point.name == name:
                command = point.load()
                assert isinstance(command, click.Command)
                return command
        return None


@click.group(cls=Door, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="amalia")
@click.option("-v", "--verbose", is_flag=True, help="Show what the libraries say.")
def door(verbose: bool) -> None:
    """Run AMÁLIA, and models like it, on a machine you own: convert, run and measure, offline."""
    logging.basicConfig(level=logging.DEBUG if verbose else logging.CRITICAL, format="%(name)s: %(message)s")


def main() -> None:
    sys.exit(run_door(sys.argv[1:]))


def run_door(words: list[str]) -> int:
    """Run one command line; give its exit code. Only our own errors are caught: anything else is a bug."""
    try:
        return int(door.main(words, prog_name="amalia", standalone_mode=False) or 0)
    except AmaliaError as error:
        return _fail(error, words)
    except click.exceptions.NoArgsIsHelpError as asked:
        print(asked.ctx.get_help() if asked.ctx else "amalia --help")
        return UsageError.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "amalia"
        return _fail(UsageError(where.removeprefix("amalia "), error.format_message(), f"see {where} --help"), words)
    except ModuleNotFoundError as missing:
        if missing.name not in EXTRAS:
            raise
        advice = f"pip install 'amalia-edge[{EXTRAS[missing.name]}]'"
        return _fail(UsageError("amalia", f"the package {missing.name} is not installed", advice), words)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush does not complain
        return _fail(AmaliaError("standard output", os.strerror(problem.errno), "make room"), words)


def _fail(error: AmaliaError, words: list[str]) -> int:
    if "--json" in words:
        named = [word for word in words if not word.startswith("-")]
        group = bool(named) and isinstance(door.get_command(click.Context(door), named[0]), click.Group)
        emit_failure(" ".join(named[: 1 + group]) or "amalia", error)
    else:
        print(f"amalia: {error}", file=sys.stderr)
    return error.exit_code


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


@click.command()
@click.argument("model", required=False)
@click.argument("text", required=False)
@MODEL
@click.option("-p", "--prompt", help="The text, if not given as TEXT.")
@click.option("--raw", is_flag=True, help="Continue the text instead of answering it.")
@SYSTEM
@with_options(*LOADING, *SAMPLING)
@JSON
@VERSION
def run(
    model: str | None, text: str | None, model_option: str | None, prompt: str | None, raw: bool, system: str | None, as_json: bool, **settings: Any
) -> int:  # fmt: skip
    """Answer a text once.

    What is piped in is appended to TEXT. MODEL is a GGUF file, a stored name (AMALIA-9B-0626-DPO:Q4_K_M) or fadinho.
    """
    name, words = _name_and_text(model, text, model_option, prompt)
    words = _with_standard_input(words)
    with opened(name, settings) as opened_model:
        ids = opened_model.prompt(words) if raw else opened_model.conversation(_conversation(words, system))
        sequence = opened_model.engine.submit(ids, _sampling(opened_model, settings))
        answer = "".join(_shown(opened_model.engine.stream(sequence), quiet=as_json))
        if as_json:
            emit("run", {"text": answer, **_accounts(opened_model, sequence)})
    return 0


def _accounts(model: Model, sequence: Sequence) -> dict[str, Any]:
    """Say what an answer took, under the names OpenAI's clients know where there are such."""
    return {
        "finish_reason": sequence.finish,
        "seed": sequence.seed,
        "usage": {"prompt_tokens": sequence.prompt_tokens, "completion_tokens": sequence.generated},
        "prefill_s": round(sequence.prefill_s, 6),
        "decode_tps": round(sequence.decode_tps, 2),
        "model": {"name": model.header.name, "level": model.header.level, "path": str(model.header.path)},
    }


@click.command()
@click.argument("model", required=False)
@MODEL
@SYSTEM
@with_options(*LOADING, *SAMPLING)
@JSON
@VERSION
def chat(model: str | None, model_option: str | None, system: str | None, as_json: bool, **settings: Any) -> int:
    """Talk with a model; /help at the prompt says how."""
    name, _ = _name_and_text(model, None, model_option, None)
    with opened(name, settings) as opened_model:
        sampling = _sampling(opened_model, settings)
        start = _conversation(None, system)
        messages = list(start)
        for words in _asked(sys.stdin.isatty()):
            if words in ("/bye", "/exit", "/quit"):
                break
            if words == "/help":
                err.print(HELP)
            elif words == "/reset":
                messages = list(start)
            elif words.startswith("/") and " " not in words:
                err.print(f"{words}: not a command; /help lists them")
            else:
                _turn(opened_model, messages, words, sampling, quiet=as_json)
        if as_json:
            emit("chat", {"messages": messages})
    return 0


def _turn(model: Model, messages: list[Message], words: str, sampling: SamplingConfig, *, quiet: bool) -> None:
    """Answer one turn; Ctrl-C ends the answer, which stays in the conversation as far as it came."""
    messages.append({"role": "user", "content": words})
    said: list[str] = []
    try:
        for text in _shown(model.chat(messages, sampling), quiet=quiet):
            said.append(text)
    except KeyboardInterrupt:
        if not quiet:
            print(flush=True)
    except ContextFull as full:
        if not sys.stdin.isatty():
            raise
        messages.pop()
        err.print(f"{full}. Or /reset begins anew.", markup=False)
        return
    messages.append({"role": "assistant", "content": "".join(said)})


def _asked(by_a_person: bool) -> Iterator[str]:
    """Give each line that is asked, until the end of input."""
    if by_a_person:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # arrow keys and history at the prompt
        err.print("Ask away. /help helps, /bye or Ctrl-D leaves.", style="dim")
    while True:
        try:
            line = input("> ") if by_a_person else _text(sys.stdin.buffer.readline())
        except EOFError:
            print(file=sys.stderr)
            return
        if not line and not by_a_person:
            return
        if line.strip():
            yield line.strip()


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as problem:
        found = f"byte {problem.start} is not UTF-8"
        raise UsageError("standard input", found, "convert it: iconv -f latin1 -t utf-8") from None


def _shown(pieces: Iterator[Piece], *, quiet: bool) -> Iterator[str]:
    """Print pieces as they come, and pass their texts on."""
    for piece in pieces:
        if piece.text and not quiet:
            print(piece.text, end="", flush=True)
        yield piece.text
    if not quiet:
        print(flush=True)


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


def _sampling(model: Model, settings: dict[str, Any]) -> SamplingConfig:
    """Take each setting from the command line, else from the model's metadata, else from the defaults."""
    names = SamplingConfig.__dataclass_fields__
    told = {name: settings[name] for name in names if settings.get(name) is not None}
    for name in ("limit", "seed"):  # llama.cpp's −1: no limit, any seed
        if told.get(name, 0) < 0:
            del told[name]
    return SamplingConfig(**{**{name: getattr(model.sampling, name) for name in names}, **told})


def _name_and_text(
    model: str | None, text: str | None, model_option: str | None, prompt: str | None
) -> tuple[str, str]:
    """Sort out `run MODEL TEXT`, `run -m MODEL TEXT` and `run -m MODEL -p TEXT`."""
    given = [word for word in (model, text) if word is not None]
    asked = click.get_current_context().get_parameter_source("model_option") is ParameterSource.COMMANDLINE
    if model_option and (asked or len(given) + (prompt is not None) < 2):
        given.insert(0, model_option)
    if prompt is not None:
        given.append(prompt)
    if not given:
        raise ModelNotFound("MODEL", "none given", "give a GGUF file, a stored name, or fadinho")
    if len(given) > 2:
        raise UsageError(given[2], "one word too many", "give one model and one text")
    return given[0], "".join(given[1:])


def _with_standard_input(words: str) -> str:
    piped = "" if sys.stdin is None or sys.stdin.isatty() else _text(sys.stdin.buffer.read()).strip()
    whole = "\n\n".join(part for part in (words, piped) if part)
    if not whole:
        raise UsageError("TEXT", "none given", 'say what to answer: amalia run MODEL "Olá!"')
    return whole


def _conversation(words: str | None, system: str | None) -> list[Message]:
    start: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return start if words is None else [*start, {"role": "user", "content": words}]


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@VERSION
def setup(words: tuple[str, ...]) -> int:
    """Build llama-cpp-python for this machine."""
    from amalia_edge import build

    if "--json" not in words:
        return build.main(list(words))
    with contextlib.redirect_stdout(sys.stderr):
        code = build.main([word for word in words if word != "--json"])
    if code:
        raise LibraryMissing("amalia setup", f"ended with {code}", "read the lines above")
    emit("setup", dict(build.installed_build() or {}))
    return 0


@click.command()
@click.argument("model")
@click.option("--tensors", is_flag=True, help="List every tensor too.")
@click.option("--template", is_flag=True, help="Print the chat template whole, and nothing else.")
@JSON
@VERSION
def inspect(model: str, tensors: bool, template: bool, as_json: bool) -> int:
    """Show what a model file says of itself.

    MODEL is a GGUF file, a stored name (AMALIA-9B-0626-DPO:Q4_K_M) or fadinho. Only its header is read.
    """
    from amalia_edge import summary
    from amalia_edge.gguf import read_header

    header = read_header(find(model))
    if as_json:
        emit("inspect", summary.summarise(header))
    elif template:
        print("\n".join(summary.template_lines(header)))
    else:
        print(as_text(summary.facts(header)))
        out.print(summary.type_table(header))
        print(as_text(summary.other_facts(header)))
        if tensors:
            out.print(summary.tensor_table(header))
    return 0


@click.command()
@click.option("--record", "record_file", type=click.Path(path_type=Path), help="Write this machine's description to FILE (.tar.gz), without names or serial numbers.")  # fmt: skip
@JSON
@VERSION
def doctor(record_file: Path | None, as_json: bool) -> int:
    """Tell what this machine is and what could go wrong."""
    from amalia_edge import device

    if record_file is not None:
        written = device.record(record_file)
        emit("doctor", {"recorded": str(written)}) if as_json else print(f"recorded: {written}")
        return 0
    diagnosis = device.examine()
    if as_json:
        emit("doctor", diagnosis.as_dict())
        return 0
    print(as_text(diagnosis.lines()))
    for hazard in diagnosis.hazards:
        print(f"\n! {hazard}")
    return 0
