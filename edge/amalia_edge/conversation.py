"""The talk loop: what is asked → turns → answers, with the commands that begin with a slash.

It knows neither the engine nor the command line: it is given messages to hear, a function that answers a conversation,
and a screen.
"""

import contextlib
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from amalia_edge import transcript
from amalia_edge.answer import Delta
from amalia_edge.chat import Message
from amalia_edge.errors import ContextFull, DecodeError, UsageError

COMMANDS = {
    "/help": ("", "these lines"),
    "/reset": ("", "forget the conversation, keep the system prompt"),
    "/system": ("[TEXT]", "show the system prompt, or set it and begin anew"),
    "/undo": ("", "take back the last question and its answer"),
    "/regen": ("", "answer the last question again"),
    "/save": ("FILE", "write the conversation: .md or .json; /save! overwrites"),
    "/load": ("FILE", "go on from a conversation saved as .json"),
    "/stats": ("", "tokens, tokens/s and the context used by the last answer"),
    "/bye": ("", "leave (or Ctrl-D)"),
}
ALIASES = {"/exit": "/bye", "/quit": "/bye", "/?": "/help"}
MORE_HELP = """\
A text of several lines: paste it, end lines in \\, or put it between two \"\"\".
Ctrl-C stops an answer; at the prompt it clears the line, or leaves."""


class Counts(Protocol):
    """What an answer took; the engine's Sequence is one."""

    prompt_tokens: int
    reused: int
    prefill_s: float

    @property
    def generated(self) -> int: ...

    @property
    def decode_tps(self) -> float: ...

    @property
    def finish(self) -> str | None: ...


@dataclass(frozen=True)
class Reply:
    """An answer under way: its pieces, and what it took once they have come."""

    pieces: Iterator[Delta]
    counts: Counts


class Screen(Protocol):
    def begin(self) -> None: ...

    def say(self, text: str, *, reasoning: bool = False) -> None: ...

    def end(self) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Manners:
    """How a conversation behaves."""

    context: int  # tokens
    model: str = ""  # its name, for files
    forgiving: bool = False  # a person can go on from an error that ends a script
    stats: bool = False  # after each answer


class Conversation:
    """Messages so far, and what may be done with them."""

    def __init__(
        self, reply: Callable[[Sequence[Message]], Reply], screen: Screen, manners: Manners, system: str | None = None
    ) -> None:
        self._reply, self._screen, self._manners = reply, screen, manners
        self._system = system
        self.messages: list[Message] = []
        self._last: Counts | None = None
        self._reset()

    def talk(self, asked: Iterable[str]) -> None:
        """Hear one message after another, until one says goodbye or there are no more."""
        for words in asked:
            with contextlib.suppress(KeyboardInterrupt):  # at the prompt it leaves, elsewhere it ends what is under way
                if words.strip() and not self.hear(words):
                    return

    def hear(self, words: str) -> bool:
        """Obey a command or answer a question; tell whether to go on. What begins with white space is no command."""
        command, rest = _command(words)
        if command == "/bye":
            return False
        try:
            if command is not None:
                self._obey(command, rest)
            elif guess := _misspelt(words):
                self._screen.note(guess)
            else:
                self._turn([*self.messages, {"role": "user", "content": words.strip()}])
        except (DecodeError, UsageError) as error:
            if not self._manners.forgiving:
                raise
            advice = ". /undo or /reset makes room" if isinstance(error, ContextFull) else ""
            self._screen.note(f"{error}{advice}")
        return True

    def _turn(self, messages: list[Message]) -> None:
        """Answer messages that end in a question; of an answer that Ctrl-C ended, what had come stays.

        The conversation is as it was before if nothing had, or on an error.
        """
        said: list[str] = []
        interrupted = False
        try:
            self._say(messages, said)
        except KeyboardInterrupt:
            interrupted = True
        answer = "".join(said).strip() if interrupted else "".join(said)
        if answer or not interrupted:
            self.messages = [*messages, {"role": "assistant", "content": answer}]
        if not interrupted and self._manners.forgiving and self._last and self._last.finish == "length":
            self._screen.note("(cut short: no more tokens were allowed, or the context is full)")
        if not interrupted and self._manners.stats:
            self._screen.note(self._counted())

    def _say(self, messages: list[Message], said: list[str]) -> None:
        """Show the answer as it comes, and put what was said into a list, which is kept when this is interrupted."""
        reply = self._reply(messages)
        self._last = reply.counts
        self._screen.begin()
        try:
            for piece in reply.pieces:
                show(piece, self._screen)
                said.append(piece.content)
        finally:
            self._screen.end()

    def _obey(self, command: str, rest: str) -> None:
        with_words: dict[str, Callable[[str], None]] = {
            "/save": self._save,
            "/save!": lambda name: self._save(name, overwrite=True),
            "/load": self._load,
            "/system": self._direct,
        }
        alone: dict[str, Callable[[], None]] = {
            "/help": self._help,
            "/reset": self._begin_anew,
            "/undo": self._undo,
            "/regen": self._regenerate,
            "/stats": lambda: self._screen.note(self._counted()),
        }
        if command in with_words:
            with_words[command](rest)
        elif rest:
            raise UsageError(command, f"it takes no words, and got {rest[:40]!r}", "say it alone")
        else:
            alone[command]()

    def _help(self) -> None:
        lines = [f"{name + ' ' + words:<15} {what}" for name, (words, what) in COMMANDS.items()]
        self._screen.note("\n".join([*lines, MORE_HELP]))

    def _begin_anew(self) -> None:
        self._reset()
        self._screen.note("a new conversation")

    def _reset(self) -> None:
        self.messages, self._last = [], None
        if self._system is not None:
            self.messages.append({"role": "system", "content": self._system})

    def _direct(self, text: str) -> None:
        if text:
            self._system = "" if text in ('""', "''") else text
            self._begin_anew()
        else:
            self._screen.note(self._system or "no system prompt")

    def _save(self, name: str, *, overwrite: bool = False) -> None:
        path = transcript.save(self.messages, name, self._manners.model, overwrite=overwrite)
        self._screen.note(f"saved: {path}")

    def _load(self, name: str) -> None:
        messages = transcript.load(name)
        first = next(iter(messages), None)
        self._system = str(first["content"]) if first and first["role"] == "system" else None
        self._reset()
        self.messages = messages
        self._screen.note(f"loaded: {len(messages)} messages")

    def _undo(self) -> None:
        place = self._last_question()
        asked = str(self.messages[place]["content"]).split("\n")[0]
        self.messages = self.messages[:place]
        self._screen.note(f"taken back: {asked}")

    def _regenerate(self) -> None:
        self._turn(self.messages[: self._last_question() + 1])

    def _last_question(self) -> int:
        for place in reversed(range(len(self.messages))):
            if self.messages[place]["role"] == "user":
                return place
        raise UsageError("the conversation", "no question in it yet", "ask one")

    def _counted(self) -> str:
        return counted(self._last, self._manners.context) if self._last else "no answer yet"


def show(piece: Delta, screen: Screen) -> None:
    """Show a piece of an answer, its reasoning apart."""
    screen.say(piece.reasoning, reasoning=True)
    screen.say(piece.content)


def counted(counts: Counts, context: int) -> str:
    """Say what an answer took, in a line."""
    used, read = counts.prompt_tokens + counts.generated, counts.prompt_tokens - counts.reused
    return (
        f"{counts.generated} tokens at {counts.decode_tps:.1f}/s; {read} read in {counts.prefill_s:.2f} s, "
        f"{counts.reused} kept; context {used} of {context}, {used / context:.0%}"
    )


def _command(words: str) -> tuple[str | None, str]:
    """Split a command from what follows it; None if it is none."""
    if not words.startswith("/"):
        return None, ""
    first, _, rest = words.partition(next((letter for letter in words if letter.isspace()), "\0"))
    first = ALIASES.get(first, first)
    return (first, rest.strip()) if first in COMMANDS or first == "/save!" else (None, "")


def _misspelt(words: str) -> str:
    """Say what a message that looks like a command may have meant; nothing if it is a question."""
    found = re.fullmatch(r"(/[a-z!?]+)(\s.*)?", words, re.DOTALL)
    if not found:
        return ""
    near = difflib.get_close_matches(found[1], COMMANDS, 1)
    if near:
        return f"{found[1]}: not a command; did you mean {near[0]}?"
    return "" if found[2] else f"{found[1]}: not a command; /help lists them"
