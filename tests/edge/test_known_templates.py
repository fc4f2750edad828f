"""Our own templates write what the models they are for were trained on."""

import pytest

from amalia_edge.abilities import abilities, setting
from amalia_edge.errors import ModelUnsupported, UsageError
from amalia_edge.known_templates import SIGNS, TEMPLATES, choose_template, known_template
from amalia_edge.template import render

EXPECTED = {
    "chatml": "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu <|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
    "<|im_start|>user\nv<|im_end|>\n<|im_start|>assistant\n",
    "llama-3": "B<|start_header_id|>system<|end_header_id|>\n\ns<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nu<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nv<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "B[INST] u [/INST] aE[INST] v[/INST]",
    "gemma": "B<start_of_turn>user\nu<end_of_turn>\n<start_of_turn>model\na<end_of_turn>\n<start_of_turn>user\nv<end_of_turn>\n"
    "<start_of_turn>model\n",
    "phi-3": "B<|system|>\ns<|end|>\n<|user|>\nu <|end|>\n<|assistant|>\na<|end|>\n<|user|>\nv<|end|>\n<|assistant|>\n",
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_known_template_writes_its_models_turns(name: str) -> None:
    turns = [("system", "s"), ("user", "u "), ("assistant", "a"), ("user", "v")]
    messages = [{"role": role, "content": text} for role, text in turns][not abilities(TEMPLATES[name]).system :]
    assert render(TEMPLATES[name], setting(messages, None) | {"bos_token": "B", "eos_token": "E"}) == EXPECTED[name]


@pytest.mark.parametrize("name", TEMPLATES)
def test_control_tokens_tell_which_template_it_is(name: str) -> None:
    assert known_template(SIGNS[name]) == TEMPLATES[name]


def test_a_vocabulary_that_tells_of_no_template_is_refused() -> None:
    with pytest.raises(ModelUnsupported, match="no chat template"):
        known_template(("<s>", "</s>"))


def test_a_name_comes_before_the_files_own_template_and_that_before_a_known_one() -> None:
    own = {"tokenizer.chat_template": "own", "tokenizer.chat_template.tool_use": "for tools"}
    signs = SIGNS["chatml"]
    assert choose_template(own, signs, "gemma") == TEMPLATES["gemma"]
    assert choose_template(own, signs) == "own"
    assert choose_template(own, signs, tools=True) == "for tools"
    assert choose_template({"tokenizer.chat_template": "own"}, signs, tools=True) == "own"
    assert choose_template({"tokenizer.chat_template": ""}, signs) == TEMPLATES["chatml"]
    with pytest.raises(UsageError, match="chatml, llama-3, mistral, gemma, phi-3"):
        choose_template(own, signs, "jinja")
