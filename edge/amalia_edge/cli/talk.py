"""`amalia run` and `amalia chat`."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import click
from click.core import ParameterSource

from amalia_edge.chat import Message
from amalia_edge.cli.options import JSON, LOADING, MODEL, SAMPLING, SYSTEM, VERSION, opened, sampling_for, with_options
from amalia_edge.console import emit, err
from amalia_edge.engine import Piece, Sequence
from amalia_edge.errors import ContextFull, ModelNotFound, UsageError
from amalia_edge.model import Model
from amalia_edge.sampler import SamplingConfig

HELP = """\
/help    these lines
/reset   forget the conversation
/bye     leave (or Ctrl-D)
Ctrl-C stops an answer; at the prompt it leaves."""


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
        sequence = opened_model.engine.submit(ids, sampling_for(opened_model, settings))
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
        sampling = sampling_for(opened_model, settings)
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
