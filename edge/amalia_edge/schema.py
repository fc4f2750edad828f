"""What an answer may say, by JSON schema or regular expression: llguidance makes of it a mask over the vocabulary.

A grammar is checked where it is made, in whatever process that is; the engine opens it, once for each answer. JSON comes
on one line, as `{"a": 1, "b": [2, 3]}` or without the blanks, its properties in the schema's order, so that a model with
nothing to say cannot go on writing blanks. What it cannot help is a string or a list without bounds: `maxLength` does.
"""

import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amalia_edge import schema_rules
from amalia_edge.errors import DecodeError, ModelUnsupported, UsageError
from amalia_edge.vocab import Vocabulary

LONGEST_PATTERN = 4096  # characters
MOST_COMPILED = 16  # grammars kept for each vocabulary
FUEL = 100_000  # llguidance's own unit: what compiling may cost, and what one token may; a quarter of a second at most
WRITING = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "json_allowed_escapes": 'nrbtf\\"',  # no \u00e9 for é, which could also spell a name twice, or half a surrogate
}
TOO_MUCH = "too much to compile"
FAULTS = {  # what llguidance says of what needs other words
    "NoExtension": ("nothing satisfies it", "look for a reference that leads back to itself"),
    "oneOf": ("alternatives of oneOf that may both be true", "write anyOf, or a const in each that tells them apart"),
    "too big": (TOO_MUCH, "ask for less, or with simpler patterns"),
    "too large": (TOO_MUCH, "ask for less, or with simpler patterns"),
    "fuel": (TOO_MUCH, "ask for less, or with simpler patterns"),
    "too many expressions": (TOO_MUCH, "repeat less inside a repetition"),
    "panic": ("llguidance gave up inside", "make the grammar simpler"),
}


@dataclass(frozen=True, init=False)
class JsonSchema:
    """JSON that a schema accepts; unknown keywords are refused by name."""

    text: str

    def __init__(self, schema: dict[str, Any] | str) -> None:
        object.__setattr__(self, "text", schema_rules.checked(schema))
        _check(_from_schema(self.text), "schema")

    def open(self, vocabulary: Vocabulary) -> "Mask":
        return Mask(_from_schema(self.text), vocabulary)


@dataclass(frozen=True)
class AnyJson:
    """Any JSON object."""

    def open(self, vocabulary: Vocabulary) -> "Mask":
        return Mask(_from_schema('{"type": "object"}'), vocabulary)


@dataclass(frozen=True)
class Regex:
    """Text that a regular expression matches from its beginning to its end, in Rust's syntax: no looking around."""

    pattern: str

    def __post_init__(self) -> None:
        if not 0 < len(self.pattern) <= LONGEST_PATTERN:
            found = f"{len(self.pattern)} characters, wanted 1 to {LONGEST_PATTERN}"
            raise UsageError("pattern", found, "give a shorter one" if self.pattern else "give one")
        trailing = len(self.pattern) - len(self.pattern.rstrip("\\"))
        if trailing % 2:
            raise UsageError("pattern", "ends inside an escape", "write the backslash twice")
        try:
            self.pattern.encode()
        except UnicodeEncodeError:
            raise UsageError("pattern", "half a surrogate pair in it", "give it in UTF-8") from None
        _check(_from_pattern(self.pattern), "pattern")

    def open(self, vocabulary: Vocabulary) -> "Mask":
        return Mask(_from_pattern(self.pattern), vocabulary)


class Mask:
    """One answer under a grammar, token by token; only end tokens are left once it is complete."""

    def __init__(self, grammar: str, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary  # which the matcher asks to tokenize, and does not keep alive
        self._matcher = _compiled(grammar, vocabulary)
        self._bits = np.zeros((vocabulary.size + 31) // 32, np.uint32)  # one for each token
        self._address = self._bits.ctypes.data

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Set the logits of all tokens that may not come next to −∞, in place."""
        self._matcher.unsafe_compute_mask_ptr(self._address, self._bits.nbytes)
        if self._matcher.is_error() or not self._bits.any():
            raise DecodeError("grammar", *_fault(self._matcher))
        forbidden = np.unpackbits(~self._bits.view(np.uint8), bitorder="little", count=logits.size)
        np.copyto(logits, np.float32(-np.inf), where=forbidden.view(np.bool_))

    def accept(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            raise DecodeError(f"grammar: token {token}", *_fault(self._matcher))


class _Spelling:
    """What llguidance asks of a tokenizer: the bytes of each token, and the ids of text that must come.

    Those ids must spell exactly that text, or the masks after it are wrong.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids = ()

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = weakref.ref(vocabulary)  # the other way round it is the key of what is kept
        self.ends = [token for token in range(vocabulary.size) if vocabulary.ends(token)]
        if not self.ends:
            raise ModelUnsupported("vocabulary", "no token ends an answer", "use a model with one, or no grammar")
        self.eos_token_id = self.ends[0]
        self.tokens = [vocabulary.bytes_of(token) for token in range(vocabulary.size)]
        for token in (*self.ends, *vocabulary.control.values(), *vocabulary.suppressed):
            self.tokens[token] = b""  # which no text asks for
        self._longest = max(map(len, self.tokens))

    def __call__(self, text: str) -> list[int]:
        """Give the ids of a text as the model is used to read it, without the space some vocabularies put before it."""
        vocabulary, raw = self._vocabulary(), text.encode()
        assert vocabulary is not None
        for before in ("", "\n"):
            lead, ids = vocabulary.encode(before), vocabulary.encode(before + text)
            rest = ids[len(lead) :]
            if ids[: len(lead)] == lead and b"".join(self.tokens[token] for token in rest) == raw:
                return rest
        return self._greedy(raw)

    def _greedy(self, raw: bytes) -> list[int]:
        pieces = {piece: token for token, piece in enumerate(self.tokens)}
        ids: list[int] = []
        while raw:
            piece = next(raw[:size] for size in range(self._longest, 0, -1) if raw[:size] in pieces)
            ids.append(pieces[piece])
            raw = raw[len(piece) :]
        return ids


_kept: "weakref.WeakKeyDictionary[Vocabulary, tuple[Any, dict[str, Any]]]" = weakref.WeakKeyDictionary()


def _compiled(grammar: str, vocabulary: Vocabulary) -> Any:
    """Give a fresh matcher: a copy of one compiled before, where there is one."""
    if vocabulary not in _kept:
        spelling = _Spelling(vocabulary)
        _kept[vocabulary] = (_guidance().LLTokenizer(spelling, eos_token=spelling.ends), {})
    tokenizer, known = _kept[vocabulary]
    matcher = known.pop(grammar, None) or _matcher(tokenizer, grammar)
    if matcher.is_error():
        raise UsageError("grammar", *_fault(matcher))
    known[grammar] = matcher  # the last used is the last
    if len(known) > MOST_COMPILED:
        del known[next(iter(known))]
    return matcher.deep_copy()


def _check(grammar: str, where: str) -> None:
    """Compile a grammar and go one byte into it: most of what is too much shows here, and not in an answer."""
    matcher = _matcher(_bytes(), grammar)
    if not matcher.is_error():
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        matcher.consume_token(int(bits.argmax()))
    if matcher.is_error():
        raise UsageError(where, *_fault(matcher))


def _matcher(tokenizer: Any, grammar: str) -> Any:
    limits = _guidance().LLParserLimits(
        initial_lexer_fuel=FUEL,
        step_lexer_fuel=FUEL,
        max_grammar_size=FUEL,
        max_lexer_states=FUEL // 2,
        verbose_errors=False,
    )
    return _guidance().LLMatcher(tokenizer, grammar, log_level=0, limits=limits)


def _from_schema(text: str) -> str:
    return str(_guidance().LLMatcher.grammar_from_json_schema(text, overrides=WRITING))


def _from_pattern(pattern: str) -> str:
    return str(_guidance().LLMatcher.grammar_from_regex(pattern))


@lru_cache(maxsize=1)
def _bytes() -> Any:
    return _guidance().LLTokenizer("byte")


def _guidance() -> Any:
    try:
        import llguidance
    except ImportError:
        advice = "pip install 'amalia-edge[schema]'"
        raise UsageError("grammar", "the package llguidance is not installed", advice) from None
    return llguidance


def _fault(matcher: Any) -> tuple[str, str]:
    """Say what llguidance found, and what would do, in our words where its own speak of its insides."""
    found = str(matcher.get_error())
    for part, ours in FAULTS.items():
        if part in found:
            return ours
    lines = [line.strip() for line in found.splitlines()]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]  # of a regex's several lines
    return (told or lines or ["no token can follow"])[0][:200], "correct it"
