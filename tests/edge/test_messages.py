"""OpenAI-shaped messages and tools become what templates expect, or are refused where they are wrong."""

import json
from typing import Any

import pytest

from amalia_edge.errors import UsageError
from amalia_edge.messages import read_messages, read_tools


def read(**message: Any) -> dict[str, Any]:
    return read_messages([message])[0]  # type: ignore[list-item]  # whatever a client may send


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "o"}, {"type": "text", "text": "lá"}]
    assert read(role="user", content=parts) == {"role": "user", "content": "olá"}


def test_an_image_is_refused_where_it_stands() -> None:
    with pytest.raises(
        UsageError, match=r"messages\[0\].content\[1\]: a part of type 'image_url'; the model reads text"
    ):
        read(role="user", content=[{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}])


def test_a_developer_is_a_system() -> None:
    assert read(role="developer", content="x")["role"] == "system"


def test_arguments_become_an_object() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": [1, "é"]}'}}
    message = read(role="assistant", content=None, tool_calls=[call])
    assert message["content"] == ""
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": [1, "é"]}}


def test_halves_of_a_letter_are_put_together_and_lonely_ones_replaced() -> None:
    assert read(role="user", content="\ud83d\ude42 \ud800 \0")["content"] == "🙂 \ufffd \0"
    call = {"id": "a", "function": {"name": "f", "arguments": json.dumps({"\ud800": ["\udc00"]})}}
    arguments = read(role="assistant", tool_calls=[call])["tool_calls"][0]["function"]["arguments"]
    assert arguments == {"\ufffd": ["\ufffd"]}


def test_what_templates_do_not_know_is_left_out() -> None:
    assert read(role="user", content="x", refusal=None, name=None, audio={}) == {"role": "user", "content": "x"}


CALL = {"function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(("message", "where"), [
    ({"role": "root", "content": "x"}, "messages[0]"),
    ({"role": ["user"], "content": "x"}, "messages[0]"),
    ({"content": "x"}, "messages[0]"),
    ({"role": "user"}, "messages[0]"),
    ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"x": {1}}}}]}, "messages[0].tool_calls[0].function.arguments"),
    ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {1: "x"}}}]}, "messages[0].tool_calls[0].function.arguments"),
    ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"x":' + "[" * 330 + "]" * 330 + "}"}}]}, "messages[0].tool_calls[0].function.arguments"),
    ({"role": "user", "content": 0}, "messages[0].content"),
    ({"role": "user", "content": None}, "messages[0]"),
    ({"role": "user", "content": 1}, "messages[0].content"),
    ({"role": "user", "content": [1]}, "messages[0].content[0]"),
    ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
    ({"role": "user", "content": "x", "name": 1}, "messages[0].name"),
    ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages[0].tool_calls"),
    ({"role": "assistant", "content": "x", "tool_calls": "f"}, "messages[0].tool_calls"),
    ({"role": "assistant", "tool_calls": ["f"]}, "messages[0].tool_calls[0]"),
    ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, "messages[0].tool_calls[0].function.arguments"),
    ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[" * 99999}}]}, "messages[0].tool_calls[0].function.arguments"),
    ({"role": "assistant", "tool_calls": [{"function": {"name": 1, "arguments": "{}"}}]}, "messages[0].tool_calls[0].function.name"),
    ({"role": "assistant", "tool_calls": [{"id": 1, **CALL}]}, "messages[0].tool_calls[0].id"),
])  # fmt: skip
def test_what_is_wrong_is_named(message: dict[str, Any], where: str) -> None:
    with pytest.raises(UsageError) as refused:
        read(**message)
    assert refused.value.where == where


@pytest.mark.parametrize("function", [
    None, {"name": "a b"}, {"name": ""}, {"name": "<s>"}, {"name": "a" * 65}, {"name": "f", "parameters": []},
    {"name": "f", "description": 1},
])  # fmt: skip
def test_a_tool_that_is_none_is_refused(function: Any) -> None:
    with pytest.raises(UsageError, match=r"tools\[0\]"):
        read_tools([{"type": "function", "function": function}])


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two are called f"):
        read_tools([{"type": "function", "function": {"name": "f"}}] * 2)


def test_a_tool_always_has_what_templates_look_up() -> None:
    function = read_tools([{"type": "function", "function": {"name": "f", "strict": True}}])[0]["function"]
    assert function == {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}


@pytest.mark.parametrize("message", [None, 5, "x", []])
def test_what_is_no_message_at_all_is_named(message: Any) -> None:
    with pytest.raises(UsageError, match=r"messages\[0\]: no message"):
        read_messages([message])


def test_a_tuple_is_read_as_the_list_it_is_in_json() -> None:
    call = {"id": "a", "function": {"name": "f", "arguments": {"x": ("a", ("b",))}}}
    assert read(role="assistant", tool_calls=[call])["tool_calls"][0]["function"]["arguments"] == {"x": ["a", ["b"]]}
    function = {"name": "f", "parameters": {"enum": ("a",)}}
    assert read_tools([{"type": "function", "function": function}])[0]["function"]["parameters"] == {"enum": ["a"]}


@pytest.mark.parametrize("arguments", ["", None])
def test_a_call_may_have_neither_arguments_nor_an_id(arguments: Any) -> None:
    call = read(role="assistant", tool_calls=[{"id": None, "function": {"name": "f", "arguments": arguments}}])
    assert call["tool_calls"][0] == {"id": "", "type": "function", "function": {"name": "f", "arguments": {}}}


def test_a_tool_of_many_levels_is_refused() -> None:
    parameters: dict[str, Any] = {}
    for _ in range(65):
        parameters = {"items": parameters}
    with pytest.raises(UsageError, match=r"parameters: more than 64 levels"):
        read_tools([{"type": "function", "function": {"name": "f", "parameters": parameters}}])
