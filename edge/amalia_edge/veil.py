"""Letters hidden while a template runs, so that what others wrote never spells a control token in its rendering.

Each letter a control token begins or ends with is replaced, wherever it stands in a text from outside, by a private
character that occurs nowhere else: one for one, so that lengths, ends and spaces stay as they are. So a token in the
rendering has its first and its last letter from the template; that its middle is not from outside either is seen to by
hiding the first letter of a text which as a whole lies within a token. Afterwards every letter is put back.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from amalia_edge.errors import UsageError

FREE = range(0xF0000, 0xFFFFE)  # Unicode's private plane
TAKEN = re.compile(  # as it is, and as a template spells it that writes Python's or ASCII's way
    "[\U000f0000-\U000ffffd]" r"|\\U000f[0-9a-f]{4}|\\udb[89ab][0-9a-f]\\ud[c-f][0-9a-f]{2}"
)
# What templates look up in messages, calls and schemas, and compare the values of `role` and `type` with.
KEYS = (
    "role", "content", "name", "id", "type", "function", "arguments", "tool_calls", "tool_call_id",
    "reasoning_content", "description", "parameters", "properties", "required", "items", "enum",
)  # fmt: skip
VALUES = (
    "system", "user", "assistant", "tool", "function", "object", "string", "integer", "number", "boolean", "array",
    "null",
)  # fmt: skip


class Veil:
    def __init__(self, tokens: Iterable[str], outside: Any, template: str) -> None:
        within = [token.strip() for token in tokens]
        taken = {*TAKEN.findall(template), *(letter for text in _texts(outside) for letter in TAKEN.findall(text))}
        self._free = (chr(code) for code in FREE if taken.isdisjoint(_spellings(chr(code))))
        self._hidden: dict[int, str] = {}
        self._edges = {ord(letter): self._sentinel(letter) for token in within for letter in (token[0], token[-1])}
        self._within = "\n".join(within).casefold()
        self._longest = max(map(len, within), default=0)
        self._template = template

    def hide(self, value: Any) -> Any:
        """Hide in a text, or in every text and name within a value."""
        if isinstance(value, str):
            return self._hide_text(value)
        if isinstance(value, dict):
            return dict(self._hide_entry(key, part) for key, part in value.items())
        return [self.hide(part) for part in value] if isinstance(value, list) else value

    def hide_switch(self, name: str, value: Any) -> Any:
        """Hide in the value of a template's switch; one that the template names stays as it is, to be compared with."""
        if not isinstance(value, str) or not any(quote + value + quote in self._template for quote in "'\""):
            return self.hide(value)
        if value.translate(self._edges) != value:
            raise UsageError("template variables", f"{name!r} could write a control token", "leave it out")
        return value

    def lift(self, text: str) -> str:
        """Put the letters back."""
        for letter, sentinel in self._hidden.items():
            for spelling in _spellings(sentinel):
                text = text.replace(spelling, chr(letter))
        return text

    def _hide_entry(self, key: str, part: Any) -> tuple[str, Any]:
        known = key in ("role", "type") and (part if isinstance(part, str) else "") in VALUES
        return key if key in KEYS else self._hide_text(key), part if known else self.hide(part)

    def _hide_text(self, text: str) -> str:
        inner = text.strip()
        hidden = text.translate(self._edges)
        if inner and len(inner) <= self._longest and inner.casefold() in self._within:
            start = len(text) - len(text.lstrip())
            return hidden[:start] + self._sentinel(inner[0]) + hidden[start + 1 :]
        return hidden

    def _sentinel(self, letter: str) -> str:
        code = ord(letter)
        if code not in self._hidden:
            sentinel = next(self._free, None)
            if sentinel is None:
                raise UsageError("messages", "every private character of Unicode is in them", "leave some out")
            self._hidden[code] = sentinel
        return self._hidden[code]


def _spellings(letter: str) -> tuple[str, str, str]:
    return letter, ascii(letter)[1:-1], json.dumps(letter)[1:-1]


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _texts(part)
