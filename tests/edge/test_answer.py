"""What a model says comes apart into reasoning, words and calls, the same however it was cut."""

import random
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest

from amalia_edge.answer import AnswerForm, AnswerReader, Delta, answer_form
from amalia_edge.calls import FORMS, HERMES
from amalia_edge.known_templates import TEMPLATES
from amalia_edge.messages import Tool

from .vocabularies import MISTRAL, QWEN

THINK = ("<think>", "</think>")
LLAMA, INST = FORMS['"parameters": dictionary'], FORMS["[TOOL_CALLS]"]
TOOLS: list[Tool] = [{"type": "function", "function": {"name": name}} for name in ("tempo", "nullo")]
CALL = '{"name": "tempo", "arguments": {"a": 1}}'
CALLED = ("call", "tempo", '{"a": 1}')


def total(deltas: Iterable[Delta]) -> list[tuple[str, ...]]:
    """Add up deltas of one kind that follow each other; ids are drawn, and left out."""
    summed: list[tuple[str, ...]] = []
    for delta in deltas:
        for kind, text in (("content", delta.content), ("reasoning", delta.reasoning)):
            if text and summed and summed[-1][0] == kind:
                summed[-1] = (kind, summed[-1][1] + text)
            elif text:
                summed.append((kind, text))
        if delta.call:
            summed.append(("call", delta.call["function"]["name"], delta.call["function"]["arguments"]))
    return summed


def read(form: AnswerForm, pieces: Iterable[str], tools: list[Tool] = TOOLS) -> list[tuple[str, ...]]:
    reader = AnswerReader(form, tools)
    return total([*(delta for piece in pieces for delta in reader.push(piece)), *reader.finish()])


@pytest.mark.parametrize(("form", "text", "parts"), [
    (AnswerForm(THINK), "<think>\nhm\n</think>\n\nviva\n", [("reasoning", "hm"), ("content", "viva\n")]),
    (AnswerForm(THINK), "\n<think>hm", [("reasoning", "hm")]),
    (AnswerForm(THINK), "viva <think>", [("content", "viva <think>")]),
    (AnswerForm(THINK), " <thi", [("content", " <thi")]),
    (AnswerForm(THINK, opened=True), "hm\n</think>viva", [("reasoning", "hm"), ("content", "viva")]),
    (AnswerForm(THINK, opened=True), "<think>hm</think>viva", [("reasoning", "hm"), ("content", "viva")]),
    (AnswerForm(THINK, opened=True), "hm </thin", [("reasoning", "hm </thin")]),
    (AnswerForm(), "<think>hm</think>", [("content", "<think>hm</think>")]),
    (AnswerForm(THINK), f"<think>hm</think>\n<tool_call>\n{CALL}\n</tool_call>", [("reasoning", "hm"), CALLED]),
    (AnswerForm(), f"vou ver\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>", [("content", "vou ver"), CALLED, CALLED]),
    (AnswerForm(), f"<tool_call>{CALL}", [CALLED]),
    (AnswerForm(), f"x <tool_call>{CALL[:-1]}", [("content", f"x <tool_call>{CALL[:-1]}")]),
    (AnswerForm(), "x <tool_call>", [("content", "x <tool_call>")]),
    (AnswerForm(), f"a <tool_call>isto</tool_call> b<tool_call>{CALL}</tool_call>", [("content", "a <tool_call>isto</tool_call> b"), CALLED]),
    (AnswerForm(), f"<tool_call>{CALL} x</tool_call>", [("content", f"<tool_call>{CALL} x</tool_call>")]),
    (AnswerForm(), '<tool_call>{"name": "outra", "arguments": {}}</tool_call>', [("content", '<tool_call>{"name": "outra", "arguments": {}}</tool_call>')]),
    (AnswerForm(), '<tool_call>{"name": "tempo", "arguments": {"a": "</tool_call>"}}</tool_call>', [("call", "tempo", '{"a": "</tool_call>"}')]),
    (AnswerForm(calls=INST), f"[TOOL_CALLS] [{CALL}, {CALL}]", [CALLED, CALLED]),
    (AnswerForm(calls=INST), '[TOOL_CALLS]nullo[ARGS]{}[TOOL_CALLS]tempo{"a": 1}', [("call", "nullo", "{}"), CALLED]),
    (AnswerForm(calls=INST), f"[TOOL_CALLS][1] [TOOL_CALLS][{CALL}]", [("content", "[TOOL_CALLS][1]"), CALLED]),
    (AnswerForm(calls=INST), "[TOOL_CALLS]nada", [("content", "[TOOL_CALLS]nada")]),
    (AnswerForm(calls=LLAMA), ' {"name": "tempo", "parameters": {"a": 1}}', [CALLED]),
    (AnswerForm(calls=LLAMA), f'<|python_tag|>{CALL}\n{CALL}', [CALLED, CALLED]),
    (AnswerForm(calls=LLAMA), f"digo {CALL}", [("content", f"digo {CALL}")]),
    (AnswerForm(calls=LLAMA), '{"cor": "azul"} e mais', [("content", '{"cor": "azul"} e mais')]),
    (AnswerForm(calls=LLAMA), " {azul", [("content", " {azul")]),
])  # fmt: skip
def test_an_answer_comes_apart(form: AnswerForm, text: str, parts: list[tuple[str, ...]]) -> None:
    assert read(form, [text]) == parts
    assert read(form, text) == parts


def test_without_tools_a_call_is_text() -> None:
    for form in (AnswerForm(), AnswerForm(calls=LLAMA), AnswerForm(calls=INST)):
        for text in (f"<tool_call>{CALL}</tool_call>", CALL, f"[TOOL_CALLS][{CALL}]"):
            assert read(form, text, []) == [("content", text)]
    assert AnswerReader(AnswerForm()).push("a <tool_") == [Delta(content="a <tool_")]


def test_words_come_at_once_and_only_what_may_be_a_tag_waits() -> None:
    reader = AnswerReader(AnswerForm(THINK), TOOLS)
    said = [
        total(reader.push(piece)) for piece in ("<think>", "hm ", "já</th", "ink>", "vi", "va ", "<too", "l> a", " <")
    ]
    assert said == [[], [("reasoning", "hm")], [("reasoning", " já")], [], [("content", "vi")], [("content", "va")], [],
                    [("content", " <tool> a")], []]  # fmt: skip
    assert reader.finish() == [Delta(content=" <")]


def test_however_an_answer_is_cut_the_sum_is_the_same_and_nothing_is_lost() -> None:
    scraps = [*THINK, "\n", " ", "olá", "<", "{", '"', "}", "[", "]", "true", "1", "nullo", "[ARGS]", "[TOOL", "<|python", "[TOOL_CALLS]",
              "<tool_call>", "</tool_call>", "<|tool_call|>", "<|/tool_call|>", "<|python_tag|>", CALL, f"[{CALL}]", '{"x": true}',
              '{"name": "tempo", "arguments": {"a": "</tool_call>"}}', '{"name": "nullo", "parameters": {}}']  # fmt: skip
    forms = [
        AnswerForm(tags, opened, calls)
        for tags, opened in ((None, False), (THINK, False), (THINK, True))
        for calls in FORMS.values()
    ]
    dice, calls = random.Random(1143), 0
    for _ in range(3000):
        text, form = "".join(dice.choices(scraps, k=dice.randint(0, 9))), dice.choice(forms)
        whole = read(form, [text])
        cuts = range(len(text) + 1) if dice.random() < 0.5 else sorted(dice.choices(range(len(text) + 1), k=5))
        assert read(form, [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]) == whole, (form, text)
        called = sum(part[0] == "call" for part in whole)
        assert called or bare("".join(part[1] for part in whole)) == bare(text), (form, text)
        calls += called
    assert calls > 50


def bare(text: str) -> str:
    return "".join(text.replace(THINK[0], "").replace(THINK[1], "").split())


def test_no_letter_is_lost_where_no_tag_is_understood() -> None:
    dice = random.Random(1143)
    scraps = [
        "<tool_call>",
        "</tool_call>",
        "{",
        "}",
        '"',
        " ",
        "\n",
        "olá",
        "[TOOL_CALLS]",
        "<|python_tag|>",
        '{"a": 1}',
    ]
    for _ in range(1000):
        text = "".join(dice.choices(scraps, k=8))
        for form in (AnswerForm(), AnswerForm(calls=INST), AnswerForm(calls=LLAMA)):
            assert "".join(part[1] for part in read(form, text)) == text


@pytest.mark.parametrize(("template", "variables", "form"), [
    (QWEN, None, AnswerForm(THINK, False, HERMES)),
    (QWEN, {"enable_thinking": False}, AnswerForm(THINK, False, HERMES)),
    (QWEN + "<think>\n", None, AnswerForm(THINK, True, HERMES)),
    (MISTRAL, None, AnswerForm(None, False, INST)),
    (TEMPLATES["chatml"], None, AnswerForm(None, False, HERMES)),
])  # fmt: skip
def test_a_template_tells_how_its_answers_are_laid_out(
    template: str, variables: dict[str, Any] | None, form: AnswerForm
) -> None:
    assert answer_form(template, variables) == form
