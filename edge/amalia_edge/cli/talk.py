"""`amalia run` and `amalia chat`."""

import json
import sys
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Several
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from amalia_edge.answer import Delta
from amalia_edge.chat import Message, default_system
from amalia_edge.cli.options import (
    JSON,
    LOADING,
    MODEL,
    SAMPLING,
    SYSTEM,
    VERSION,
    Command,
    opened,
    sampling_for,
    with_options,
)
from amalia_edge.console import emit, progress
from amalia_edge.conversation import Conversation, Manners, Reply, counted, show
from amalia_edge.engine import Piece, Sequence
from amalia_edge.errors import ModelNotFound, UsageError
from amalia_edge.history import History, history_file
from amalia_edge.keyboard import Keyboard, Pipe, decode
from amalia_edge.messages import parse_object
from amalia_edge.model import Model
from amalia_edge.profile import find_profile, read_profile, read_text
from amalia_edge.screen import Screen
from amalia_edge.state import StateStore, common_prefix

CONSTRAINTS = ("json_schema", "json_schema_file", "regex")  # one of the command line's goes before a profile's schema
LARGEST_SYSTEM = 4 << 20  # bytes


def _switches(_context: Any, _parameter: Any, text: str | None) -> dict[str, Any]:
    switches = parse_object(text) if text else {}
    if switches is None:
        raise UsageError("--chat-template-kwargs", f"{text!r} is no JSON object", 'as in {"enable_thinking": false}')
    return switches


USE = (
    SYSTEM,
    click.option("--system-file", help="Read the system prompt from FILE.", metavar="FILE"),
    click.option("--profile", metavar="NAME", help="A profile of use that `amalia profiles` lists, or a .toml file."),
    click.option("--stats", is_flag=True, help="Tell tokens and tokens/s after an answer."),
    click.option(
        "--chat-template-kwargs",
        "variables",
        callback=_switches,
        metavar="JSON",
        envvar="LLAMA_CHAT_TEMPLATE_KWARGS",
        show_envvar=True,
        help='Switches of the template: {"enable_thinking": false}.',
    ),
    click.option("--no-reasoning", is_flag=True, help="Hide what the model says to itself before it answers."),
)


@click.command(cls=Command)
@click.argument("model", required=False)
@click.argument("text", required=False)
@MODEL
@click.option("-p", "--prompt", help="The text, if not given as TEXT.")
@click.option("--raw", is_flag=True, help="Continue the text instead of answering it.")
@with_options(*USE, *LOADING, *SAMPLING)
@JSON
@VERSION
def run(
    model: str | None, text: str | None, model_option: str | None, prompt: str | None, raw: bool, as_json: bool, **settings: Any
) -> int:  # fmt: skip
    """Answer a text once.

    What is piped in is appended to TEXT. MODEL is a GGUF file, a stored name (AMALIA-9B-0626-DPO:Q4_K_M) or fadinho.
    """
    name, words = _name_and_text(model, text, model_option, prompt)
    words = _with_standard_input(words)
    screen = Screen(quiet=as_json, reasoning=not settings["no_reasoning"])
    system, variables = _system(settings, screen.note), settings["variables"]
    with opened(name, settings) as opened_model:
        if not raw:
            _warm(opened_model, system, settings, screen)
        ids = (
            opened_model.prompt(words)
            if raw
            else opened_model.conversation(_conversation(words, system), variables=variables)
        )
        sequence = opened_model.engine.submit(ids, sampling_for(opened_model, settings))
        pieces = _pieces(opened_model, sequence)
        answer = _show(
            (Delta(piece.text) for piece in pieces) if raw else _read(opened_model, pieces, variables), screen
        )
        if as_json:
            emit("run", {"text": answer, **_accounts(opened_model, sequence)})
        elif settings["stats"]:
            screen.note(counted(sequence, opened_model.context))
    return 0


def _show(pieces: Iterator[Delta], screen: Screen) -> str:
    """Show an answer as it comes, and give it whole."""
    said: list[str] = []
    screen.begin()
    try:
        for piece in pieces:
            show(piece, screen)
            said.append(piece.content)
    finally:
        screen.end()
    return "".join(said)


def _read(model: Model, pieces: Iterator[Piece], variables: dict[str, Any]) -> Iterator[Delta]:
    """Tell an answer from the reasoning before it."""
    reader = model.reader(variables=variables)
    for piece in pieces:
        yield from reader.push(piece.text)
    yield from reader.finish()


def _pieces(model: Model, sequence: Sequence) -> Iterator[Piece]:
    """Stream an answer; while a long prompt is read, a bar shows how far."""
    unread = sequence.prompt_tokens - sequence.reused
    if unread <= model.config.micro_batch:
        yield from model.engine.stream(sequence)
        return
    before = sequence.reused
    with progress("reading", unread, in_bytes=False) as bar:

        def advance(read: int) -> None:
            nonlocal before
            bar.advance(read - before)
            before = read

        stream = model.engine.stream(sequence, advance)
        first = next(stream, None)
    if first is not None:
        yield first
        yield from stream


def _warm(model: Model, system: str | None, settings: dict[str, Any], screen: Screen) -> None:
    """Have what every turn begins with in memory: from disk, if it was read there before."""
    if system and (settings["system_file"] or settings["profile"]):
        conversation = partial(model.conversation, variables=settings["variables"])
        beginning = common_prefix(conversation, [{"role": "system", "content": system}])
        StateStore(warn=screen.note).warm(model, beginning)


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


@click.command(cls=Command)
@click.argument("model", required=False)
@MODEL
@click.option("--no-history", is_flag=True, help="Neither read nor keep the questions of past sessions.")
@with_options(*USE, *LOADING, *SAMPLING)
@JSON
@VERSION
def chat(model: str | None, model_option: str | None, no_history: bool, as_json: bool, **settings: Any) -> int:
    """Talk with a model; /help at the prompt says how."""
    name, _ = _name_and_text(model, None, model_option, None)
    screen = Screen(quiet=as_json, reasoning=not settings["no_reasoning"])
    system = _system(settings, screen.note)
    person = sys.stdin is not None and sys.stdin.isatty()
    with opened(name, settings) as opened_model:
        if system is None:
            system = default_system(opened_model.header)
        _warm(opened_model, system, settings, screen)
        manners = Manners(opened_model.context, opened_model.header.name, forgiving=person, stats=settings["stats"])
        conversation = Conversation(_replier(opened_model, settings), screen, manners, system)
        if person:
            screen.note("Ask away. /help helps, /bye or Ctrl-D leaves.")
            history = None if no_history else History(history_file())
            conversation.talk(iter(Keyboard(history).ask, None))
        else:
            conversation.talk(iter(Pipe().ask, None))
        if as_json:
            emit("chat", {"messages": conversation.messages})
    return 0


def _replier(model: Model, settings: dict[str, Any]) -> Callable[[Several[Message]], Reply]:
    """Give the function that answers a conversation with this model."""
    sampling, variables = sampling_for(model, settings), settings["variables"]

    def reply(messages: Several[Message]) -> Reply:
        sequence = model.engine.submit(model.conversation(messages, variables=variables), sampling)
        return Reply(_read(model, _pieces(model, sequence), variables), sequence)

    return reply


def _system(settings: dict[str, Any], note: Callable[[str], None]) -> str | None:
    """Fill in what the profile says where the command line is silent; give the system prompt, None for the model's own."""
    system: str | None = settings["system"]
    file: str | None = settings["system_file"]
    if system is not None and file is not None:
        raise UsageError("--system-file", "given beside --system-prompt", "give one of them")
    if file is not None:
        system = read_text(Path(file), LARGEST_SYSTEM).strip()
    if settings["profile"] is None:
        return system
    profile = read_profile(find_profile(settings["profile"]))
    for table in profile.reserved:
        note(f"{profile.path.name}: [{table}] is for a later version, and is left alone")
    told = {**profile.sampling, "context": profile.context}
    if profile.schema is not None and not any(settings[name] for name in CONSTRAINTS):
        told["json_schema"] = json.dumps(profile.schema)
    source = click.get_current_context().get_parameter_source
    for key, value in told.items():
        if value is not None and source(key) in (None, ParameterSource.DEFAULT):
            settings[key] = value
    return profile.system if system is None else system


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
    piped = "" if sys.stdin is None or sys.stdin.isatty() else decode(sys.stdin.buffer.read()).strip()
    whole = "\n\n".join(part for part in (words, piped) if part)
    if not whole:
        raise UsageError("TEXT", "none given", 'say what to answer: amalia run MODEL "Olá!"')
    return whole


def _conversation(words: str, system: str | None) -> list[Message]:
    start: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return [*start, {"role": "user", "content": words}]
