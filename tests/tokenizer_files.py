"""Tiny tokenizers as tokenizer.json and tokenizer_config.json, trained on the tests' Portuguese: no download."""

import copy
import functools
import io
import json
import struct
from pathlib import Path
from typing import Any

from amalia_convert.checkpoint import Checkpoint
from amalia_convert.metadata import Metadata, pack, string
from amalia_convert.vocab import describe_vocabulary
from checkpoints import PORTUGUESE, sentencepiece_model, write_json

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
REGEXES = {
    "qwen2": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST,
    "qwen35": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}" + REST.replace(r"[^\s\p{L}", r"[^\s\p{L}\p{M}"),
    "llama-bpe": CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST,
    "tekken": rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}"
    + REST.replace(r"[\r\n]*", r"[\r\n/]*"),
}
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # Qwen's, at the end of the vocabulary
DIGITS = {"type": "Digits", "individual_digits": True}


def write_byte_level_bpe(folder: Path, regex: str = "qwen2", special: tuple[str, ...] = SPECIAL) -> int:
    """Write a byte-level BPE of about 450 tokens, cut by the pre-tokenizer of that name; gives how many there are.

    The first special token pads, the last one ends; with `llama-bpe` and `tekken` the first one begins, and is added.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level_bpe(regex, special)
    begins = regex in ("llama-bpe", "tekken")
    if begins:
        single = [{"SpecialToken": {"id": special[0], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        ids = {special[0]: {"id": special[0], "ids": [tokenizer["added_tokens"][0]["id"]], "tokens": [special[0]]}}
        template = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": ids}
        tokenizer["post_processor"] = {"type": "Sequence", "processors": [byte_level(trim=True), template]}
    write_json(folder / "tokenizer.json", tokenizer)
    configuration = {"eos_token": special[-1], "pad_token": special[0], "tokenizer_class": "PreTrainedTokenizerFast"}
    configuration["bos_token" if begins else "additional_special_tokens"] = special[0] if begins else list(special)
    write_json(folder / "tokenizer_config.json", configuration)
    return len(tokenizer["model"]["vocab"]) + len(special)


def write_sentencepiece_json(folder: Path, prefix: bool = False, metaspace: bool = False) -> int:
    """Write the tests' SentencePiece model as a tokenizer.json alone, as transformers does; gives its tokens' number."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = sentencepiece_json(prefix, metaspace)
    write_json(folder / "tokenizer.json", tokenizer)
    configuration = {"add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "<|im_end|>",
                     "pad_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}  # fmt: skip
    write_json(folder / "tokenizer_config.json", configuration)
    return len(tokenizer["model"]["vocab"])


def train_sentencepiece(**settings: object) -> bytes:
    """Train a SentencePiece BPE of 400 pieces, with the trainer's own settings but for these."""
    import sentencepiece

    buffer = io.BytesIO()
    defaults = {"model_type": "bpe", "vocab_size": 400, "byte_fallback": True, "num_threads": 1, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(PORTUGUESE.splitlines()), model_writer=buffer, **defaults | settings
    )
    return buffer.getvalue()


def describe(folder: Path, size: int, **config: object) -> Metadata:
    """Convert a folder's tokenizer alone, for an embedding of `size` rows."""
    return describe_vocabulary(Checkpoint(folder, {"vocab_size": size, **config}), size)


def write_vocabulary(path: Path, entries: Metadata) -> Path:
    """Write a GGUF that holds a vocabulary and nothing else."""
    entries = {"general.architecture": string("llama")} | entries
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries)) + pack(entries))
    return path


def byte_level_bpe(regex: str, special: tuple[str, ...] = SPECIAL) -> dict[str, Any]:
    """Train the vocabulary once, and give a copy that a test may break."""
    return copy.deepcopy(_byte_level_bpe(regex, special))


@functools.cache
def _byte_level_bpe(regex: str, special: tuple[str, ...]) -> dict[str, Any]:
    from tokenizers import Tokenizer, pre_tokenizers, trainers

    model = {"type": "BPE", "vocab": {}, "merges": [], "ignore_merges": regex in ("llama-bpe", "tekken")}
    empty = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": {"type": "NFC"} if regex.startswith("qwen") else None, "pre_tokenizer": pre_tokenizer(regex),
        "post_processor": byte_level(), "decoder": byte_level(trim=True), "model": model,
    }  # fmt: skip
    tokenizer = Tokenizer.from_str(json.dumps(empty))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=450, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(PORTUGUESE.splitlines(), trainer)
    tokenizer.add_special_tokens(list(special))
    trained: dict[str, Any] = json.loads(tokenizer.to_str())
    return trained


def pre_tokenizer(regex: str) -> dict[str, Any]:
    if regex == "gpt-2":
        return byte_level(trim=True, regex=True)
    if regex in ("smollm", "minerva-7b"):
        return {"type": "Sequence", "pretokenizers": [DIGITS, byte_level(trim=True, regex=True)]}
    split = {"type": "Split", "pattern": {"Regex": REGEXES[regex]}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, byte_level()]}


def byte_level(trim: bool = False, regex: bool = False) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": trim, "use_regex": regex}


def sentencepiece_json(prefix: bool = False, metaspace: bool = False) -> dict[str, Any]:
    """Spell every way to make a piece from two as a merge, the best-scored piece first."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    pieces = {model.id_to_piece(index): index for index in range(model.vocab_size())}
    ways = [(piece[:cut], piece[cut:]) for piece in pieces for cut in range(1, len(piece))]
    merges = [way for way in ways if way[0] in pieces and way[1] in pieces]
    merges.sort(key=lambda way: (pieces[way[0]], pieces[way[1]]))
    merges.sort(key=lambda way: -model.get_score(pieces["".join(way)]))
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    normalizers = [{"type": "Prepend", "prepend": "▁"}, replace] if prefix else [replace]
    scheme = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first" if prefix else "never", "split": False}
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    ]  # fmt: skip
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    added = [
        {"id": index, "content": model.id_to_piece(index), "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for index in range(5)
    ]  # fmt: skip
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    ids = {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": None if metaspace else {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": scheme if metaspace else None,
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": ids},
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
            "vocab": pieces, "merges": [" ".join(way) for way in merges],
        },
    }  # fmt: skip
