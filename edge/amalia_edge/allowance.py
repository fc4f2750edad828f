"""What one rendering of a chat template may still use: steps, characters, and processor time."""

import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import NoReturn, cast

from amalia_edge.errors import ModelUnsupported

STEPS, CHARACTERS = 500_000, 1 << 20  # what every rendering has, and
PER_CHARACTER = 32  # how much more for each character it is given: templates cut, join and copy
SECONDS = 2.0  # of this thread's processor time: a busy machine makes no template guilty
BITS = 4096  # of the largest whole number
VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))


class Refused(ModelUnsupported):
    """A template that wanted more than it may have."""


class Allowance:
    """Counts down; whoever is about to do or make something asks first."""

    def __init__(self, given: object) -> None:
        steps, characters = _measure(given, 1 << 26)
        self._steps, self._characters = STEPS + PER_CHARACTER * steps, CHARACTERS + PER_CHARACTER * characters
        self._until = time.thread_time() + SECONDS

    def spend(self, steps: int = 1, characters: int = 0) -> None:
        self._steps -= steps
        self._characters -= characters
        if self._steps < 0:
            refuse("takes too many steps")
        if self._characters < 0:
            refuse("makes too much text")
        if time.thread_time() > self._until:
            refuse(f"takes more than {SECONDS:g} seconds")

    def made(self, value: object) -> None:
        """Account for a value that came to be: no list may spell out to more text than there is left to make."""
        if isinstance(value, str):
            self.spend(1, len(value))
        elif isinstance(value, int) and value.bit_length() > BITS:
            refuse(f"reckons with numbers of more than {BITS} bits")
        else:
            self.spend(self.size(value)[0])

    def size(self, value: object) -> tuple[int, int]:
        """Measure a value in parts and characters; refuse one that could never be written."""
        parts, characters = _measure(value, self._steps)
        if characters > self._characters:
            refuse("makes too much text")
        return parts, characters


ALLOWANCE: ContextVar[Allowance] = ContextVar("allowance")


def spend(steps: int = 1, characters: int = 0) -> None:
    ALLOWANCE.get().spend(steps, characters)


def made(value: object) -> object:
    """Account for a value, and pass it on."""
    ALLOWANCE.get().made(value)
    return value


def each(values: Iterable[object]) -> Iterator[object]:
    """Give each value, a step each."""
    step = ALLOWANCE.get().spend
    for value in values:
        step()
        yield value


def refuse(found: str) -> NoReturn:
    raise Refused("chat template", found, "give --chat-template NAME, or use amalia run --raw")


def _measure(value: object, most: int) -> tuple[int, int]:
    """Count a value's parts, those that it holds twice twice, and their characters; stop at the most."""
    parts = characters = 0
    waiting = [value]
    while waiting:
        part = waiting.pop()
        parts += 1
        if isinstance(part, str):
            characters += len(part)
        elif isinstance(part, dict):
            waiting += part.keys()
            waiting += part.values()
        elif isinstance(part, range):
            parts += len(part)
            characters += 8 * len(part)
        elif isinstance(part, (list, tuple)) or type(part) in VIEWS:
            waiting.extend(cast(Iterable[object], part))
        else:
            characters += part.bit_length() // 3 + 8 if isinstance(part, int) else 32
        if parts > most:
            refuse("takes too many steps")
    return parts, characters
