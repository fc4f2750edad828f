"""Messages → token ids: template text tokenized as control, text from outside never.

A template renders messages into one text, control tokens and contents alike. What in a content could become part of a
control token is hidden behind a veil while the template runs; the rendering is split at the control tokens left in it,
the veil is lifted, and each fragment between is tokenized as plain text. Whatever the contents, the control tokens are
those the template wrote; contents without control text give the very ids of the whole rendering.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from amalia_edge.abilities import abilities, adapt, setting, thought_apart
from amalia_edge.answer import MARKS
from amalia_edge.errors import UsageError
from amalia_edge.gguf import Header
from amalia_edge.messages import ROLES, Message, Tool, ToolCall, json_value, read_messages, read_tools
from amalia_edge.template import compile_template, render
from amalia_edge.veil import Veil

__all__ = [
    "ROLES", "Message", "Tool", "ToolCall", "compile_template", "default_system", "encode", "render", "with_system",
]  # fmt: skip

FADINHO_SYSTEM = "És o fadinho, um modelo de linguagem pequeno. Respondes em português europeu, com frases curtas."
AMALIA_SYSTEM = (
    "És a AMÁLIA, um modelo de linguagem aberto, feito em Portugal. Respondes em português europeu, com clareza e rigor; "
    "quando não sabes, dizes que não sabes."
)
SYSTEM = ("system", "developer")
SPACE = " \t\n\v\f\r"  # C's isspace
TAG = re.compile(r"<[^<>\s]{1,40}>|\[[^\[\]\s]{1,40}\]")


class Tokenizer(Protocol):
    """What a vocabulary must do for us."""

    begin: int
    end: int
    adds_begin: bool

    @property
    def control(self) -> dict[str, int]: ...

    def encode(self, text: str, *, control: bool = False) -> list[int]: ...


def default_system(header: Header) -> str | None:
    """Give the product's own system prompt, for the models that need one to know who they are."""
    if not header.is_ours:
        return None
    return FADINHO_SYSTEM if header.name.lower().startswith("fadinho") else AMALIA_SYSTEM


def with_system(messages: Sequence[Message], header: Header) -> list[Message]:
    """Put the default system prompt first, unless the conversation brings its own or the model has none.

    An empty one of the conversation's own means none at all.
    """
    default = default_system(header)
    if messages and default is not None and not any(map(_is_system, messages)):
        return [{"role": "system", "content": default}, *messages]
    return [message for message in messages if not _is_system(message) or message.get("content")]


def encode(
    messages: Sequence[Message],
    template: str,
    tokenizer: Tokenizer,
    tools: Sequence[Tool] = (),
    variables: Mapping[str, Any] | None = None,
) -> list[int]:
    """Give the ids of a conversation, ready for the assistant's answer; `variables` are the template's own switches."""
    tokens = _tokens(template, tokenizer)
    given = setting([], None)
    for name in variables or {}:
        if name in given:
            raise UsageError("template variables", f"{name!r} is set by the conversation", "leave it out")
    can = abilities(template)
    read = [thought_apart(message, can) for message in read_messages(messages)]
    told = json_value(dict(variables or {}), "template variables")
    outside = [read, read_tools(tools), told]
    veil = Veil(tokens, outside, template)
    hidden, offered = veil.hide(outside[:2])
    switches = {name: veil.hide_switch(name, value) for name, value in told.items()}
    names = {token: text for text, token in tokens.items()}
    given = setting(adapt(hidden, offered, can), offered if can.tools else None)
    given |= {"bos_token": names.get(tokenizer.begin, ""), "eos_token": names.get(tokenizer.end, "")}
    rendered = render(template, switches | given)
    ids: list[int] = []
    trims = False
    for fragment in _split(rendered, tokens):
        if isinstance(fragment, int):
            ids.append(fragment)
            trims = _trims(names[fragment], tokenizer)
        else:
            text = veil.lift(fragment.lstrip(SPACE) if trims else fragment)
            ids += _plain(text, tokens, tokenizer) if text else []
    if tokenizer.adds_begin and ids[:1] != [tokenizer.begin]:
        ids.insert(0, tokenizer.begin)
    return ids


def _is_system(message: object) -> bool:
    return isinstance(message, Mapping) and message.get("role") in SYSTEM


def _tokens(template: str, tokenizer: Tokenizer) -> dict[str, int]:
    """Give what only the template may write: control tokens, and tags that are one token even in plain text."""
    tokens = {text: token for text, token in tokenizer.control.items() if text.strip()}
    for tag in sorted({*TAG.findall(template), *MARKS} - set(tokens)):
        ids = tokenizer.encode(tag)
        if len(ids) == 1:
            tokens[tag] = ids[0]
    return tokens


def _split(rendered: str, tokens: Mapping[str, int]) -> Iterator[str | int]:
    """Cut a rendering at its control tokens as libllama does: the longest ones first, wherever they stand."""
    lengths = sorted({len(text) for text in tokens}, reverse=True)
    firsts = re.compile("[" + "".join(map(re.escape, {text[0] for text in tokens})) + "]") if tokens else None
    found = [
        (place, place + length)
        for place in ([match.start() for match in firsts.finditer(rendered)] if firsts else [])
        for length in lengths
        if rendered[place : place + length] in tokens and place + length <= len(rendered)
    ]
    found.sort(key=lambda span: (-len(rendered[slice(*span)].encode()), span))
    taken: dict[int, int] = {}
    covered: set[int] = set()
    for start, end in found:
        if start not in covered and end - 1 not in covered:
            covered.update(range(start, end))
            taken[start] = end
    place = 0
    for start in sorted(taken):
        if start > place:
            yield rendered[place:start]
        yield tokens[rendered[start : taken[start]]]
        place = taken[start]
    if place < len(rendered):
        yield rendered[place:]


def _trims(token: str, tokenizer: Tokenizer) -> bool:
    """Say whether libllama drops the white space after a control token, as it does for Phi-3."""
    return tokenizer.encode(f"{token} \nx", control=True) == tokenizer.encode(f"{token}x", control=True)


def _plain(text: str, tokens: Mapping[str, int], tokenizer: Tokenizer) -> list[int]:
    """Tokenize plain text; a tag which the vocabulary would know in it is cut after its first letter."""
    ids = tokenizer.encode(text)
    found = {tag: token for tag, token in tokens.items() if token in ids} if _any_in(ids, tokens) else {}
    if not found:
        return ids
    tags = re.compile("|".join(f"{re.escape(tag[0])}(?={re.escape(tag[1:])})" for tag in found))
    cuts = [0, *(match.end() for match in tags.finditer(text)), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(cuts) if start < end]
    ids = [*tokenizer.encode(pieces[0]), *(token for piece in pieces[1:] for token in _continued(piece, tokenizer))]
    if _any_in(ids, tokens):
        ids = [token for letter in text for token in _continued(letter, tokenizer)]
    return ids


def _any_in(ids: Sequence[int], tokens: Mapping[str, int]) -> bool:
    return not set(ids).isdisjoint(tokens.values())


def _continued(text: str, tokenizer: Tokenizer) -> list[int]:
    """Tokenize what follows other text, without the space some vocabularies put before a beginning."""
    line, ids = tokenizer.encode("\n"), tokenizer.encode("\n" + text)
    return ids[len(line) :] if ids[: len(line)] == line else tokenizer.encode(text)
