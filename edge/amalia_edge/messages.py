"""Messages and tools as OpenAI's clients write them, read into what chat templates expect."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from amalia_edge.errors import UsageError

ROLES = ("system", "user", "assistant", "tool")
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
NAME = re.compile(r"[\w.-]{1,64}")  # of a tool
DEEPEST = 64  # levels of a value: templates walk it by recursion


class Function(TypedDict):
    name: str
    arguments: str  # JSON


class ToolCall(TypedDict):
    id: str
    type: str
    function: Function


class Tool(TypedDict):
    type: str
    function: Mapping[str, Any]  # name, description, parameters: a JSON schema


class _Spoken(TypedDict):
    role: str  # one of ROLES, or developer, which is system


class Message(_Spoken, total=False):
    content: str | list[dict[str, Any]] | None
    reasoning_content: str  # what the assistant thought
    tool_calls: list[ToolCall]
    tool_call_id: str
    name: str


def read_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Give the messages with plain texts as contents and objects as arguments; what templates do not know is left out."""
    if not messages:
        raise UsageError("messages", "none", "give at least one message of the user")
    return [_message(message, f"messages[{place}]") for place, message in enumerate(messages)]


def read_tools(tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """Give the tools, each with a name, a description and the schema of its parameters."""
    read = [_tool(tool, f"tools[{place}]") for place, tool in enumerate(tools)]
    names: set[str] = set()
    for tool in read:
        name = tool["function"]["name"]
        if name in names:
            raise UsageError("tools", f"two are called {name}", "give each its own name")
        names.add(name)
    return read


def json_value(value: Any, where: str, levels: int = DEEPEST) -> Any:
    """Give a value as JSON has it; what is none is refused: a template would write it in words we never looked at."""
    if isinstance(value, str):
        return _whole(value)
    if value is None or type(value) in (bool, int, float):
        return value
    if not isinstance(value, (dict, list, tuple)):
        raise UsageError(where, f"a value of type {type(value).__name__}", "give what JSON can say")
    if not levels:
        raise UsageError(where, f"more than {DEEPEST} levels", "give flatter values")
    if not isinstance(value, dict):
        return [json_value(part, where, levels - 1) for part in value]
    if not all(isinstance(key, str) for key in value):
        raise UsageError(where, "a name that is no text", "give what JSON can say")
    return {_whole(key): json_value(part, where, levels - 1) for key, part in value.items()}


def _message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise UsageError(where, "no message", "give {role, content}")
    role = message.get("role")
    role = "system" if role == "developer" else role
    if role not in ROLES:
        raise UsageError(where, "no known role", "roles are " + ", ".join(ROLES))
    calls = message.get("tool_calls") or []
    if (calls and role != "assistant") or not isinstance(calls, list):
        raise UsageError(f"{where}.tool_calls", "not a list of an assistant's", "only an assistant calls tools")
    content = message.get("content")
    if content is None and not calls:
        raise UsageError(where, "no text", "give it a content")
    read: dict[str, Any] = {"role": role, "content": _content(content, f"{where}.content")}
    for key in ("name", "tool_call_id", "reasoning_content"):
        if message.get(key) is not None:
            read[key] = _text(message[key], f"{where}.{key}")
    if calls:
        read["tool_calls"] = [_call(call, f"{where}.tool_calls[{place}]") for place, call in enumerate(calls)]
    return read


def _content(content: object, where: str) -> str:
    """Give a content's text; one in parts is joined, and one that is no text at all has none."""
    if not isinstance(content, list):
        return _text("" if content is None else content, where)
    texts = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            found = f"a part of type {kind!r}" if isinstance(kind, str) else "a part that has no type"
            raise UsageError(f"{where}[{place}]", found, "the model reads text: give parts of type 'text'")
        texts.append(_text(part.get("text"), f"{where}[{place}].text"))
    return "".join(texts)


def _call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise UsageError(where, "no function in it", "give {id, type: function, function: {name, arguments}}")
    inner = f"{where}.function.arguments"
    arguments = function.get("arguments")
    if arguments in (None, ""):  # as some clients say that there are none
        arguments = {}
    if isinstance(arguments, str):
        arguments = parse_object(arguments)
    if not isinstance(arguments, dict):
        raise UsageError(inner, "not a JSON object", "give the arguments by their names")
    named = {"name": _text(function.get("name"), f"{where}.function.name"), "arguments": json_value(arguments, inner)}
    own = call.get("id")
    return {"id": "" if own is None else _text(own, f"{where}.id"), "type": "function", "function": named}


def _tool(tool: object, where: str) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, Mapping):
        raise UsageError(where, "no function in it", "give {type: function, function: {name, description, parameters}}")
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UsageError(f"{where}.function.name", f"{name!r}", "1 to 64 letters, digits, and any of _ . -")
    inner = f"{where}.function.parameters"
    parameters = {} if function.get("parameters") is None else function["parameters"]
    if not isinstance(parameters, dict):
        raise UsageError(inner, "not an object", "give a JSON schema")
    description = _text(function.get("description") or "", f"{where}.function.description")
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": json_value(parameters, inner) or NO_PARAMETERS,
        },
    }


def parse_object(text: str) -> dict[str, Any] | None:
    """Give the object a JSON text is; None if it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise UsageError(where, "no text", "give a text")
    return _whole(value)


def _whole(text: str) -> str:
    """Put the halves of letters together that JSON came with (`\\ud83d\\ude00`), and a mark for those left alone."""
    if text.isascii():
        return str.__str__(text)  # nothing but a text, whatever class of texts it had
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
