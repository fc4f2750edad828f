"""A SentencePiece model and the Hub's files beside it → GGUF's vocabulary."""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from amalia_convert.checkpoint import Checkpoint, Json, read_json, read_text
from amalia_convert.metadata import Metadata, boolean, float32, int32, string, uint32
from amalia_edge.errors import CheckpointIncomplete, ModelCorrupt, ModelUnsupported

ADDED_SCORE, UNUSED_SCORE = -1000.0, -10000.0  # what llama.cpp's converter writes
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "mask": "mask"}
# ("seperator" is how GGUF spells it.)


class TokenType(IntEnum):
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Token:
    text: str
    score: float
    type: TokenType


def describe_vocabulary(checkpoint: Checkpoint, size: int) -> Metadata:
    """Write the whole of `tokenizer.*` for a vocabulary of `size` tokens."""
    folder = checkpoint.folder
    if not (folder / "tokenizer.model").is_file():
        if (folder / "tokenizer.json").is_file():
            found = "there is a tokenizer.json and no tokenizer.model; only SentencePiece models are converted yet"
            raise ModelUnsupported(str(folder), found, "take a checkpoint with a tokenizer.model")
        raise CheckpointIncomplete(str(folder), "there is no tokenizer.model", "download the tokenizer too")
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    processor = _load(folder / "tokenizer.model")
    tokens = _tokens(folder, processor, config, size)
    prefix = config.get("add_prefix_space")
    if not isinstance(prefix, bool):  # the configuration is silent: do what the SentencePiece model itself does
        prefix = str(processor.encode("a", out_type=str)[0]).startswith("▁")
    return {
        "tokenizer.ggml.add_space_prefix": boolean(prefix),
        "tokenizer.ggml.model": string("llama"),
        "tokenizer.ggml.pre": string("default"),
        "tokenizer.ggml.tokens": string(tuple(token.text for token in tokens)),
        "tokenizer.ggml.scores": float32(tuple(token.score for token in tokens)),
        "tokenizer.ggml.token_type": int32(tuple(int(token.type) for token in tokens)),
        **_special(checkpoint.config, config, tokens),
        **_templates(folder, config),
    }


def _load(path: Path) -> Any:  # sentencepiece has no types
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
    except OSError as error:
        raise CheckpointIncomplete(str(path), f"cannot be read ({error.strerror})", "check the file") from None
    except RuntimeError:  # whatever protobuf says of it helps nobody
        raise ModelCorrupt(str(path), "is not a SentencePiece model", "download the file again") from None


def _tokens(folder: Path, processor: Any, config: Json, size: int) -> list[Token]:
    pieces = int(processor.vocab_size())
    if pieces > size:
        found = f"has {pieces} pieces, and the embedding {size} rows"
        raise CheckpointIncomplete(str(folder / "tokenizer.model"), found, "take both from the same model")
    tokens = [
        Token(processor.id_to_piece(index), processor.get_score(index), _type(processor, index))
        for index in range(pieces)
    ]
    tokens += [Token(f"[PAD{index}]", UNUSED_SCORE, TokenType.UNUSED) for index in range(pieces, size)]
    for index, token in _added(folder, config):
        if not 0 <= index < size:
            found = f"adds the token {index}, and the embedding has {size} rows"
            raise CheckpointIncomplete(str(folder), found, "take both from the same model")
        tokens[index] = token
    return tokens


def _type(processor: Any, index: int) -> TokenType:
    if processor.is_unknown(index):
        return TokenType.UNKNOWN
    if processor.is_control(index):
        return TokenType.CONTROL
    if processor.is_unused(index):
        return TokenType.UNUSED
    return TokenType.BYTE if processor.is_byte(index) else TokenType.NORMAL


def _added(folder: Path, config: Json) -> list[tuple[int, Token]]:
    """List the tokens added to the SentencePiece model's own; of two that claim an id the later one holds."""
    added: list[tuple[int, Token]] = []
    where = str(folder / "tokenizer_config.json")
    if (folder / "added_tokens.json").is_file():
        for name, number in read_json(folder / "added_tokens.json").items():
            if type(number) is not int or not _encodes(name):
                raise ModelCorrupt(str(folder / "added_tokens.json"), f"{name[:40]!a} has no id", "download it again")
            added.append((number, Token(name, ADDED_SCORE, TokenType.USER_DEFINED)))
    decoder = config.get("added_tokens_decoder", {})
    if not isinstance(decoder, dict):
        raise ModelCorrupt(where, "added_tokens_decoder is not an object", "download the file again")
    for index, entry in decoder.items():
        if not (index.isascii() and index.isdecimal()) or not isinstance(entry, dict):
            raise ModelCorrupt(where, f"added token {index[:40]!r} is not an id and an object", "download it again")
        text = entry.get("content")
        if not isinstance(text, str) or not _encodes(text):
            raise ModelCorrupt(where, f"added token {index} has no text", "download the file again")
        if entry.get("special") or _looks_special(text):
            added.append((int(index), Token(text, ADDED_SCORE, TokenType.CONTROL)))
        else:  # libllama looks for user-defined tokens in the text before spaces are escaped
            added.append((int(index), Token(text.replace("▁", " "), ADDED_SCORE, TokenType.USER_DEFINED)))
    return added


def _looks_special(text: str) -> bool:
    """Recognise tokens that were meant as control tokens and not marked so (llama.cpp's list)."""
    marks = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
    return text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]") or any(
        text.startswith(begin) and text.endswith(end) for begin, end in marks
    )


def _special(model_config: Json, config: Json, tokens: list[Token]) -> Metadata:
    """Write which token begins, ends and pads: by its text in tokenizer_config, else by its id in config."""
    ids, flags = Metadata(), Metadata()
    index_of: dict[str, int] = {}
    for index, token in enumerate(tokens):
        index_of.setdefault(token.text, index)
    for short, long in SPECIAL.items():
        text = config.get(f"{short}_token")
        text = text.get("content") if isinstance(text, dict) else text
        found = index_of.get(text) if isinstance(text, str) else None
        if found is None:
            number = model_config.get(f"{short}_token_id")
            number = number[0] if isinstance(number, list) and number else number  # several ends: the first is the one
            found = number if type(number) is int and 0 <= number < len(tokens) else None
        if found is not None:
            ids[f"tokenizer.ggml.{long}_token_id"] = uint32(found)
        flag = config.get(f"add_{short}_token")
        if isinstance(flag, bool) and short in ("bos", "eos", "sep"):
            flags[f"tokenizer.ggml.add_{short}_token"] = boolean(flag)
    return ids | flags


def _templates(folder: Path, config: Json) -> Metadata:
    """Find the chat template; the file chat_template.jinja wins, as in transformers."""
    if (folder / "chat_template.jinja").is_file():
        return {"tokenizer.chat_template": string(read_text(folder / "chat_template.jinja"))}
    template = config.get("chat_template")
    if isinstance(template, str):
        return {"tokenizer.chat_template": string(template)}
    named = {
        "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in entry["name"]): entry["template"]
        for entry in (template if isinstance(template, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
    }
    default = named.pop("default", None)
    found = {f"tokenizer.chat_template.{name}": string(text) for name, text in named.items()}
    if named:
        found["tokenizer.chat_templates"] = string(tuple(named))
    if default is not None:
        found["tokenizer.chat_template"] = string(default)
    return found


def _encodes(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
