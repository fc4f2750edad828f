"""A template is tried before it is trusted with system texts, tools and calls; what it lacks is said in words."""

from typing import Any

import pytest

from amalia_edge.abilities import Abilities, abilities, adapt, thought_apart
from amalia_edge.errors import ModelUnsupported
from amalia_edge.known_templates import TEMPLATES

from .vocabularies import MISTRAL, QWEN

NOTHING = Abilities(system=False, tools=False, calls=False, reasoning=None)
USER = {"role": "user", "content": "olá"}
CALL = {"id": "a", "type": "function", "function": {"name": "tempo", "arguments": {"onde": "Évora"}}}
TOOL = {"type": "function", "function": {"name": "tempo", "description": "d", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(("template", "able"), [
    (QWEN, Abilities(True, True, True, ("<think>", "</think>"))),
    (MISTRAL, Abilities(False, True, True, None)),
    (TEMPLATES["chatml"], Abilities(True, False, False, None)),
    (TEMPLATES["gemma"], NOTHING),
    ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}", NOTHING),
])  # fmt: skip
def test_a_template_is_known_by_what_it_writes(template: str, able: Abilities) -> None:
    assert abilities(template) == able


def test_a_template_beyond_its_limits_is_refused_at_the_first_try() -> None:
    endless = "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(ModelUnsupported, match="too many steps"):
        abilities(endless)


def test_every_system_text_comes_before_a_users_words() -> None:
    system: dict[str, Any] = {"role": "system", "content": "s"}
    answer = {"role": "assistant", "content": "a"}
    assert adapt([system, system, USER, answer, system, USER], [], NOTHING) == [
        {"role": "user", "content": "s\n\ns\n\nolá"}, answer, {"role": "user", "content": "s\n\nolá"},
    ]  # fmt: skip
    assert adapt([answer, system], [], NOTHING) == [answer, {"role": "user", "content": "s"}]


def test_calls_and_their_results_are_written_out() -> None:
    calling = {"role": "assistant", "content": "vou ver", "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "a", "content": "20 graus"}
    said = adapt([USER, calling, result], [], NOTHING)
    assert said[1] == {
        "role": "assistant",
        "content": 'vou ver\n<tool_call>\n{"name": "tempo", "arguments": {"onde": "Évora"}}\n</tool_call>',
    }
    assert said[2] == {"role": "user", "content": "Resultado da ferramenta:\n20 graus"}


def test_the_tools_description_joins_the_system_text() -> None:
    able = Abilities(system=True, tools=False, calls=False, reasoning=None)
    alone = adapt([USER], [TOOL], able)
    joined = adapt([{"role": "system", "content": "s"}, USER], [TOOL], able)
    assert alone[0]["role"] == joined[0]["role"] == "system"
    assert joined[0]["content"] == "s\n\n" + alone[0]["content"]
    assert alone[0]["content"].endswith('{"name": "tempo", "description": "d", "parameters": {"type": "object"}}')


def test_an_assistants_reasoning_is_taken_out_of_its_words() -> None:
    able = Abilities(True, True, True, ("<think>", "</think>"))

    def apart(content: str, role: str = "assistant") -> dict[str, Any]:
        return thought_apart({"role": role, "content": content}, able)

    assert apart("<think>\nhm\n</think>\n\nviva") == {"role": "assistant", "content": "viva", "reasoning_content": "hm"}
    assert apart("diz <think>hm</think>")["content"] == "diz <think>hm</think>"
    assert apart("<think>hm")["content"] == "<think>hm"
    assert apart("<think>hm</think>x", "user")["content"] == "<think>hm</think>x"


def test_several_results_in_a_row_are_one_turn() -> None:
    calling = {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [CALL, CALL]}
    results = [{"role": "tool", "tool_call_id": "a", "content": text} for text in ("20 graus", "21 graus")]
    said = adapt([USER, calling, *results, USER], [], NOTHING)
    assert [message["role"] for message in said] == ["user", "assistant", "user"]
    assert said[1]["reasoning_content"] == "hm"
    assert said[2]["content"] == "Resultado da ferramenta:\n20 graus\n\nResultado da ferramenta:\n21 graus\n\nolá"


def test_what_needs_no_other_words_stays_as_it_is() -> None:
    assert adapt([USER, USER], [], NOTHING) == [USER, USER]
