"""A conversation as a file: Markdown for people, JSON to go on from."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from amalia_edge.chat import ROLES, Message
from amalia_edge.errors import UsageError
from amalia_edge.home import in_home
from amalia_edge.whole_file import write_whole

FORMAT = 1
LARGEST = 16 << 20  # bytes of a file to load
HEADINGS = {"system": "System", "user": "Question", "assistant": "Answer", "tool": "Tool"}


def save(messages: Sequence[Message], name: str, model: str, *, overwrite: bool = False) -> Path:
    """Write a conversation, whole or not at all; the name's ending says in which form."""
    path = _path(name, "/save FILE")
    if path.suffix not in (".md", ".json"):
        raise UsageError(name, "neither .md nor .json", "end the name in .md for people, in .json to load it again")
    text = _markdown(messages, model) if path.suffix == ".md" else _json(messages, model)
    try:
        if path.exists() and not overwrite:
            raise UsageError(name, "there is a file of this name", f"/save! {name} overwrites it")
        write_whole(path, text.encode("utf-8", "replace"))
    except (OSError, ValueError) as problem:  # a name with a zero in it is no value
        raise UsageError(name, getattr(problem, "strerror", None) or str(problem), "give another place") from None
    return path


def load(name: str) -> list[Message]:
    """Read a conversation that was saved as JSON: texts with their roles."""
    path = _path(name, "/load FILE")
    try:
        if not path.is_file():
            raise UsageError(name, "there is no such file", "give one that /save wrote, ending in .json")
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
        content = json.loads(raw) if len(raw) <= LARGEST else None
    except OSError as problem:
        raise UsageError(name, problem.strerror or str(problem), "give another file") from None
    except (ValueError, RecursionError):
        raise UsageError(name, "not JSON", "give one that /save wrote, ending in .json") from None
    messages = content.get("messages") if isinstance(content, dict) else None
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise UsageError(name, "no conversation in it", "give one that /save wrote, ending in .json")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and value.get("role") in ROLES and isinstance(value.get("content"), str)


def _path(name: str, usage: str) -> Path:
    if not name:
        raise UsageError(usage.split()[0], "no file's name", f"say {usage}")
    return in_home(name)


def _json(messages: Sequence[Message], model: str) -> str:
    content = {"format": FORMAT, "model": model, "saved": _now(), "messages": list(messages)}
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def _markdown(messages: Sequence[Message], model: str) -> str:
    parts = [f"# {model}, {_now()}"]
    for message in messages:
        if message["content"]:
            parts.append(f"## {HEADINGS[message['role']]}\n\n{str(message['content']).strip()}")
    return "\n\n".join(parts) + "\n"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S%z")
