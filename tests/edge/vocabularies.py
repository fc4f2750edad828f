"""Tiny vocabularies, alone in a GGUF, of each kind libllama tokenizes with, and the templates they are tried with."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import gguf

from amalia_edge import native
from amalia_edge.known_templates import TEMPLATES
from amalia_edge.vocab import Vocabulary
from models import LETTERS
from tokenizer_files import describe, write_byte_level_bpe, write_vocabulary

CHATML = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
LLAMA = (
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|end_of_text|>",
)
INST = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")
GEMMA = ("<pad>", "<bos>", "<eos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
PHI = (
    "<unk>",
    "<s>",
    "</s>",
    "<|endoftext|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
    "<|tool|>",
    "<|placeholder|>",
)
THINKING = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")

# Contents touch, are stripped, and stand within what could become a token: the worst of templates.
GLUED = (
    "{% for m in messages %}{{ m['content'] | trim }}{% endfor %}"
    "{% for m in messages if m.name %}{{ '<|' + m.name | lower + '|>' }}{{ '[' + m.name + ']' }}{% endfor %}<|im_start|>"
)
# In the manner of Qwen3: reasoning apart, tools and calls as JSON.
QWEN = (
    "{%- if tools %}<|im_start|>system\n"
    "{%- if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}\n# Tools\n"
    "{%- for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n"
    'answer with <tool_call>\n{"name": <name>, "arguments": <object>}\n</tool_call><|im_end|>\n'
    "{%- elif messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}"
    "{%- for message in messages %}{% set content = message.content %}"
    "{%- if message.role == 'user' %}<|im_start|>user\n{{ content }}<|im_end|>\n"
    "{%- elif message.role == 'assistant' %}{% set thought = message.reasoning_content or '' %}"
    "{%- if not thought and '</think>' in content %}{% set thought = content.split('</think>')[0].split('<think>')[-1] %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}<|im_start|>assistant\n"
    "{%- if loop.last or not loop.first and thought %}<think>\n{{ thought.strip('\n') }}\n</think>\n\n{% endif %}"
    "{{ content }}{% for call in message.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{%- endfor %}<|im_end|>\n"
    "{%- elif message.role == 'tool' %}{% if loop.previtem and loop.previtem.role != 'tool' %}<|im_start|>user{% endif %}"
    "\n<tool_response>\n{{ content }}\n</tool_response>"
    "{%- if loop.last or loop.nextitem.role != 'tool' %}<|im_end|>\n{% endif %}{% endif %}{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n"
    "{%- if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# In the manner of Mistral: strict turns, tools before the last question, ids of nine letters.
MISTRAL = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}"
    "{%- for message in messages %}{% if message.role == 'user' %}"
    "{%- if tools and loop.last %}{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST] ' + message.content + '[/INST]' }}"
    "{%- elif message.tool_calls %}[TOOL_CALLS] [{% for call in message.tool_calls %}"
    "{%- if call.id | length != 9 %}{{ raise_exception('ids have nine letters') }}{% endif %}"
    "{{ (call.function | tojson)[:-1] + ', \"id\": \"' + call.id + '\"}' }}{{ ', ' if not loop.last }}{% endfor %}]"
    "{{- eos_token }}{% elif message.role == 'assistant' %}{{ ' ' + message.content | trim + eos_token }}"
    "{%- elif message.role == 'tool' %}{{ '[TOOL_RESULTS] {\"content\": ' + message.content | tojson + '}' }}{% endif %}"
    "{%- endfor %}"
)
KINDS = {  # (kind of vocabulary, control tokens, user-defined ones, templates)
    "spm": ("spm", CHATML, (), (TEMPLATES["chatml"], GLUED)),
    "spm-prefix": ("spm-prefix", CHATML, THINKING, (TEMPLATES["chatml"], GLUED, QWEN)),
    "spm-inst": ("spm-prefix", INST, (), (TEMPLATES["mistral"], MISTRAL)),
    "spm-inst-user-defined": ("spm", INST[:3], INST[3:], (TEMPLATES["mistral"], MISTRAL)),
    "spm-gemma": ("spm", GEMMA, ("▁▁", "\n\n", "<table>"), (TEMPLATES["gemma"],)),
    "spm-words": ("spm", (*CHATML, "USER", "end of"), (), (TEMPLATES["chatml"], "USER {{ messages[0].content }}end of")),
    "spm-phi-3": ("spm-phi-3", PHI, (), (TEMPLATES["phi-3"],)),
    "bpe-chatml": ("qwen2", CHATML[3:], THINKING, (TEMPLATES["chatml"], QWEN, GLUED)),
    "bpe-llama": ("llama-bpe", LLAMA, (), (TEMPLATES["llama-3"],)),
    "bpe-odd": ("qwen2", (*CHATML[3:], "<|", "|>", "<｜User｜>"), ("<|start|>", "<|a<|"), (TEMPLATES["chatml"], QWEN)),
}  # fmt: skip


@contextlib.contextmanager
def open_kind(folder: Path, name: str) -> Iterator[Vocabulary]:
    """Write one of the vocabularies and let libllama load it."""
    kind, control, marks, _ = KINDS[name]
    folder.mkdir(parents=True, exist_ok=True)
    write = _write_spm if kind.startswith("spm") else _write_bpe
    with native.open_vocabulary(write(folder, kind, control, marks)) as pointer:
        yield Vocabulary(pointer)


def _write_spm(folder: Path, kind: str, control: tuple[str, ...], marks: tuple[str, ...]) -> Path:
    writer = gguf.GGUFWriter(folder / "spm.gguf", "llama")
    writer.add_name("Phi-3 mini" if kind == "spm-phi-3" else "Tiny")  # libllama trims after tokens of that name
    normal = [*LETTERS, "<", ">", "|", "[", "]", "/", "<s", "s>", "</", "im_"]  # merging leads to <s> and </s>
    pieces = [*control, *marks, *(f"<0x{byte:02X}>" for byte in range(256)), *normal]
    types = gguf.TokenType
    kinds = [types.UNKNOWN if text == "<unk>" else types.CONTROL for text in control]
    kinds += [types.USER_DEFINED] * len(marks) + [types.BYTE] * 256 + [types.NORMAL] * len(normal)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * (len(pieces) - len(normal)) + [-float(rank) for rank in range(len(normal))])
    writer.add_token_types(kinds)
    writer.add_unk_token_id(control.index("<unk>"))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(kind == "spm-prefix")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return folder / "spm.gguf"


def _write_bpe(folder: Path, regex: str, control: tuple[str, ...], marks: tuple[str, ...]) -> Path:
    size = write_byte_level_bpe(folder, regex, control)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text("utf-8"))
    for place, mark in enumerate(marks):
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        tokenizer["added_tokens"].append({"id": size + place, "content": mark, **plain})
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), "utf-8")
    return write_vocabulary(folder / "bpe.gguf", describe(folder, size + len(marks)))
