"""An answer under a grammar is what the grammar says, and a grammar from a stranger is bounded before it costs anything."""

import gc
import json
import pickle
import re
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from amalia_edge import schema as schema_file
from amalia_edge.calls import tool_schema
from amalia_edge.errors import DecodeError, UsageError
from amalia_edge.model import LoadConfig, Model
from amalia_edge.sampler import Grammar, SamplingConfig
from amalia_edge.schema import AnyJson, JsonSchema, Regex
from amalia_edge.vocab import Vocabulary

from .constrained_answers import SCHEMAS, judge, of

END, END_OF_TURN, E_ACUTE = 2, 4, (5 + 0xC3, 5 + 0xA9)  # token ids in the tiny vocabulary
WORDS = of({"a": {"type": "string", "maxLength": 20}})
TWO = {"type": "array", "items": {"type": "null"}}


def allowed(constraint: Any, vocabulary: Vocabulary) -> set[int]:
    logits = np.zeros(vocabulary.size, np.float32)
    constraint.mask(logits)
    return set(np.flatnonzero(np.isfinite(logits)).tolist())


def random_answer(grammar: Grammar, vocabulary: Vocabulary, seed: int, limit: int = 500) -> tuple[str, str]:
    """Take any token the mask allows, each as likely as the next."""
    random, constraint, written = np.random.default_rng(seed), grammar.open(vocabulary), b""
    for _ in range(limit):
        logits = random.standard_normal(vocabulary.size).astype(np.float32)
        constraint.mask(logits)
        token = int(logits.argmax())
        constraint.accept(token)
        if vocabulary.ends(token):
            return written.decode(), "stop"
        written += vocabulary.bytes_of(token)
    return written.decode("utf-8", "replace"), "length"


def may_say(grammar: Grammar, vocabulary: Vocabulary, text: str) -> bool:
    """Say whether an answer may be this text, spelt byte by byte as far as that is allowed, and then end."""
    constraint = grammar.open(vocabulary)
    raw = text.encode()
    while raw:
        fits = [
            token for token in allowed(constraint, vocabulary) if raw.startswith(vocabulary.bytes_of(token) or b"\0")
        ]
        if not fits:
            return False
        token = max(fits, key=lambda token: len(vocabulary.bytes_of(token)))
        constraint.accept(token)
        raw = raw[len(vocabulary.bytes_of(token)) :]
    return END_OF_TURN in allowed(constraint, vocabulary)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema, ensure_ascii=False)[:50])
def test_random_answers_are_valid_for_jsonschema(model: Model, schema: dict[str, Any]) -> None:
    for seed in range(4):
        text, finish = random_answer(JsonSchema(schema), model.vocabulary, seed)
        assert judge(schema, text, finish) in ("valid", "length"), text


@pytest.mark.parametrize(("schema", "values"), [
    ({"enum": ["sim", "não", 3]}, ["sim", "não", "talvez", 3, 4, True]),
    ({"type": "integer", "minimum": -5, "maximum": 120}, [-6, -5, 0, 7, 120, 121, 1.5, "7"]),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 2.5}, [0, 0.01, 2.5, 2.51, -1, 1]),
    ({"type": "integer", "multipleOf": 3}, [0, 3, 4, 9, -6, -7]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ["é", "éa", "éão", "éãoo", ""]),
    ({"type": "string", "pattern": "^[a-zç]+$"}, ["maçã", "maça", "", "Maça"]),
    ({"type": "string", "pattern": "mar"}, ["o mar salgado", "terra", "mar"]),
    ({"type": "array", "items": {"type": "array", "items": {"type": "null"}}, "maxItems": 2}, [[], [[]], [[None], []], [[], [], []], [1]]),
    (of({"a": {"type": "null"}}), [{"a": None}, {}, {"a": None, "b": 1}, {"a": 1}]),
    ({"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "boolean"}},
     [{}, {"a": None}, {"b": True}, {"a": None, "b": True}, {"a": True}, {"b": None}]),
    ({"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 1}]}, [None, "a", "ab", 1]),
    ({"$ref": "#/$defs/d", "$defs": {"d": {"type": "array", "items": {"$ref": "#/$defs/d"}}}}, [[], [[[]], []], [1]]),
])  # fmt: skip
def test_what_may_be_said_is_what_jsonschema_accepts(model: Model, schema: dict[str, Any], values: list[Any]) -> None:
    said = [may_say(JsonSchema(schema), model.vocabulary, json.dumps(value, ensure_ascii=False)) for value in values]
    assert said == [Draft202012Validator(schema).is_valid(value) for value in values]


@pytest.mark.parametrize("pattern", [
    r"[0-9]{4}-[0-9]{3}", "sim|não", "(Olá|Bom dia), [a-zãé]{1,9}[.!]", "^a+b?$", "(ab){2,3}", r"\d{1,3}(\.\d{3})*,\d{2}", "a/b",
    "[^é]{3}",
])  # fmt: skip
def test_random_answers_match_the_whole_pattern(model: Model, pattern: str) -> None:
    for seed in range(5):
        text, finish = random_answer(Regex(pattern), model.vocabulary, seed)
        assert finish == "length" or re.fullmatch(pattern, text), text


def test_a_slash_in_a_pattern_ends_no_grammar(model: Model) -> None:
    pattern = 'a/ "b"\nstart: /c'
    assert may_say(Regex(pattern), model.vocabulary, pattern)
    assert not may_say(Regex(pattern), model.vocabulary, "c")


def test_any_json_is_an_object(model: Model) -> None:
    for text, wanted in {'{"a": [1, {"b": null}], "ç": "é"}': True, "{}": True, "[1]": False, '"a"': False}.items():
        assert may_say(AnyJson(), model.vocabulary, text) is wanted


def test_properties_come_in_the_order_of_the_schema(model: Model) -> None:
    grammar = JsonSchema(of({"z": {"type": "null"}, "a": {"type": "null"}}))
    assert may_say(grammar, model.vocabulary, '{"z":null,"a":null}')
    assert not may_say(grammar, model.vocabulary, '{"a":null,"z":null}')


@pytest.mark.parametrize(("text", "wanted"), [
    ('{"a":""}', True), ('{"a": ""}', True), ('{"a":  ""}', False), ('{ "a":""}', False), ('{"a":\n""}', False),
    ('{"a":""} ', False), (' {"a":""}', False), ("[null,null]", True), ("[null, null]", True), ("[null,  null]", False),
    ("[null ,null]", False),
])  # fmt: skip
def test_one_blank_may_follow_a_colon_or_a_comma_and_no_more(model: Model, text: str, wanted: bool) -> None:
    assert may_say(JsonSchema({"anyOf": [WORDS, TWO]}), model.vocabulary, text) is wanted


def test_no_name_comes_twice_by_an_escape(model: Model) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": True}
    assert not may_say(JsonSchema(schema), model.vocabulary, '{"a":null,"\\u0061":1}')
    assert not may_say(JsonSchema(schema), model.vocabulary, '{"a":null,"a":1}')


def test_accents_are_spelt_by_byte_tokens_and_no_answer_ends_inside_one(model: Model) -> None:
    constraint = Regex("é|ê").open(model.vocabulary)
    assert E_ACUTE[0] in allowed(constraint, model.vocabulary)
    constraint.accept(E_ACUTE[0])
    assert allowed(constraint, model.vocabulary) == {E_ACUTE[1], E_ACUTE[1] + 1}
    constraint.accept(E_ACUTE[1])
    assert allowed(constraint, model.vocabulary) == {END, END_OF_TURN}


def test_only_end_tokens_follow_a_complete_answer_and_no_control_token_comes_before(model: Model) -> None:
    vocabulary, constraint = model.vocabulary, JsonSchema(WORDS).open(model.vocabulary)
    for token in vocabulary.encode('{"a": "mar"}'):
        assert not allowed(constraint, vocabulary) & set(vocabulary.control.values())
        constraint.accept(token)
    assert allowed(constraint, vocabulary) == {END, END_OF_TURN}


def test_two_answers_of_one_grammar_do_not_meet(model: Model) -> None:
    grammar = Regex("ab")
    first, second = grammar.open(model.vocabulary), grammar.open(model.vocabulary)
    (a,) = model.vocabulary.encode("a")
    first.accept(a)
    assert a in allowed(second, model.vocabulary)
    assert a not in allowed(first, model.vocabulary)


def test_a_token_that_does_not_fit_is_an_error(model: Model) -> None:
    constraint = Regex("a").open(model.vocabulary)
    with pytest.raises(DecodeError, match="token 4"):
        constraint.accept(END_OF_TURN)
    with pytest.raises(DecodeError):
        constraint.mask(np.zeros(model.vocabulary.size, np.float32))


def answer(model: Model, sampling: SamplingConfig) -> tuple[str, str | None]:
    pieces = list(model.complete(model.prompt("o mar"), sampling))
    return "".join(piece.text for piece in pieces), pieces[-1].finish


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_engine_ends_a_complete_answer_by_itself(model: Model, temperature: float) -> None:
    text, finish = answer(model, SamplingConfig(temperature=temperature, seed=1, grammar=JsonSchema(WORDS), limit=200))
    assert judge(WORDS, text, finish) == "valid"


def test_an_answer_cut_by_the_limit_says_length(model: Model) -> None:
    text, finish = answer(model, SamplingConfig(temperature=1, seed=1, grammar=JsonSchema(WORDS), limit=5))
    assert finish == "length"
    assert '{"a": ""}'.startswith(text[:5])


def test_a_pattern_that_is_too_much_later_on_fails_its_own_answer_only(model: Model) -> None:
    grammar = JsonSchema(of({"a": {"type": "string", "pattern": "^(a{1000}){1000}$"}}))
    with pytest.raises(DecodeError, match="too much to compile"):
        answer(model, SamplingConfig(grammar=grammar, limit=50))
    assert answer(model, SamplingConfig(grammar=Regex("ab"), limit=50)) == ("ab", "stop")


DEEP = json.loads('{"items":' * 70 + "{}" + "}" * 70)
CYCLE = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
LOOP: dict[str, Any] = {}
LOOP["items"] = LOOP


def chain(length: int) -> dict[str, Any]:
    """Give a schema that leads through so many others."""
    links = {f"d{index}": {"allOf": [{"$ref": f"#/$defs/d{index + 1}"}]} for index in range(length // 2)}
    return {"$ref": "#/$defs/d0", "$defs": links | {f"d{length // 2}": {"type": "null"}}}


@pytest.mark.parametrize(("schema", "said"), [
    ("{", "schema: not JSON"),
    ("[]", "schema: an array"),
    ('{"minimum": NaN}', "schema: not JSON"),
    ({"type": object}, "schema: not JSON"),
    (LOOP, "schema: not JSON"),
    ({"title": "\ud800"}, "schema: not JSON"),
    ("[" * 60_000, "schema: more than 64 levels"),
    (DEEP, "schema: more than 64 levels"),
    ("x" * 10_000_000, "10000000 bytes"),
    (CYCLE, "schema: nothing satisfies it"),
    ({"allOf": [{"$ref": "#"}]}, "schema: nothing satisfies it"),
    ({"$ref": "https://example.org/a.json"}, r"schema/\$ref: .*nothing is fetched"),
    ({"$ref": "#/$defs/a"}, "no schema at"),
    ({"$ref": "#/default", "default": {"multipleOf": 2**31}}, "no schema at"),
    (chain(1000), "more than 500 schemas"),
    ({"type": "integer", "multipleOf": 2**31}, "schema: multipleOf"),
    ({"allOf": [{"multipleOf": 101}, {"multipleOf": 997}]}, "schema: multipleOf"),
    ({"multipleOf": 0}, "schema/multipleOf: 0 is not above 0"),
    ({"maximum": True}, "schema/maximum: a boolean"),
    ({"maximum": 2**60}, "schema/maximum: a number beyond"),
    ({"maximum": 10**400}, "schema/maximum: a number beyond"),
    ({"const": {"a": [2**60]}}, "schema/const: a number beyond"),
    ({"properties": {"a": {"uniqueItems": True}}}, "schema/properties/a: the keyword 'uniqueItems' is not supported"),
    ({"x-guidance": {"lenient": True}}, "'x-guidance' is not supported"),
    ({"type": "string", "minLenght": 3}, "or write minLength"),
    ({"format": "unknown"}, "schema/format: 'unknown'"),
    ({"type": "texto"}, "Invalid type: texto"),
    ({"items": [{}]}, "schema/items: an array, wanted a schema"),
    ({"anyOf": {}}, "schema/anyOf: an object, wanted an array"),
    ({"enum": []}, "schema: Unsatisfiable"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "schema: Unsatisfiable"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf that may both be true"),
    ({"minProperties": 3, "required": ["a"]}, "schema/minProperties: 3"),
    ({"patternProperties": {f"^{number}": {} for number in range(40)}}, "40 patternProperties"),
    ({"allOf": [{"anyOf": [{"type": "string", "pattern": f"{row}{column}"} for column in range(14)]} for row in range(3)]}, "too much"),
    ({"$defs": {"a": {"$id": "b"}}}, r"schema/\$defs/a/\$id"),
    ({"pattern": "(?=a)"}, "look-around"),
], ids=lambda value: str(value)[:40])  # fmt: skip
def test_a_schema_that_will_not_do_is_refused_where_it_is_wrong(schema: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        JsonSchema(schema)


@pytest.mark.parametrize(("pattern", "said"), [
    ("", "0 characters"), ("a" * 4097, "4097 characters"), ("a\\", "inside an escape"), ("(", "unclosed group"),
    ("(a)\\1", "backreferences"), (r"\bmar\b", "lookarounds"), ("(a{1000}){1000}", "too much to compile"),
    ("a?" * 300 + "a" * 300, "too much to compile"), ("(" * 2000 + "a" + ")" * 2000, "pattern"), ("\ud800", "surrogate"),
    (r"(?-u:\xff)", "UTF-8"),
])  # fmt: skip
def test_a_pattern_that_will_not_do_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Regex(pattern)


def test_references_in_a_chain_as_long_as_may_be_are_followed(model: Model) -> None:
    assert may_say(JsonSchema(chain(490)), model.vocabulary, "null")


def test_a_grammar_is_a_value_that_goes_between_processes() -> None:
    grammar = JsonSchema({"type": "string", "maxLength": 3})
    assert pickle.loads(pickle.dumps(grammar)) == grammar == JsonSchema('{"type":"string",  "maxLength":3}')
    assert len({grammar, JsonSchema(grammar.text), Regex("a"), Regex("a"), AnyJson(), AnyJson()}) == 3


def test_without_llguidance_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UsageError, match=re.escape("pip install 'amalia-edge[schema]'")):
        Regex("a")


def test_a_vocabulary_is_let_go_with_its_grammars(tiny: Path) -> None:
    with Model.open(tiny, LoadConfig(context=64, threads=1)) as other:
        AnyJson().open(other.vocabulary)
        vocabulary = weakref.ref(other.vocabulary)
        assert vocabulary() in schema_file._kept
    del other
    gc.collect()
    assert vocabulary() is None


def test_the_grammars_kept_are_the_last_used(model: Model) -> None:
    others, often = [Regex(f"a{{{number + 1}}}") for number in range(16)], Regex("sempre")
    for grammar in (often, *others[:15], often, others[15]):
        grammar.open(model.vocabulary)
    _, kept = schema_file._kept[model.vocabulary]
    assert len(kept) == 16
    assert any("sempre" in grammar for grammar in kept)


class Spaced:
    """A vocabulary that puts a space before every text, as SentencePiece often does; or, spoilt, gives no ids at all."""

    pieces = (b"</s>", b" ", b"\n", b"a", b"b", b"ab", b"\xc3", b"\xa9", b"<s>", b"<x>")
    control, suppressed, size, spoilt = {"</s>": 0, "<s>": 8}, (9,), len(pieces), False

    def ends(self, token: int) -> bool:
        return token == 0

    def bytes_of(self, token: int) -> bytes:
        return self.pieces[token]

    def encode(self, text: str) -> list[int]:
        """Give one id for each byte, so that it differs from the longest pieces."""
        raw = b" " + text.encode() if text and not self.spoilt else b""
        return [self.pieces.index(raw[place : place + 1]) for place in range(len(raw))]


@pytest.mark.parametrize(("text", "spoilt", "ids"), [
    ("ab", False, [3, 4]), ("aba", False, [3, 4, 3]), (" ab", False, [1, 3, 4]), ("é", False, [6, 7]),
    ("ab", True, [5]), ("aba", True, [5, 3]), (" ab", True, [1, 5]), ("abé", True, [5, 6, 7]),
])  # fmt: skip
def test_text_that_must_come_is_spelt_exactly(text: str, spoilt: bool, ids: list[int]) -> None:
    vocabulary: Any = Spaced()
    vocabulary.spoilt = spoilt
    assert schema_file._Spelling(vocabulary)(text) == ids


def test_no_end_control_or_suppressed_token_stands_for_its_letters() -> None:
    vocabulary: Any = Spaced()
    assert allowed(Regex("[a-z</>é]+x").open(vocabulary), vocabulary) == {3, 4, 5, 6}


def test_a_call_is_held_to_arguments_that_hold_themselves(model: Model) -> None:
    inner = {"properties": {"left": {"$ref": "#"}, "x": {"type": "integer"}}, "additionalProperties": False}
    grammar = JsonSchema(tool_schema([{"type": "function", "function": {"name": "f", "parameters": inner}}]))
    call = '{"name": "f", "arguments": %s}'
    assert may_say(grammar, model.vocabulary, call % '{"left": {"left": {"x": 1}}}')
    assert not may_say(grammar, model.vocabulary, call % '{"left": {"name": "f"}}')


def test_a_tools_definitions_that_are_none_are_named() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"$defs": []}}}
    with pytest.raises(UsageError, match=r"\$defs/0/\$defs: an array"):
        JsonSchema(tool_schema([tool]))  # type: ignore[list-item]
