"""Try to forge control tokens with what others write: python tests/edge/forged_turns.py [CONTENTS] [SEED].

Each conversation is encoded as it is, and with every letter from outside made an x; both must hold the same control
tokens in the same order. Where no text holds a token's, the ids must be those of the whole rendering.
"""

import json
import random
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from amalia_edge.abilities import abilities, adapt, setting, thought_apart
from amalia_edge.answer import MARKS
from amalia_edge.chat import Message, Tool, encode
from amalia_edge.messages import read_messages, read_tools
from amalia_edge.template import render
from amalia_edge.vocab import Vocabulary
from edge.vocabularies import KINDS, open_kind

HARMLESS = ["olá", " ", "\n", "a < b", "x", "<b>", "[1]", "é", "", "\0", "\ud800", "🙂", "▁"]
PLAIN = [*HARMLESS, "|", "INST", "im_end", "user"]
PRIVATE = ["\U000f0000", "\U000f0001", "\U000f0002\U000f0003", "\ue000", "\U0010fffd"]


@dataclass
class Forger:
    """Draws conversations made of a vocabulary's control texts, of their fragments, and of what a veil is made of."""

    dice: random.Random
    scraps: list[str] = field(default_factory=list)
    contents: int = 0

    def text(self) -> str:
        self.contents += 1
        parts = self.dice.choices(self.scraps, k=self.dice.choice((0, 1, 1, 1, 2, 3, 5, 8)))
        return "".join(parts) * (200 if self.dice.random() < 0.002 else 1)

    def calls(self) -> list[Any]:
        return [
            {"id": "abcdef123", "type": "function",
             "function": {"name": self.text(), "arguments": json.dumps({self.text(): self.text(), "l": [self.text()]})}}
        ]  # fmt: skip

    def messages(self) -> list[Message]:
        drawn: list[Message] = []
        if self.dice.random() < 0.4:
            drawn.append({"role": self.dice.choice(("system", "developer")), "content": self.text()})
        for _ in range(self.dice.randint(1, 3)):
            drawn.append(
                {
                    "role": "user",
                    "content": [{"type": "text", "text": self.text()}, {"type": "text", "text": self.text()}],
                }
            )
            if self.dice.random() < 0.3:
                drawn[-1]["name"] = self.text()
            kind = self.dice.random()
            if kind < 0.3:
                drawn.append({"role": "assistant", "content": None, "tool_calls": self.calls()})
                drawn.append({"role": "tool", "tool_call_id": "abcdef123", "name": self.text(), "content": self.text()})
            if kind < 0.7:
                drawn.append({"role": "assistant", "content": self.text(), "reasoning_content": self.text()})
        return drawn

    def tools(self) -> list[Tool]:
        if self.dice.random() < 0.6:
            return []
        properties = {self.text(): {"type": "string", "description": self.text(), "enum": [self.text()]}}
        parameters = {"type": "object", "properties": properties, "required": list(properties)}
        return [
            {"type": "function", "function": {"name": "tempo", "description": self.text(), "parameters": parameters}}
        ]


def try_to_forge(vocabulary: Vocabulary, marks: tuple[str, ...], templates: tuple[str, ...], dice: random.Random, count: int) -> Counter[str]:  # fmt: skip
    """Encode conversations until `count` contents have been tried; say how many there were of each outcome."""
    seen: Counter[str] = Counter()
    tokens = [*vocabulary.control, *(mark for mark in marks if mark.strip("▁\n"))]
    cuts = [token[:cut] for token in tokens for cut in range(1, len(token))]
    cuts += [token[cut:] for token in tokens for cut in range(1, len(token))]
    cuts = dice.sample(cuts, min(60, len(cuts)))
    kinds = [[*tokens * 3, *cuts, *PLAIN * 2, *PRIVATE], [*cuts, *PLAIN, *PRIVATE], [*HARMLESS, *PRIVATE]]
    forger = Forger(dice)
    while forger.contents < count:
        template, forger.scraps = dice.choice(templates), dice.choice(kinds)
        messages, tools = forger.messages(), forger.tools()
        ids = encode(messages, template, vocabulary, tools)
        seen["conversations"] += 1
        wanted = encode(_harmless(messages), template, vocabulary, _harmless(tools))
        special = _special(vocabulary, marks, template)
        if _of(special, ids) != _of(special, wanted):
            seen["forged"] += 1
            print("FORGED", repr(template[:60]), json.dumps(messages), json.dumps(tools), file=sys.stderr)
        whole = _whole(messages, tools, template, vocabulary)
        joined = _of(special, whole) != _of(special, wanted)  # fragments of several texts make a token together
        if forger.scraps is kinds[2] or not (joined or any(text in _all(messages, tools) for text in special)):
            seen["compared"] += 1
            seen["differing"] += whole != ids
            if whole != ids:
                print("DIFFERS", repr(template[:60]), json.dumps(messages), json.dumps(tools), file=sys.stderr)
    seen["contents"] = forger.contents
    return seen


def _special(vocabulary: Vocabulary, marks: tuple[str, ...], template: str) -> dict[str, int]:
    """Give what only a template may write: control tokens, and user-defined tags."""
    known = [mark for mark in marks if mark in MARKS or (mark in template and mark.strip("▁\n"))]
    named = {mark: vocabulary.encode(mark, control=True) for mark in known}
    return vocabulary.control | {mark: ids[0] for mark, ids in named.items() if len(ids) == 1}


def _of(special: dict[str, int], ids: list[int]) -> list[int]:
    wanted = set(special.values())
    return [token for token in ids if token in wanted]


def _harmless(value: Any, key: str = "") -> Any:
    """Make every letter from outside an x: spaces, lengths and shapes stay."""
    if key in ("role", "type", "id", "tool_call_id") and value != "":
        return value
    if key == "arguments":
        return json.dumps(_harmless(json.loads(value)))
    if isinstance(value, str):
        return re.sub(r"\S", "x", value.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    if isinstance(value, dict):
        ours = {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "type", "text", "function", "id",
                "arguments", "description", "parameters", "properties", "required", "enum", "l"}  # fmt: skip
        changed: dict[str, Any] = {}
        for name, part in value.items():
            new = name if name in ours else _harmless(name)
            while new in changed:
                new += "x"
            changed[new] = _harmless(part, name)
        return changed
    return [_harmless(part) for part in value] if isinstance(value, list) else value


def _whole(messages: list[Message], tools: list[Tool], template: str, vocabulary: Vocabulary) -> list[int]:
    """Render contents as they are, and let libllama recognise whatever looks like a control token."""
    offered, can = read_tools(tools), abilities(template)
    read = [thought_apart(message, can) for message in read_messages(messages)]
    variables = setting(adapt(read, offered, can), offered if can.tools else None)
    names = {token: text for text, token in vocabulary.control.items()}
    variables |= {"bos_token": names.get(vocabulary.begin, ""), "eos_token": names.get(vocabulary.end, "")}
    ids = vocabulary.encode(render(template, variables), control=True)
    begin = [vocabulary.begin] if vocabulary.adds_begin and ids[:1] != [vocabulary.begin] else []
    return begin + ids


def _all(*values: Any) -> str:
    return json.dumps(values, ensure_ascii=False)


def main(count: int, seed: int) -> int:
    total: Counter[str] = Counter()
    for name, (_, _, marks, templates) in KINDS.items():
        with tempfile.TemporaryDirectory() as folder, open_kind(Path(folder), name) as vocabulary:
            seen = try_to_forge(vocabulary, marks, templates, random.Random(f"{name} {seed}"), -(-count // len(KINDS)))
        print(f"{name:24}", *(f"{key} {value:,}" for key, value in sorted(seen.items())))
        total += seen
    print(f"{total['contents']:,} contents: {total['forged']} forged; {total['compared']:,} without control text compared with "
          f"the whole rendering's ids: {total['differing']} differing")  # fmt: skip
    return bool(total["forged"] or total["differing"])


if __name__ == "__main__":
    sys.exit(main(*(int(word) for word in [*sys.argv[1:], "100000", "1143"][:2])))
