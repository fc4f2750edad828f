"""What a model says, read as it comes: its reasoning, its words, and its tool calls apart.

However the text is cut into pieces, the sum is the same: what could be the beginning of a tag is held back until it is
decided. Nothing is lost: a call that is malformed, or of a tool nobody offered, stays text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amalia_edge.abilities import REASONING, abilities, setting
from amalia_edge.calls import BARE_MARK, HERMES, CallForm, Malformed, call_form, read_calls
from amalia_edge.messages import Tool, ToolCall, read_tools
from amalia_edge.template import render

MARKS = (  # tokens around the parts of an answer: a vocabulary must give their texts, and no user may write them
    *(tag for tags in REASONING for tag in tags), "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
    "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "<|tool_call|>", "<|/tool_call|>", BARE_MARK,
)  # fmt: skip


@dataclass(frozen=True)
class AnswerForm:
    """How a model's answers are laid out."""

    reasoning: tuple[str, str] | None = None  # the tags around it
    opened: bool = False  # the prompt itself ends with the first of them
    calls: CallForm = HERMES


@dataclass(frozen=True)
class Delta:
    """What came next: words, reasoning, or one whole call."""

    content: str = ""
    reasoning: str = ""
    call: ToolCall | None = None


def answer_form(template: str, variables: Mapping[str, Any] | None = None) -> AnswerForm:
    """Find out from a template how its model answers, with the template's switches as they are."""
    tags = abilities(template).reasoning
    if tags is None:
        return AnswerForm(calls=call_form(template))
    prompt = render(template, {**(variables or {}), **setting([{"role": "user", "content": "olá"}], None)})
    return AnswerForm(tags, prompt.rstrip().endswith(tags[0]), call_form(template))


class AnswerReader:
    """Takes an answer's text piece by piece; calls are looked for only where tools were offered."""

    def __init__(self, form: AnswerForm, tools: Sequence[Tool] = ()) -> None:
        self._form = form
        self._names = {tool["function"]["name"] for tool in read_tools(tools)}
        self._rest = ""
        self._before = ""  # the space and the tag before the call being read
        self._bare = True  # nothing but space has come yet, in this part
        self._trims = False  # space at the beginning of this part says nothing
        self._read: Callable[[bool], list[Delta] | None] = self._start if form.reasoning else self._words

    def push(self, text: str) -> list[Delta]:
        """Take more text; give what is decided by now."""
        self._rest += text
        return self._deltas(last=False)

    def finish(self) -> list[Delta]:
        """Give what was held back: no more text will come."""
        return self._deltas(last=True)

    def _deltas(self, last: bool) -> list[Delta]:
        deltas: list[Delta] = []
        while (self._rest or (last and self._before)) and (read := self._read(last)) is not None:
            deltas += read
        return [delta for delta in deltas if delta != Delta()]

    # Each of these reads on from the beginning of the rest: gives what it found, or None where it must wait.

    def _start(self, last: bool) -> list[Delta] | None:
        opens = self._tags[0]
        rest = self._rest.lstrip()
        if opens.startswith(rest) and rest != opens and not last:
            return None
        if rest.startswith(opens) or self._form.opened:
            self._rest, self._read = rest.removeprefix(opens), self._reasoning
            self._trims = True
        else:
            self._read = self._words
        return []

    def _reasoning(self, last: bool) -> list[Delta] | None:
        closes = self._tags[1]
        if not self._trimmed():
            return None
        end = self._rest.find(closes)
        if end < 0:
            return self._said(len(self._rest.rstrip()) if last else _decided(self._rest, closes), "reasoning", last)
        found = Delta(reasoning=self._rest[:end].rstrip())
        self._rest, self._read = self._rest[end + len(closes) :], self._words
        self._trims = self._bare = True
        return [found]

    def _words(self, last: bool) -> list[Delta] | None:
        opens = self._form.calls.opens
        if not self._trimmed():
            return None
        if not self._names:
            return self._said(len(self._rest), "content", last)
        if not opens and self._bare:
            return self._object(last)
        start = self._rest.find(opens) if opens else -1
        if start < 0:
            decided = len(self._rest) if last or not opens else _decided(self._rest, opens)
            return self._said(decided, "content", last)
        words = self._rest[:start].rstrip()
        self._before = self._rest[len(words) : start] + opens
        self._rest, self._read = self._rest[start + len(opens) :], self._call
        return [Delta(content=words)]

    def _object(self, last: bool) -> list[Delta] | None:
        """See whether an answer, or what follows a call, begins as a call without a tag does."""
        rest = self._rest.lstrip()
        after = rest.removeprefix(BARE_MARK).lstrip()
        if not last and (not after or (BARE_MARK.startswith(rest) and rest != BARE_MARK)):
            return None
        self._bare = False
        if after.startswith("{"):
            self._before = self._rest[: len(self._rest) - len(after)]
            self._rest, self._read = after, self._call
        return []

    def _call(self, last: bool) -> list[Delta] | None:
        """Read a call up to its closing tag, of which there may be one in an argument; or as far as its JSON goes."""
        closes = self._form.calls.closes
        end = self._rest.find(closes) if closes else -1
        while end >= 0:
            try:
                calls, stop = read_calls(self._rest[:end], self._names)
            except Malformed as problem:
                if not problem.in_a_string:
                    return self._no_call(end + len(closes))
                end = self._rest.find(closes, end + 1)
            else:
                if self._rest[stop:end].strip():
                    return self._no_call(end + len(closes))
                return self._called(calls, end + len(closes))
        return None if closes and not last else self._open_call(last)

    def _open_call(self, last: bool) -> list[Delta] | None:
        try:
            return self._called(*read_calls(self._rest, self._names))
        except Malformed as problem:
            if problem.end is None and not last:
                return None
            return self._no_call(len(self._rest) if problem.end is None else problem.end)

    def _called(self, calls: list[ToolCall], end: int) -> list[Delta]:
        self._rest, self._read, self._before = self._rest[end:], self._words, ""
        self._trims = self._bare = True
        return [Delta(call=call) for call in calls]

    def _no_call(self, end: int) -> list[Delta]:
        found = Delta(content=self._before + self._rest[:end])
        self._rest, self._read, self._before = self._rest[end:], self._words, ""
        return [found]

    @property
    def _tags(self) -> tuple[str, str]:
        assert self._form.reasoning is not None
        return self._form.reasoning

    def _trimmed(self) -> bool:
        """Drop the space this part begins with; say whether anything is left."""
        if self._trims:
            self._rest = self._rest.lstrip()
            self._trims = not self._rest
        return bool(self._rest)

    def _said(self, end: int, kind: str, last: bool) -> list[Delta] | None:
        if not end and not last:
            return None
        said, self._rest = self._rest[:end], "" if last else self._rest[end:]
        return [Delta(reasoning=said) if kind == "reasoning" else Delta(content=said)]


def _decided(text: str, tag: str) -> int:
    """Say how much of a text cannot belong to a tag that may begin at its end, nor to the space before it."""
    size = next((size for size in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:size])), 0)
    return len(text[: len(text) - size].rstrip())
