"""How models write tool calls: the forms their templates teach, what a text in such a form says, and its JSON schema."""

import json
import re
import secrets
import string
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from amalia_edge.errors import UsageError
from amalia_edge.messages import Tool, ToolCall, json_value, parse_object, read_tools

NAMED = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\]([\w-]+))?(?:\[ARGS\])?\s*(?=\{)")  # Mistral's later way
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
ID_LETTERS = string.ascii_letters + string.digits
ID_LENGTH = 9  # Mistral's templates take no other


@dataclass(frozen=True)
class CallForm:
    """Where a call begins and ends in an answer, and what the JSON between looks like."""

    opens: str  # nothing where an answer that is a JSON object is a call
    closes: str  # nothing where the JSON's own end is the call's
    arguments: str = "arguments"  # under which key they are
    many: bool = False  # one list of calls


HERMES = CallForm("<tool_call>", "</tool_call>")
FORMS = {  # by what stands in a template that teaches them
    "<tool_call>": HERMES,
    "[TOOL_CALLS]": CallForm("[TOOL_CALLS]", "", many=True),
    "<|/tool_call|>": CallForm("<|tool_call|>", "<|/tool_call|>", many=True),
    "<|tool_call|>": CallForm("<|tool_call|>", "", many=True),
    '"parameters": dictionary': CallForm("", "", arguments="parameters"),
}
BARE_MARK = "<|python_tag|>"  # may stand before a call that has no tag, and says nothing


class Malformed(Exception):
    """A text that is no call, up to its `end`; without one, more text could still make it a call."""

    def __init__(self, end: int | None = None, *, in_a_string: bool = False) -> None:
        super().__init__()
        self.end, self.in_a_string = end, in_a_string


def call_form(template: str) -> CallForm:
    """Give the form a template teaches; ours, where we describe the tools."""
    return next((form for sign, form in FORMS.items() if sign in template), HERMES)


def read_calls(text: str, names: Collection[str]) -> tuple[list[ToolCall], int]:
    """Read the calls a text begins with, of tools that have these names; give them and where they end."""
    named = NAMED.match(text)
    start = named.end() if named else len(text) - len(text.lstrip())
    if text[start : start + 1] not in ("[", "{"):
        raise Malformed
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text, start)
    except json.JSONDecodeError as problem:
        raise Malformed(in_a_string=problem.msg.startswith("Unterminated string")) from None
    except (ValueError, RecursionError):
        raise Malformed(len(text)) from None
    if named:
        value = {"name": named[1], "arguments": value, "id": named[2]}
    calls = [_call(call, names) for call in (value if isinstance(value, list) else [value])]
    if None in calls or not calls:
        raise Malformed(end)
    return [call for call in calls if call], end


def _call(value: object, names: Collection[str]) -> ToolCall | None:
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(name, str) or name not in names:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    arguments = parse_object(arguments) if isinstance(arguments, str) else arguments
    if not isinstance(arguments, dict):
        return None
    own = value.get("id")
    given = own if isinstance(own, str) and ID.fullmatch(own) else new_id()
    try:
        text = json.dumps(json_value(arguments, name), ensure_ascii=False, allow_nan=False)
    except (ValueError, UsageError):  # NaN, or deeper than any template could say again
        return None
    return {"id": given, "type": "function", "function": {"name": name, "arguments": text}}


def new_id() -> str:
    return "".join(secrets.choice(ID_LETTERS) for _ in range(ID_LENGTH))


def tool_schema(tools: Sequence[Tool], form: CallForm = HERMES) -> dict[str, Any]:
    """Give the JSON schema of what stands between a form's opening and its closing: one call of one of the tools."""
    if not tools:
        raise UsageError("tools", "none to call", "give at least one")
    definitions: dict[str, Any] = {}
    choices = []
    for place, tool in enumerate(read_tools(tools)):
        function, root = tool["function"], f"#/$defs/{place}"
        definitions[str(place)] = _moved(function["parameters"], root)
        properties = {"name": {"const": function["name"]}, form.arguments: {"$ref": root}}
        choices.append(
            {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
        )
    call: dict[str, Any] = choices[0] if len(choices) == 1 else {"anyOf": choices}
    if form.many:
        call = {"type": "array", "items": call, "minItems": 1}
    return {**call, "$defs": definitions}


def _moved(schema: Any, root: str) -> Any:
    """Let a schema's references to itself find it where it stands now."""
    if isinstance(schema, dict):
        moved = {key: _moved(part, root) for key, part in schema.items()}
        if isinstance(moved.get("$ref"), str):
            moved["$ref"] = re.sub("^#", root, moved["$ref"])
        return moved
    return [_moved(part, root) for part in schema] if isinstance(schema, list) else schema
