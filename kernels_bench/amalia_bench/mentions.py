"""Where a word is none of its text's own: quoted as a word («ônibus»), or part of a name (Antônio Carlos Jobim)."""

import re
from collections.abc import Callable

_QUOTED = re.compile(r"«([^«»]*)»|“([^“”]*)”|\"([^\"]*)\"|‘([^‘’]*)’")
_QUOTED_WORDS = 4
_CAPITAL = r"[A-ZÀ-Ý][\w’'-]*[a-zà-ÿ][\w’'-]*"
_NAME = re.compile(rf"(?<![\w-]){_CAPITAL}(?:\s+(?:(?:d[aeo]s?|del|von|van)\s+)?{_CAPITAL})*")
_OPENING = re.compile(r"(?:^|[:–—«“\"(]\s*|[.!?…]\s+)$")


def quoted(sentence: str, start: int, end: int) -> bool:
    """Say whether the find stands in quotes as a word or a title, not as something said."""
    for quote in _QUOTED.finditer(sentence):
        if quote.start() < start and end < quote.end():
            inside = next(group for group in quote.groups() if group is not None)
            return len(inside.split()) <= _QUOTED_WORDS and not re.search(r"[.!?…,]", inside)
    return False


def said(sentence: str, start: int) -> bool:
    """Say whether the quote around the find may be speech: it opens the sentence or follows a colon."""
    return bool(re.search(r"(?:^|:)\s*[«“\"‘][^«»“”\"]*$", sentence[:start]))


def named(sentence: str, start: int, end: int, ordinary: Callable[[str], bool]) -> bool:
    """Say whether the find is only part of a name."""
    for name in _NAME.finditer(sentence):
        first, words = name.start(), name.group().split()
        if not (first < end and start < name.end()):
            continue
        if len(words) > 1 and ordinary(words[0]) and _OPENING.search(sentence[:first]):
            first, words = sentence.index(words[1], first + len(words[0])), words[1:]
        if start < first:
            return False
        return len(words) > 1 and (start, end) != (first, name.end())
    return False


def capital(sentence: str, start: int) -> bool:
    """Say whether the find has a capital without beginning a sentence or a quote."""
    return bool(re.match(rf"{_CAPITAL}", sentence[start:])) and not _OPENING.search(sentence[:start])
