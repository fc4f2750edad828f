"""Chat templates of our own, for files that bring none: chosen by name, or by the control tokens of the vocabulary."""

from collections.abc import Container, Mapping
from typing import Any

from amalia_edge.errors import ModelUnsupported, UsageError

_FIRST = (
    "{{ bos_token }}{% for message in messages %}{% set role = message['role'] %}{% set text = message['content'] %}"
)
_LAST = "{% endfor %}{% if add_generation_prompt %}"
_REFUSES_SYSTEM = "{% if role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}"

TEMPLATES = {
    "chatml": "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama-3": _FIRST + "{{ '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + text | trim + '<|eot_id|>' }}"
    + _LAST + "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "mistral": _FIRST + _REFUSES_SYSTEM
    + "{% if role == 'user' %}{{ '[INST] ' + text + '[/INST]' }}{% else %}{{ ' ' + text | trim + eos_token }}{% endif %}"
    + "{% endfor %}",
    "gemma": _FIRST + _REFUSES_SYSTEM
    + "{{ '<start_of_turn>' + ('model' if role == 'assistant' else role) + '\n' + text | trim + '<end_of_turn>\n' }}"
    + _LAST + "{{ '<start_of_turn>model\n' }}{% endif %}",
    "phi-3": _FIRST + "{{ '<|' + role + '|>\n' + text + '<|end|>\n' }}" + _LAST + "{{ '<|assistant|>\n' }}{% endif %}",
}  # fmt: skip
SIGNS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama-3": ("<|start_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "mistral": ("[INST]", "[/INST]"),
    "phi-3": ("<|user|>", "<|assistant|>", "<|end|>"),
}


def choose_template(
    metadata: Mapping[str, Any], control: Container[str], name: str | None = None, *, tools: bool = False
) -> str:
    """Give the template asked for by name, else the file's own (that for tools, if there are any), else a known one."""
    if name is not None:
        if name not in TEMPLATES:
            raise UsageError("--chat-template", f"{name!r}", "one of " + ", ".join(TEMPLATES))
        return TEMPLATES[name]
    for key in ("tokenizer.chat_template.tool_use",) * tools + ("tokenizer.chat_template",):
        own = metadata.get(key)
        if isinstance(own, str) and own:
            return own
    return known_template(control)


def known_template(control: Container[str]) -> str:
    """Give the template a vocabulary's control tokens tell of."""
    for name, signs in SIGNS.items():
        if all(sign in control for sign in signs):
            return TEMPLATES[name]
    raise ModelUnsupported(
        "chat",
        "the model has no chat template",
        "give --chat-template NAME, or use amalia run --raw to continue a text",
    )
