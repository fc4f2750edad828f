"""What a JSON schema from outside may hold: bounded, of known keywords, pointing at nothing but itself.

llguidance compiles what passes here. It ignores keywords it has never heard of, reads options and further grammars from
some, allocates by the size of a `multipleOf`, and follows references by recursion: none of that is left to a stranger.
"""

import difflib
import json
import math
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from amalia_edge.errors import UsageError

LARGEST = 64 * 1024  # bytes of a schema
DEEPEST = 64  # levels of its JSON
MOST_SCHEMAS = 500  # inside one another or referred to: 500 in a chain take llguidance half of a stack of 8 MiB
MOST_KEY_PATTERNS = 32  # in patternProperties: each is held against each
MOST_REMAINDERS = 10_000  # that a `multipleOf` can leave, times ten for each decimal: each is a state of the lexer
LARGEST_NUMBER = 2**53  # llguidance computes in doubles

ONE = {"items", "additionalProperties"}  # keywords that hold a schema
LIST = {"anyOf", "allOf", "oneOf", "prefixItems"}  # … a list of schemas
NAMED = {"properties", "patternProperties", "$defs", "definitions"}  # … schemas by name
BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
COUNTS = {"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"}
OTHERS = {"$ref", "type", "const", "enum", "required", "pattern", "format"}
NOTES = {
    "$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
}  # fmt: skip
KEYWORDS = ONE | LIST | NAMED | BOUNDS | COUNTS | OTHERS | NOTES
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")


def checked(schema: dict[str, Any] | str) -> str:
    """Give a schema as one JSON text, its properties in their order; refuse what is beyond the rules."""
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema, allow_nan=False)
        found = len(text.encode())
        if found > LARGEST:
            raise UsageError("schema", f"{found} bytes, at most {LARGEST} are taken", "leave out what is not needed")
        value = json.loads(text)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()  # half a surrogate pair is no text
    except RecursionError:
        raise _too_deep() from None
    except (TypeError, ValueError) as problem:
        raise UsageError("schema", f"not JSON ({problem})", "write it as JSON, in UTF-8") from None
    if not isinstance(value, dict):
        raise UsageError("schema", _kind(value), 'give an object, as {"type": "object"}')
    if _levels(value) > DEEPEST:
        raise _too_deep()
    _Survey(value)
    return text


def _too_deep() -> UsageError:
    return UsageError("schema", f"more than {DEEPEST} levels", "name its parts under $defs, and refer to them")


def _levels(value: Any) -> int:
    """Count how deep a JSON value is nested; no deeper than one beyond what may be."""
    levels, layer = 0, [value]
    while layer and levels <= DEEPEST:
        inner = [held.values() if isinstance(held, dict) else held for held in layer if isinstance(held, (dict, list))]
        levels, layer = levels + 1, [part for held in inner for part in held]
    return levels


class _Survey:
    """One walk over a schema: the rules that hold everywhere, then those that count over the whole."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._places: set[str] = set()  # JSON pointers of the schemas seen
        self._references: list[tuple[str, str]] = []
        self._key_patterns = 0
        self._multiples: list[Decimal] = []
        self._schema(root, "")
        self._check_references()
        self._check_multiples()
        if self._key_patterns > MOST_KEY_PATTERNS:
            found = f"{self._key_patterns} patternProperties, at most {MOST_KEY_PATTERNS} are taken"
            raise UsageError("schema", found, "use additionalProperties")

    def _schema(self, node: Any, place: str) -> None:
        where = _where(place)
        self._places.add(place)
        if len(self._places) > MOST_SCHEMAS:
            raise UsageError(where, f"more than {MOST_SCHEMAS} schemas in one", "ask for less in one answer")
        if isinstance(node, bool):
            return
        if not isinstance(node, dict):
            raise UsageError(where, f"{_kind(node)}, wanted a schema", 'as {"type": "string"}')
        for keyword, value in node.items():
            if keyword not in KEYWORDS:
                near = difflib.get_close_matches(keyword, KEYWORDS, 1, 0.8)
                raise UsageError(where, f"the keyword {keyword[:40]!r} is not supported", f"leave it out{_meant(near)}")
            self._keyword(keyword, value, place)
        self._check_object(node, where)

    def _keyword(self, keyword: str, value: Any, place: str) -> None:
        inner, where = f"{place}/{keyword}", _where(f"{place}/{keyword}")
        if keyword in ONE:
            self._schema(value, inner)
        elif keyword in LIST:
            for index, part in enumerate(_of(list, value, where)):
                self._schema(part, f"{inner}/{index}")
        elif keyword in NAMED:
            for name, part in _of(dict, value, where).items():
                self._schema(part, f"{inner}/{_escaped(name)}")
            self._key_patterns += len(value) if keyword == "patternProperties" else 0
        elif keyword in BOUNDS | COUNTS:
            self._number(keyword, value, where)
        elif keyword == "$id" and place:
            raise UsageError(where, "a schema with a name of its own inside another", "refer to it as #/$defs/name")
        elif keyword == "$ref":
            self._references.append((_of(str, value, where), where))
        elif keyword == "format" and value not in FORMATS:
            raise UsageError(
                where, f"{str(value)[:40]!r} is not supported", f"use one of {', '.join(FORMATS)}, or a pattern"
            )
        elif keyword in ("const", "enum"):
            _check_values(value, where)

    def _number(self, keyword: str, value: Any, where: str) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(where, f"{_kind(value)}, wanted a number", "correct it")
        _check_values(value, where)
        if keyword == "multipleOf":
            if value <= 0:
                raise UsageError(where, f"{value} is not above 0", "as 0.01")
            self._multiples.append(Decimal(str(value)))

    def _check_references(self) -> None:
        for reference, where in self._references:
            if not reference.startswith("#"):
                raise UsageError(
                    where, f"{reference[:80]!r} is not in this schema", "copy it under $defs; nothing is fetched"
                )
            if unquote(reference[1:]) not in self._places:
                raise UsageError(where, f"no schema at {reference[:80]!r}", "write it as #/$defs/name")

    def _check_multiples(self) -> None:
        """Bound the common multiple, in units of the smallest decimal: what several on one value amount to."""
        decimals = max((-int(multiple.as_tuple().exponent) for multiple in self._multiples), default=0)
        units = [int(multiple.scaleb(max(decimals, 0))) for multiple in self._multiples]
        if math.lcm(*units) > MOST_REMAINDERS:
            found = f"the common multiple of all is beyond {MOST_REMAINDERS} units of their smallest decimal"
            raise UsageError("schema: multipleOf", found, "leave it out, and round afterwards")

    def _check_object(self, node: dict[str, Any], where: str) -> None:
        required = _of(list, node.get("required", []), f"{where}/required")
        if (
            node.get("minProperties", 0) > len(required) + 1
        ):  # a name that is not listed may come twice, and counts once
            found = f"{node['minProperties']}, but only those required are sure to differ"
            raise UsageError(f"{where}/minProperties", found, "list the names under required")


def _of(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, kind):
        raise UsageError(where, f"{_kind(value)}, wanted {_kind(kind())}", "correct it")
    return value


def _meant(near: list[str]) -> str:
    return f", or write {near[0]}" if near else ""


def _where(place: str) -> str:
    return f"schema{place}" if len(place) <= 100 else f"schema…{place[-100:]}"


def _kind(value: Any) -> str:
    """Name a JSON value's kind."""
    kinds = {
        dict: "an object",
        list: "an array",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return kinds.get(type(value), "null")


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _check_values(value: Any, where: str) -> None:
    """Refuse numbers that a double cannot hold exactly, in a value as deep as a schema may be."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            _check_values(part, where)
    elif isinstance(value, (int, float)) and abs(value) > LARGEST_NUMBER:
        raise UsageError(where, "a number beyond 2^53", "leave it out, or write it as a string")
