"""The marker counter: Brazilian markers in a Portuguese text, by the rules of portuguese/markers.toml.

The rules file says what a rule may hold; this file reads it, applies it and settles overlaps. Sentences are looked at
one by one: what makes a word European, or a pronoun rightly placed, stands in the same sentence.
"""

import re
import sys
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from amalia_bench import mentions
from amalia_bench.clauses import Clauses
from amalia_edge.errors import BenchError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RULES = Path(__file__).parent / "portuguese" / "markers.toml"
KINDS = ("lexicon", "clitics", "progressive", "object-pronouns", "treatment", "contractions", "spelling")
_KEYS = {"kind", "about", "find", "only", "unless", "near", "not_near", "cased", "clause", "names"}
_CLAUSES = ("", "main", "subject")
_WORDS = ("lexicon", "spelling")  # kinds that are a matter of single words
_SENTENCE_END = re.compile(r"(?<=[.!?…])[»”\"')]*\s+|\s*\n+\s*")
_REACH = 400  # letters: what a sentence without an end, as a looping model writes, may tell about a find
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Marker:
    """One Brazilian marker: `text[start:end]`, and what kind it is."""

    start: int
    end: int
    text: str
    kind: str


@dataclass(frozen=True)
class Rule:
    """What to find, and in which sentences it is Brazilian."""

    kind: str
    find: tuple[tuple[str, re.Pattern[str]], ...]  # each wording as written, and compiled
    only: re.Pattern[str] | None = None  # phrases: one of them must lie over the find
    unless: re.Pattern[str] | None = None  # phrases: none of them may
    near: re.Pattern[str] | None = None  # beginnings of words: the sentence must have one
    not_near: re.Pattern[str] | None = None  # and none of these
    cased: bool = False
    names: bool = False  # the find is itself a name, and counts inside longer ones
    clause: str = (
        ""  # "main": nothing draws the pronoun before the verb; "subject": and only a subject stands before it
    )

    def holds(self, sentence: str, start: int, end: int) -> bool:
        """Say whether the find at `start` is Brazilian in this sentence."""
        if self.not_near and self.not_near.search(sentence):
            return False
        if self.near and not self.near.search(sentence):
            return False
        if self.unless and _lies_over(self.unless, sentence, start, end):
            return False
        return not self.only or _lies_over(self.only, sentence, start, end)


@dataclass
class Rules:
    """All rules; those whose find begins with a letter wait under their first two letters."""

    clauses: Clauses
    by_letters: dict[str, list[tuple[re.Pattern[str], Rule]]] = field(default_factory=lambda: defaultdict(list))
    anywhere: list[tuple[re.Pattern[str], Rule]] = field(default_factory=list)

    def add(self, rule: Rule) -> None:
        for wording, pattern in rule.find:
            if letters := _first_letters(wording):
                self.by_letters[letters].append((pattern, rule))
            else:
                self.anywhere.append((pattern, rule))

    def mentioned(self, rule: Rule, sentence: str, start: int, end: int) -> bool:
        """Say whether the find is a word spoken of or part of a name."""
        if mentions.quoted(sentence, start, end):
            return rule.kind in _WORDS or not mentions.said(sentence, start)
        if rule.names or rule.cased or rule.kind not in _WORDS:
            return False
        if rule.kind == "lexicon" and mentions.capital(sentence, start):
            return True
        return mentions.named(sentence, start, end, self.clauses.ordinary)

    def candidates(self, text: str, lowered: str) -> Iterator[tuple[int, int, Rule]]:
        """Give every find, whatever stands around it."""
        for word in _WORD.finditer(lowered):
            start = word.start()
            for pattern, rule in self.by_letters.get(lowered[start : start + 2], ()):
                if found := pattern.match(text if rule.cased else lowered, start):
                    yield start, found.end(), rule
        for pattern, rule in self.anywhere:
            for found in pattern.finditer(text if rule.cased else lowered):
                yield found.start(), found.end(), rule


def count(text: str) -> list[Marker]:
    """Find the Brazilian markers of a text, in order, none over another."""
    rules, lowered = _rules(), _lower(text)
    ends = [0, *(end.end() for end in _SENTENCE_END.finditer(text)), len(text)]
    found = []
    for start, end, rule in rules.candidates(text, lowered):
        place = bisect_right(ends, start)
        first, last = ends[place - 1], ends[place] if place < len(ends) else len(text)
        first, last = max(first, start - _REACH), min(last, end + _REACH)
        sentence = text[first:last]
        if end > last or not rule.holds(sentence, start - first, end - first):
            continue
        if rules.mentioned(rule, sentence, start - first, end - first):
            continue
        if not rule.clause or rules.clauses.plain(sentence, start - first, end - first, rule.clause):
            found.append(Marker(start, end, text[start:end], rule.kind))
    return _apart(found)


def _apart(markers: Iterable[Marker]) -> list[Marker]:
    """Keep the longest of markers that overlap, the first of equals."""
    kept: list[Marker] = []
    for marker in sorted(markers, key=lambda one: (one.start, -one.end)):
        if not kept or marker.start >= kept[-1].end:
            kept.append(marker)
        elif marker.end - marker.start > kept[-1].end - kept[-1].start:
            kept[-1] = marker
    return kept


def _lies_over(phrases: re.Pattern[str], sentence: str, start: int, end: int) -> bool:
    return any(found.start() < end and start < found.end() for found in phrases.finditer(sentence))


def _lower(text: str) -> str:
    """Lower letter by letter: a few letters would become two, and every place after them move."""
    lowered = text.lower()
    return lowered if len(lowered) == len(text) else "".join(c if len(c.lower()) > 1 else c.lower() for c in text)


@cache
def _rules() -> Rules:
    return read_rules(RULES.read_text("utf-8"), str(RULES))


def read_rules(toml: str, where: str) -> Rules:
    """Read a rules file, and name the rule that is wrong."""
    try:
        content: dict[str, Any] = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as problem:
        raise BenchError(where, f"is not TOML: {problem}", "quote patterns with single quotes") from None
    classes: dict[str, str] = {}
    for name, value in content.get("classes", {}).items():
        classes[name] = "(?:" + _named(value, classes, f"{where}, class {name}") + ")"
    clauses = content.get("clauses", {})
    if set(clauses) != set(Clauses.__annotations__):
        raise BenchError(where, f"clauses has {', '.join(clauses)}", f"wanted {', '.join(Clauses.__annotations__)}")
    rules = Rules(Clauses.of({name: _named(value, classes, where) for name, value in clauses.items()}))
    for number, entry in enumerate(content.get("rule", []), 1):
        rules.add(_rule(entry, classes, f"{where}, rule {number}"))
    return rules


def _rule(entry: dict[str, Any], classes: dict[str, str], where: str) -> Rule:
    strange = set(entry) - _KEYS
    if strange or entry.get("kind") not in KINDS or not entry.get("find"):
        found = f"key {min(strange)!r}" if strange else f"kind {entry.get('kind')!r}, find {entry.get('find')!r}"
        raise BenchError(where, found, f"keys are {', '.join(sorted(_KEYS))}; kinds are {', '.join(KINDS)}")
    if entry.get("clause", "") not in _CLAUSES:
        raise BenchError(where, f"clause {entry['clause']!r}", "clause is main or subject")

    def phrases(key: str, before: str, after: str) -> re.Pattern[str] | None:
        parts = [f"{before}(?:{_named(part, classes, where)}){after}" for part in entry.get(key, [])]
        return _compiled("|".join(parts), where, re.IGNORECASE) if parts else None

    finds = [_named(part, classes, where) for part in entry["find"]]
    return Rule(
        kind=entry["kind"],
        find=tuple((part, _compiled(rf"(?<![\w-])(?:{part})(?!\w)", where, 0)) for part in finds),
        only=phrases("only", r"(?<!\w)", r"(?!\w)"),
        unless=phrases("unless", r"(?<!\w)", r"(?!\w)"),
        near=phrases("near", r"(?<!\w)", ""),
        not_near=phrases("not_near", r"(?<!\w)", ""),
        cased=entry.get("cased", False),
        names=entry.get("names", False),
        clause=entry.get("clause", ""),
    )


def _first_letters(pattern: str) -> str:
    """Give the two letters every wording of this pattern begins with, or nothing."""
    flat = pattern
    while flat != (flat := re.sub(r"\((?:[^()\\]|\\.)*\)", "", flat)):
        pass
    letters = re.match(r"([^\W\d_]{2})(?![?*{])", pattern)
    return letters[1].lower() if letters and "|" not in flat else ""


def _named(pattern: str, classes: dict[str, str], where: str) -> str:
    """Put the classes in: `{gerund}` stands for the pattern of that name."""

    def put(name: re.Match[str]) -> str:
        if name[1] not in classes:
            raise BenchError(where, f"no class {name[1]!r}", f"classes are {', '.join(classes)}")
        return classes[name[1]]

    return re.sub(r"\{([a-z_]+)\}", put, pattern).replace(" ?", r"\s*").replace(" ", r"\s+")


def _compiled(pattern: str, where: str, flags: int) -> re.Pattern[str]:
    try:
        return re.compile(pattern, flags)
    except re.error as problem:
        raise BenchError(where, f"{problem} in {pattern!r}", "write the pattern as Python's re has it") from None
