"""Messages → token ids: template text tokenized as control, user text never.

A template renders messages into one text, control tokens and contents alike. To know which control token the template
wrote and which a user typed, whatever in a content looks like one is hidden behind a sentinel while the template runs;
the rendering is split at the control tokens left in it, the contents are put back, and each fragment between is
tokenized as plain text. Contents without such text give the very ids of the whole rendering.
"""

import re
import secrets
from collections.abc import Sequence
from typing import Protocol, TypedDict

from amalia_edge.errors import ModelUnsupported, UsageError
from amalia_edge.gguf import Header

FADINHO_SYSTEM = "És o fadinho, um modelo de linguagem pequeno. Respondes em português europeu, com frases curtas."
AMALIA_SYSTEM = (
    "És a AMÁLIA, um modelo de linguagem aberto, feito em Portugal. Respondes em português europeu, com clareza e rigor; "
    "quando não sabes, dizes que não sabes."
)
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ROLES = ("system", "user", "assistant", "tool")
LONGEST_RENDERING = 16 << 20  # characters


class Message(TypedDict):
    role: str
    content: str


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
    """Put the default system prompt first, unless the conversation brings its own or the model has none."""
    default = default_system(header)
    if default is None or any(message["role"] == "system" for message in messages):
        return list(messages)
    return [{"role": "system", "content": default}, *messages]


def encode(messages: Sequence[Message], template: str | None, tokenizer: Tokenizer) -> list[int]:
    """Give the ids of a conversation, ready for the assistant's answer."""
    _check(messages)
    control = tokenizer.control
    if not template:
        if "<|im_start|>" not in control:
            raise ModelUnsupported("chat", "the model has no chat template", "use amalia run --raw to continue a text")
        template = CHATML
    hidden, secret = _hide(messages, list(control))
    names = {token: text for text, token in control.items()}
    rendered = render(template, hidden, names.get(tokenizer.begin, ""), names.get(tokenizer.end, ""))
    ids: list[int] = []
    for fragment in re.split(f"({'|'.join(map(re.escape, sorted(control, key=len, reverse=True)))})", rendered):
        if fragment in control:
            ids.append(control[fragment])
        elif fragment:
            ids += tokenizer.encode(_restore(fragment, secret))
    if tokenizer.adds_begin and ids[:1] != [tokenizer.begin]:
        ids.insert(0, tokenizer.begin)
    return ids


def render(template: str, messages: Sequence[Message], begin: str, end: str) -> str:
    """Run a model's Jinja template, which came with the file and is not to be trusted, in a sandbox."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> str:
        raise UsageError("chat template", message, "change the conversation's roles or their order")

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
    environment.globals["raise_exception"] = refuse
    pieces, length = [], 0
    try:
        compiled = environment.from_string(template)
        for piece in compiled.generate(messages=messages, add_generation_prompt=True, bos_token=begin, eos_token=end):
            pieces.append(piece)
            length += len(piece)
            if length > LONGEST_RENDERING:
                raise ModelUnsupported("chat template", f"renders more than {LONGEST_RENDERING:,} characters", "use --raw")
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError, RecursionError, ArithmeticError) as problem:
        raise ModelUnsupported("chat template", str(problem) or type(problem).__name__, "use amalia run --raw") from None
    return "".join(pieces)


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise UsageError("messages", "none", "give at least one message of the user")
    for place, message in enumerate(messages):
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise UsageError(f"messages[{place}]", "no known role, or no text", "roles are " + ", ".join(ROLES))


def _hide(messages: Sequence[Message], control: list[str]) -> tuple[list[Message], dict[str, str]]:
    """Put a sentinel where a content holds control text, or begins or ends with a part of one."""
    mark = f"\ue000{secrets.token_hex(8)}"  # nobody who wrote a content could know it
    secret: dict[str, str] = {}

    def hide(text: str) -> str:
        sentinel = f"{mark}{len(secret)}\ue001"
        secret[sentinel] = text
        return sentinel

    whole = re.compile("|".join(map(re.escape, sorted(control, key=len, reverse=True))) or r"(?!)")
    heads = {text[:cut] for text in control for cut in range(1, len(text))}
    tails = {text[cut:] for text in control for cut in range(1, len(text))}
    longest = max(map(len, control), default=1)

    def clean(content: str) -> str:
        content = whole.sub(lambda found: hide(found[0]), content)
        for size in range(min(longest, len(content)), 0, -1):
            if content[-size:] in heads:
                content = content[:-size] + hide(content[-size:])
                break
        for size in range(min(longest, len(content)), 0, -1):
            if content[:size] in tails:
                content = hide(content[:size]) + content[size:]
                break
        return content

    return [{"role": message["role"], "content": clean(message["content"])} for message in messages], secret


def _restore(fragment: str, secret: dict[str, str]) -> str:
    for sentinel, text in reversed(secret.items()):  # the last hidden may hold an earlier one
        fragment = fragment.replace(sentinel, text)
    return fragment
