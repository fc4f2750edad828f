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

from amalia_edge.answer import AnswerForm, AnswerReader, Delta
from amalia_edge.chat import Message, default_system
from amalia_edge.cli.options import (
    JSON,
    LOADING,
    MODEL,
    SAMPLING,
    SYSTEM,
    VERSION,
    Command,
    model_name,
    opened,
    sampling_for,
    with_options,
)
from amalia_edge.console import emit, emit_failure, progress
from amalia_edge.conversation import Conversation, Manners, Reply, counted, show
from amalia_edge.engine import Piece, Sequence
from amalia_edge.errors import AmaliaError, ModelNotFound, UsageError
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
        envvar="LLAMA_ARG_CHAT_TEMPLATE_KWARGS",
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

    What is piped in is appended to TEXT. MODEL is a GGUF file, a converted model (AMALIA-9B-0626-DPO:Q4_K_M), one of the
    Hub (user/repo:Q4_K_M), one that Ollama or LM Studio holds (ollama/NAME:TAG), or fadinho.
    """
    name, words = _name_and_text(model, text, model_option, prompt)
    for option, told in (("--system-prompt", settings["system"]), ("--system-file", settings["system_file"])):
        if raw and told is not None:
            raise UsageError(option, "given beside --raw, which has no system prompt", "give one of them")
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
        reader = AnswerReader(AnswerForm()) if raw else opened_model.reader(variables=variables)
        sequence = opened_model.engine.submit(ids, sampling_for(opened_model, settings))
        said = _show(_read(reader, _pieces(opened_model, sequence)), screen)
        if as_json:
            emit("run", {"text": said.content, "reasoning": said.reasoning, **_accounts(opened_model, sequence)})
        elif settings["stats"]:
            screen.note(counted(sequence, opened_model.context))
    return 0


def _show(pieces: Iterator[Delta], screen: Screen) -> Delta:
    """Show an answer as it comes, and give it whole."""
    said: list[Delta] = []
    screen.begin()
    try:
        for piece in pieces:
            show(piece, screen)
            said.append(piece)
    finally:
        screen.end()
    return Delta("".join(piece.content for piece in said), "".join(piece.reasoning for piece in said))


def _read(reader: AnswerReader, pieces: Iterator[Piece]) -> Iterator[Delta]:
    """Tell an answer from the reasoning before it."""
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
        "model": _described(model),
    }


def _described(model: Model) -> dict[str, Any]:
    return {"name": model.header.name, "level": model.header.level, "path": str(model.header.path)}


@click.command(cls=Command)
@click.argument("model", required=False)
@MODEL
@click.option("--no-history", is_flag=True, help="Neither read nor keep the questions of past sessions.")
@with_options(*USE, *LOADING, *SAMPLING)
@JSON
@VERSION
def chat(model: str | None, model_option: str | None, no_history: bool, as_json: bool, **settings: Any) -> int:
    """Talk with a model; /help at the prompt says how.

    MODEL is what `amalia run` takes.
    """
    name = model_name(model, model_option)
    screen = Screen(quiet=as_json, reasoning=not settings["no_reasoning"])
    system = _system(settings, screen.note)
    person = sys.stdin is not None and sys.stdin.isatty()
    with opened(name, settings) as opened_model:
        if system is None:
            system = default_system(opened_model.header)
        _warm(opened_model, system, settings, screen)
        manners = Manners(opened_model.context, opened_model.header.name, forgiving=person, stats=settings["stats"])
        conversation = Conversation(_replier(opened_model, settings), screen, manners, system)
        history = History(history_file()) if person and not no_history else None
        if person:
            screen.note("Ask away. /help helps, /bye or Ctrl-D leaves.")
        try:
            conversation.talk(iter(Keyboard(history).ask if person else Pipe().ask, None))
        except AmaliaError as error:
            if as_json:  # with the answers that came before it
                emit_failure("chat", error, _said(opened_model, conversation))
                return error.exit_code
            raise
        if as_json:
            emit("chat", _said(opened_model, conversation))
    return 0


def _said(model: Model, conversation: Conversation) -> dict[str, Any]:
    return {"messages": conversation.messages, "model": _described(model)}


def _replier(model: Model, settings: dict[str, Any]) -> Callable[[Several[Message]], Reply]:
    """Give the function that answers a conversation with this model."""
    sampling, variables = sampling_for(model, settings), settings["variables"]
    last: list[Sequence] = []

    def reply(messages: Several[Message]) -> Reply:
        while last:  # Ctrl-C may have ended it before its first piece was asked for
            model.engine.cancel(last.pop())
        ids, reader = model.conversation(messages, variables=variables), model.reader(variables=variables)
        sequence = model.engine.submit(ids, sampling)
        last.append(sequence)
        return Reply(_read(reader, _pieces(model, sequence)), sequence)

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
    if profile.schema is not None and all(settings[name] is None for name in CONSTRAINTS):
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
