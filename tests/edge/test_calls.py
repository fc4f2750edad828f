"""Tool calls are read from the forms models write them in, and constrained to the schema of their tools."""

import json
from typing import Any

import pytest

from amalia_edge.calls import FORMS, HERMES, ID_LENGTH, CallForm, Malformed, call_form, read_calls, tool_schema
from amalia_edge.errors import UsageError
from amalia_edge.messages import Tool, ToolCall

from .vocabularies import MISTRAL, QWEN


def tool(name: str, **parameters: Any) -> Tool:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}


def read(text: str) -> list[tuple[str, Any]]:
    calls, end = read_calls(text, {"tempo", "horas"})
    assert end == len(text)
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls]


@pytest.mark.parametrize(("text", "calls"), [
    ('{"name": "tempo", "arguments": {"a": 1}}', [("tempo", {"a": 1})]),
    ('\n{"name": "tempo", "parameters": {"a": 1}}', [("tempo", {"a": 1})]),
    ('{"name": "tempo", "arguments": "{\\"a\\": 1}"}', [("tempo", {"a": 1})]),
    ('{"name": "tempo"}', [("tempo", {})]),
    ('{"name": "tempo", "arguments": {"a": "duas\nlinhas"}}', [("tempo", {"a": "duas\nlinhas"})]),
    ('[{"name": "tempo", "arguments": {}}, {"name": "horas", "arguments": {"b": "é"}}]', [("tempo", {}), ("horas", {"b": "é"})]),
    ('tempo[ARGS]{"a": 1}', [("tempo", {"a": 1})]),
    ('tempo{"a": 1}', [("tempo", {"a": 1})]),
])  # fmt: skip
def test_a_call_is_read_in_every_form(text: str, calls: list[tuple[str, Any]]) -> None:
    assert read(text) == calls


@pytest.mark.parametrize(("text", "end"), [
    ('{"name": "outra", "arguments": {}}', 34), ('{"name": "tempo", "arguments": []}', 34), ('{"name": "tempo", "arguments": {"x": NaN}}', 42), ('{"name": "tempo", "arguments": {"x": 1e999}}', 44), ('{"name": "tempo", "arguments": "x"}', 35),
    ('{"name": ["tempo"]}', 19), ("[]", 2), ("[1]", 3), ('{"a": 1} {"b"', 8), ("", None), ("  ", None), ("tem", None),
    ('{"name": "tempo", "arguments": {"a": tr', None), ('{"name": "te', None), ("12", None), ("outra[ARGS]{}", 13),
])  # fmt: skip
def test_what_is_no_call_says_how_far_it_goes(text: str, end: int | None) -> None:
    with pytest.raises(Malformed) as malformed:
        read_calls(text, {"tempo"})
    assert malformed.value.end == end


def test_a_deep_text_is_no_call() -> None:
    with pytest.raises(Malformed):
        read_calls("[" * 200_000, {"tempo"})


def test_an_id_of_the_models_own_is_kept_and_else_has_nine_letters() -> None:
    def first(text: str) -> ToolCall:
        return read_calls(text, {"tempo"})[0][0]

    assert first('{"name": "tempo", "id": "abcdef123"}')["id"] == "abcdef123"
    assert first("tempo[CALL_ID]abcdef123[ARGS]{}")["id"] == "abcdef123"
    given = first('{"name": "tempo", "id": "<s>"}')["id"]
    assert len(given) == ID_LENGTH and given.isalnum()


@pytest.mark.parametrize(("template", "form"), [
    (QWEN, HERMES), (MISTRAL, FORMS["[TOOL_CALLS]"]), ("nada", HERMES),
    ('Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.',
     CallForm("", "", arguments="parameters")),
    ("<|tool_call|>x<|/tool_call|>", CallForm("<|tool_call|>", "<|/tool_call|>", many=True)),
])  # fmt: skip
def test_a_template_tells_the_form(template: str, form: CallForm) -> None:
    assert call_form(template) == form


def test_the_schema_of_one_tools_call() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert tool_schema([tool("tempo", properties={"a": {"type": "integer"}})]) == {
        "type": "object", "properties": {"name": {"const": "tempo"}, "arguments": {"$ref": "#/$defs/0"}},
        "required": ["name", "arguments"], "additionalProperties": False, "$defs": {"0": parameters},
    }  # fmt: skip


def test_the_schema_follows_the_form() -> None:
    several = tool_schema([tool("tempo"), tool("horas")], FORMS["[TOOL_CALLS]"])
    assert several["type"] == "array" and several["minItems"] == 1
    assert [choice["properties"]["name"]["const"] for choice in several["items"]["anyOf"]] == ["tempo", "horas"]
    assert tool_schema([tool("tempo")], FORMS['"parameters": dictionary'])["required"] == ["name", "parameters"]


def test_a_schemas_references_find_their_definitions() -> None:
    first = tool("a", properties={"x": {"$ref": "#/$defs/T"}}, **{"$defs": {"T": {"items": {"$ref": "#/$defs/T"}}}})
    second = tool("b", properties={"x": {"$ref": "#/definitions/T"}}, definitions={"T": {"type": "string"}})
    schema = tool_schema([first, second])
    assert [choice["properties"]["arguments"]["$ref"] for choice in schema["anyOf"]] == ["#/$defs/0", "#/$defs/1"]
    parts = [schema["$defs"][place] for place in "01"]
    assert [part["properties"]["x"]["$ref"] for part in parts] == ["#/$defs/0/$defs/T", "#/$defs/1/definitions/T"]
    assert parts[0]["$defs"]["T"]["items"]["$ref"] == "#/$defs/0/$defs/T"


def test_a_tool_whose_arguments_hold_themselves_is_held_to_them() -> None:
    parameters = {"properties": {"left": {"$ref": "#"}}, "additionalProperties": False}
    schema = tool_schema([tool("tree", **parameters)])
    assert schema["$defs"]["0"]["properties"]["left"] == {"$ref": "#/$defs/0"}


def test_a_call_needs_a_tool_to_call() -> None:
    with pytest.raises(UsageError, match="tools: none"):
        tool_schema([])


def test_half_a_letter_in_a_calls_arguments_is_marked() -> None:
    assert read('{"name": "tempo", "arguments": {"x": "\\ud83d"}}') == [("tempo", {"x": "\ufffd"})]
