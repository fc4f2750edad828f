"""What a chat template can do, found by trying it; and how to say the rest to it in words."""

import functools
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from amalia_edge.allowance import Refused
from amalia_edge.errors import AmaliaError
from amalia_edge.template import render

REASONING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))
CALL_OPENS, CALL_CLOSES = "<tool_call>", "</tool_call>"
TOOLS = (
    "Podes chamar ferramentas para responder. Para chamar uma, escreve apenas, para cada chamada:\n"
    f'{CALL_OPENS}\n{{"name": "nome da ferramenta", "arguments": {{"argumento": "valor"}}}}\n{CALL_CLOSES}\n'
    "O resultado chega na mensagem seguinte. Se nenhuma ferramenta servir, responde normalmente. "
    "As ferramentas, uma por linha, cada qual com o esquema JSON dos seus argumentos:\n"
)
RESULT = "Resultado da ferramenta:\n"


@dataclass(frozen=True)
class Abilities:
    system: bool  # takes a system message
    tools: bool  # tells the model of tools
    calls: bool  # writes an assistant's calls, and a tool's answer
    reasoning: tuple[str, str] | None  # the tags it knows around what an assistant thought


@functools.lru_cache(maxsize=32)
def abilities(template: str) -> Abilities:
    """Try a template with short conversations; what it refuses, or leaves out, it cannot do."""
    user: dict[str, Any] = {"role": "user", "content": "pergunta"}
    function = {"name": "ferramenta", "description": "", "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": function}]
    call = {"id": "chamada01", "type": "function", "function": {"name": "chamado", "arguments": {"lugar": "Lagos"}}}
    answer = {"role": "tool", "name": "chamado", "tool_call_id": "chamada01", "content": "solarengo"}
    called = [user, {"role": "assistant", "content": "", "tool_calls": [call]}, answer]
    return Abilities(
        system=_writes(template, [{"role": "system", "content": "sistema"}, user], None, "sistema"),
        tools=_writes(template, [user], tools, "ferramenta"),
        calls=_writes(template, called, tools, "Lagos", "solarengo"),
        reasoning=next((tags for tags in REASONING if tags[1] in template), None),
    )


def _writes(template: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, *texts: str) -> bool:
    try:
        rendered = render(template, setting(messages, tools))
    except Refused:
        raise
    except AmaliaError:
        return False
    return all(text in rendered for text in texts)


def setting(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None) -> dict[str, Any]:
    """Give the variables every template may count on."""
    return {
        "messages": list(messages), "tools": list(tools) if tools else None, "documents": None,
        "add_generation_prompt": True, "bos_token": "", "eos_token": "",
    }  # fmt: skip


def thought_apart(message: dict[str, Any], can: Abilities) -> dict[str, Any]:
    """Take the reasoning out of what an assistant said: as text from outside, its tags would mean nothing."""
    opens, closes = can.reasoning or ("", "")
    if message["role"] != "assistant" or not opens or not message["content"].lstrip().startswith(opens):
        return message
    thought, found, said = message["content"].partition(closes)
    thought = thought.strip().removeprefix(opens).strip()
    return {"reasoning_content": thought, **message, "content": said.lstrip()} if found else message


def adapt(messages: list[dict[str, Any]], tools: list[dict[str, Any]], can: Abilities) -> list[dict[str, Any]]:
    """Say in plain words what the template has no words for: the tools, the calls and their results, the system's text.

    What was hidden in messages and tools stays hidden; the tags put around them are ours.
    """
    if tools and not can.tools:
        lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        messages = _with_instructions(messages, TOOLS + lines)
    said = messages if can.calls else [_in_words(message) for message in messages]
    said = said if can.system else _within_users(said)
    return messages if said == messages else _joined(said)


def _with_instructions(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    return [{**messages[0], "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]


def _in_words(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": RESULT + message["content"]}
    if "tool_calls" not in message:
        return message
    calls = (json.dumps(call["function"], ensure_ascii=False) for call in message["tool_calls"])
    written = "\n".join(f"{CALL_OPENS}\n{call}\n{CALL_CLOSES}" for call in calls)
    said = {key: part for key, part in message.items() if key != "tool_calls"}
    return {**said, "content": "\n".join(filter(None, (message["content"], written)))}


def _within_users(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put each system text before the next user's words, or where those of a user would be."""
    waiting: list[str] = []
    moved: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif message["role"] == "user":
            moved.append({**message, "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            moved.append(message)
    return [*moved, {"role": "user", "content": "\n\n".join(waiting)}] if waiting else moved


def _joined(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make one message of several of a user's in a row: many templates want the turns to alternate."""
    joined: list[dict[str, Any]] = []
    for role, turn in itertools.groupby(messages, lambda message: str(message["role"])):
        row = list(turn)
        text = "\n\n".join(message["content"] for message in row)
        joined += [{**row[0], "content": text}] if role == "user" else row
    return joined
