"""Messages → token ids: template text tokenized as control, user text never.

A template renders messages into one text, control tokens and contents alike. To know which control token the template
wrote and which a user typed, the first letter of whatever in a content could begin or complete one is hidden behind a
sentinel while the template runs; the rendering is split at the control tokens left in it, the letters are put back, and
each fragment between is tokenized as plain text. Contents without such text give the very ids of the whole rendering.
"""

import re
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, TypedDict

from amalia_edge.errors import AmaliaError, ModelUnsupported, UsageError
from amalia_edge.gguf import Header

if TYPE_CHECKING:
    from jinja2 import Template

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
    """Put the default system prompt first, unless the conversation brings its own or the model has none.

    An empty one of the conversation's own means none at all.
    """
    default = default_system(header)
    if default is not None and all(message["role"] != "system" for message in messages):
        return [{"role": "system", "content": default}, *messages]
    return [message for message in messages if message["role"] != "system" or message["content"]]


def encode(messages: Sequence[Message], template: str | None, tokenizer: Tokenizer) -> list[int]:
    """Give the ids of a conversation, ready for the assistant's answer."""
    _check(messages)
    control = tokenizer.control
    if not template:
        if "<|im_start|>" not in control:
            raise ModelUnsupported("chat", "the model has no chat template", "use amalia run --raw to continue a text")
        template = CHATML
    hidden, letters = _hide(messages, list(control))
    names = {token: text for text, token in control.items()}
    rendered = render(template, hidden, names.get(tokenizer.begin, ""), names.get(tokenizer.end, ""))
    ids: list[int] = []
    for fragment in re.split(f"({_any_of(control)})", rendered):
        if fragment in control:
            ids.append(control[fragment])
        elif fragment:
            for letter, sentinel in letters.items():
                fragment = fragment.replace(sentinel, letter)
            ids += tokenizer.encode(fragment)
    if tokenizer.adds_begin and ids[:1] != [tokenizer.begin]:
        ids.insert(0, tokenizer.begin)
    return ids


def render(template: str, messages: Sequence[Message], begin: str, end: str) -> str:
    """Run a model's Jinja template, which came with the file and is not to be trusted, in a sandbox."""
    compiled = compile_template(template)
    pieces, length = [], 0
    try:
        for piece in compiled.generate(messages=messages, add_generation_prompt=True, bos_token=begin, eos_token=end):
            pieces.append(piece)
            length += len(piece)
            if length > LONGEST_RENDERING:
                raise ModelUnsupported(
                    "chat template", f"renders more than {LONGEST_RENDERING:,} characters", "use --raw"
                )
    except AmaliaError:
        raise
    except Exception as problem:  # a template is a program: it may fail in any way there is
        raise _unusable(problem) from None
    return "".join(pieces)


def compile_template(template: str) -> "Template":
    """Make a template ready to run in the sandbox, without running it."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """Pass a block's body through: transformers marks with it what an assistant said, for training."""

        tags = {"generation"}  # noqa: RUF012  (as jinja2 declares it)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> str:
        raise UsageError("chat template", message, "change the conversation's roles or their order")

    loops = "jinja2.ext.loopcontrols"  # some templates on the Hub break out of a loop
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, autoescape=False, extensions=[loops, Generation]
    )
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    try:
        return environment.from_string(template)
    except Exception as problem:  # beside its syntax: nested too deep for jinja's parser, or for Python's
        raise _unusable(problem) from None


def _unusable(problem: Exception) -> ModelUnsupported:
    return ModelUnsupported("chat template", str(problem) or type(problem).__name__, "use amalia run --raw")


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise UsageError("messages", "none", "give at least one message of the user")
    for place, message in enumerate(messages):
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise UsageError(f"messages[{place}]", "no known role, or no text", "roles are " + ", ".join(ROLES))


def _hide(messages: Sequence[Message], control: list[str]) -> tuple[list[Message], dict[str, str]]:
    """Hide the first letter of what could become control text; give the sentinel of each hidden letter.

    A template may strip and join contents, so a control token could come together from the end of one and the beginning
    of the next, or of the template's own text.
    """
    mark = f"\ue000{secrets.randbelow(10**18):018}"  # nobody who wrote a content could know it
    letters: dict[str, str] = {}

    def hide(letter: str) -> str:
        return letters.setdefault(letter, f"{mark}{len(letters)}\ue001")

    begins = re.compile(_any_of(text[:2] for text in control))
    first = {text[0] for text in control}
    tails = {text[cut:] for text in control for cut in range(1, len(text))}

    def clean(content: str) -> str:
        inner = content.strip()
        if any(inner.startswith(tail) or (inner and tail.startswith(inner)) for tail in tails):
            place = content.index(inner)
            return content[:place] + hide(inner[0]) + clean_rest(content[place + 1 :])
        return clean_rest(content)

    def clean_rest(content: str) -> str:
        content = begins.sub(lambda found: hide(found[0][0]) + found[0][1:], content)
        inner = content.rstrip()
        if inner[-1:] in first:
            content = inner[:-1] + hide(inner[-1]) + content[len(inner) :]
        return content

    return [{"role": message["role"], "content": clean(message["content"])} for message in messages], letters


def _any_of(texts: Iterable[str]) -> str:
    """Give the pattern of any of these texts, the longest first; of none at all, one that never matches."""
    return "|".join(map(re.escape, sorted(set(texts), key=len, reverse=True))) or r"(?!)"
