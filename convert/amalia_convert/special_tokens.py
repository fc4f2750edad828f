"""Which tokens begin, end and pad a text, and which of them are added to it: read as llama.cpp's converter reads them."""

from pathlib import Path
from typing import Any

from amalia_convert.checkpoint import Json
from amalia_convert.metadata import Metadata, boolean, uint32
from amalia_convert.tokens import Token
from amalia_edge.errors import ModelCorrupt

NAMES = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask",
         "eot": "eot", "eom": "eom"}  # fmt: skip
# ("seperator" is how GGUF spells it.)
CODE_LLAMA = {"prefix": 32007, "suffix": 32008, "middle": 32009, "eot": 32010}  # known by its 32016 tokens
LLAMA_FAMILY = ("LlamaForCausalLM", "MistralForCausalLM")


class SpecialTokens:
    """The texts and flags, as tokenizer_config.json gives them and tokenizer.json's post-processor corrects them."""

    def __init__(self, config: Json, tokenizer: Json, path: Path) -> None:
        self.texts = {kind: _text(config.get(f"{kind}_token")) for kind in (*NAMES, "cls")}
        self.flags: dict[str, bool] = {}
        self.texts["bos"] = self.texts["bos"] or self.texts["cls"]
        self.texts["eos"] = self.texts["eos"] or self.texts["sep"]
        stage = tokenizer.get("post_processor")
        steps = stage.get("processors", [stage]) if isinstance(stage, dict) else []
        try:
            for step in steps:
                if step["type"] == "ByteLevel":
                    self.flags = {"bos": False, "eos": False} | self.flags
                elif step["type"] == "TemplateProcessing":
                    self._follow(step["single"], step["pair"])
        except (KeyError, TypeError, AttributeError):
            raise ModelCorrupt(str(path), "its post-processor is not one", "download the file again") from None
        for kind in ("bos", "eos", "sep"):
            flag = config.get(f"add_{kind}_token")
            if isinstance(flag, bool):
                self.flags.setdefault(kind, flag)

    def _follow(self, single: list[Json], pair: list[Json]) -> None:
        """Read off a template what it puts before, behind and between texts."""
        first = last = None
        if len(single) > 1:
            first, last = _special(single[0]), _special(single[-1])
        if first:
            self.texts["bos"] = self.texts["bos"] or first
            self.texts["cls"] = self.texts["cls"] or first
            self.flags["bos"] = first in (self.texts["bos"], self.texts["cls"])
        if last:
            if last != self.texts["eos"]:  # what ends a turn is not what ends the text
                self.texts["eot"], self.texts["eos"] = self.texts["eos"], last
            self.flags["eos"] = True
        begins = bool(first and pair and _special(pair[0]) == first)
        ends = bool(last and pair and _special(pair[-1]) == last)
        texts = pair[begins : len(pair) - ends]
        if texts and _sequence(texts[0]) == "A" and _sequence(texts[-1]) == "B" and texts[1:-1]:
            between = [_special(step) for step in texts[1:-1]]
            separators = [text for text in (self.texts["sep"], self.texts["eos"]) if text]
            self.flags["sep"] = (not last and between[0] in separators) or (
                len(between) == 2 and between[1] in separators
            )
            if self.flags["sep"]:
                self.texts["sep"] = self.texts["sep"] or self.texts["eos"]


def describe_special(special: SpecialTokens, model_config: Json, tokens: list[Token]) -> Metadata:
    """Write each special token's id: by its text in the tokenizer's configuration, else by its id in the model's."""
    ids: dict[str, int] = {}
    index_of: dict[str, int] = {token.text: index for index, token in enumerate(tokens)}
    for short, long in NAMES.items():
        found: Any = index_of.get(special.texts[short] or "")
        if found is None:
            found = model_config.get(f"{short}_token_id")
            found = found[0] if isinstance(found, list) and found else found  # several ends: the first is the one
        if type(found) is int and 0 <= found < len(tokens):
            ids[long] = found
    flags = dict(special.flags)
    if any(name in LLAMA_FAMILY for name in _names(model_config.get("architectures"))):
        if model_config.get("vocab_size") == 32016:
            ids |= CODE_LLAMA
        if model_config.get("vocab_size") == 49152:  # SmolLM, and Granite's small ones
            flags["bos"] = False
    return {f"tokenizer.ggml.{name}_token_id": uint32(index) for name, index in ids.items()} | {
        f"tokenizer.ggml.add_{name}_token": boolean(flag) for name, flag in flags.items()
    }


def _text(entry: object) -> str | None:
    text = entry.get("content") if isinstance(entry, dict) else entry
    return text if isinstance(text, str) and text else None


def _special(step: Json) -> str | None:
    entry = step.get("SpecialToken", {})
    return _text(entry.get("id")) if isinstance(entry, dict) else None


def _sequence(step: Json) -> object:
    entry = step.get("Sequence", {})
    return entry.get("id") if isinstance(entry, dict) else None


def _names(value: object) -> list[object]:
    return value if isinstance(value, list) else []
