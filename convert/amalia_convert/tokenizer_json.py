"""A `tokenizer.json` of the tokenizers library: byte-level BPE, or SentencePiece's BPE without its model file."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from amalia_convert.checkpoint import Json
from amalia_convert.pre_tokenizer import name_pre_tokenizer
from amalia_convert.tokens import Token, TokenTable, TokenType, added_token, configured_tokens, encodes
from amalia_edge.errors import CheckpointIncomplete, ModelCorrupt, ModelUnsupported

JSON = "tokenizer.json"


def read_tokenizer_json(folder: Path, tokenizer: Json, config: Json) -> TokenTable:
    """Read the tokens, and how libllama is to merge them, out of what the file says of its five stages."""
    path = folder / JSON
    model = tokenizer.get("model")
    if not isinstance(model, dict):
        raise ModelCorrupt(str(path), "has no model", "download the file again")
    if model.get("type", "BPE") != "BPE":  # the oldest files do not name theirs
        raise ModelUnsupported(str(path), f"a {model['type']!a:.40} model", "take a checkpoint with a BPE model")
    for setting in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(setting):
            raise ModelUnsupported(str(path), f"a BPE model with {setting}", "take a model without it")
    vocabulary = _vocabulary(path, model)
    merges = _merges(path, model, vocabulary)
    added = _added(folder, tokenizer, config, vocabulary)
    normalizers = list(_normalizers(path, tokenizer.get("normalizer")))
    if model.get("byte_fallback") is True:
        tokens = _scored(vocabulary, merges, model.get("unk_token"))
        prefix = "Prepend" in normalizers or _metaspace_prepends(path, tokenizer.get("pre_tokenizer"))
        return TokenTable(path, "llama", tokens | added, prefix=prefix)
    if "Prepend" in normalizers:
        raise ModelUnsupported(str(path), "byte-level BPE after a space put first", "take another model")
    pre = name_pre_tokenizer(path, tokenizer, vocabulary, bool(model.get("ignore_merges")))
    tokens = {index: Token(text, 0.0, TokenType.NORMAL) for text, index in vocabulary.items()}
    # A space inside a token would be read as the one between the two.
    spelt = tuple(" ".join(part.replace(" ", "Ġ") for part in merge) for merge in merges)
    return TokenTable(path, "gpt2", tokens | added, pre, spelt)


def _vocabulary(path: Path, model: Json) -> dict[str, int]:
    vocabulary = model.get("vocab")
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ModelCorrupt(str(path), "has no vocabulary", "download the file again")
    texts: dict[int, str] = {}
    for text, index in vocabulary.items():
        if type(index) is not int or index < 0 or not encodes(text):
            raise ModelCorrupt(str(path), f"the token {text[:40]!a} has no id", "download the file again")
        if index in texts:
            found = f"the tokens {texts[index][:40]!a} and {text[:40]!a} have the same id"
            raise ModelCorrupt(str(path), found, "download the file again")
        texts[index] = text
    return cast(dict[str, int], vocabulary)


def _merges(path: Path, model: Json, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Read the merges, each written "a b" or ["a", "b"]; what they make of tokens must be tokens."""
    listed = model.get("merges")
    if not isinstance(listed, list) or not listed:
        raise ModelCorrupt(str(path), "has no merges", "download the file again")
    merges = []
    for number, merge in enumerate(listed):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) and part for part in pair):
            raise ModelCorrupt(str(path), f"merge {number} is not of two tokens", "download the file again")
        left, right = pair
        for text in (left, right, left + right):
            if text not in vocabulary:
                raise ModelCorrupt(str(path), f"merge {number}: {text[:40]!a} is no token", "download the file again")
        merges.append((left, right))
    return merges


def _scored(vocabulary: dict[str, int], merges: list[tuple[str, str]], unknown: object) -> dict[int, Token]:
    """Score each token by the rank of the first merge that makes it, as SentencePiece does when it trains.

    libllama merges the neighbours whose token scores highest; what no merge makes comes after all that merges make.
    """
    scores: dict[str, float] = {}
    for left, right in merges:
        scores.setdefault(left + right, -float(len(scores)))
    last = -float(len(scores))

    def kind(text: str) -> TokenType:
        if re.fullmatch("<0x[0-9A-F]{2}>", text):
            return TokenType.BYTE
        return TokenType.UNKNOWN if text == unknown else TokenType.NORMAL

    return {index: Token(text, scores.get(text, last), kind(text)) for text, index in vocabulary.items()}


def _added(folder: Path, tokenizer: Json, config: Json, vocabulary: dict[str, int]) -> dict[int, Token]:
    path = folder / JSON
    added: dict[int, Token] = {}
    texts = {index: text for text, index in vocabulary.items()}
    listed = tokenizer.get("added_tokens") or []
    if not isinstance(listed, list):
        raise ModelCorrupt(str(path), "added_tokens is not a list", "download the file again")
    for entry in listed:
        index, text = (entry.get("id"), entry.get("content")) if isinstance(entry, dict) else (None, None)
        if type(index) is not int or index < 0 or not isinstance(text, str) or not text or not encodes(text):
            raise ModelCorrupt(str(path), f"an added token is not an id and a text: {entry!a:.60}", "download it again")
        if texts.setdefault(index, text) != text or vocabulary.get(text, index) != index:
            raise ModelCorrupt(str(path), f"the added token {text[:40]!a} is another one too", "download it again")
        added[index] = added_token(text, bool(entry.get("special")))
    for index, text, special in configured_tokens(folder / "tokenizer_config.json", config):
        if texts.get(index, text) != text:
            found = f"token {index} is {texts[index][:40]!a} here and {text[:40]!a} in tokenizer_config.json"
            raise CheckpointIncomplete(str(path), found, "take both from the same model")
        added[index] = added_token(text, special)
    return added


def _normalizers(path: Path, stage: object) -> Iterator[str]:
    """Name what is done to the text first; escaping spaces needs no name, libllama does it."""
    parts = stage.get("normalizers") if isinstance(stage, dict) and stage.get("type") == "Sequence" else [stage]
    for step in parts if isinstance(parts, list) and stage is not None else []:
        kind, pattern = (step.get("type"), step.get("pattern")) if isinstance(step, dict) else (None, None)
        if kind == "NFC" or (kind == "Prepend" and step.get("prepend") == "▁"):
            yield str(kind)
        elif kind != "Replace" or pattern != {"String": " "} or step.get("content") != "▁":
            raise ModelUnsupported(str(path), f"the normalizer {step!a:.80}", "take a model with none, or with NFC")


def _metaspace_prepends(path: Path, step: object) -> bool:
    """Say whether the pre-tokenizer, which may only escape spaces, puts one first."""
    if step is None:
        return False
    if not isinstance(step, dict) or step.get("type") != "Metaspace" or step.get("replacement") != "▁":
        raise ModelUnsupported(str(path), f"the pre-tokenizer {step!a:.80}", "take a model with none, or Metaspace")
    scheme = step.get("prepend_scheme", "always" if step.get("add_prefix_space", True) else "never")
    return bool(scheme != "never")
