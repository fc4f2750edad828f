"""A checkpoint's tokenizer → GGUF's vocabulary: the whole of `tokenizer.*`."""

from pathlib import Path

from amalia_convert.chat_template import describe_templates
from amalia_convert.checkpoint import Checkpoint, Json, read_json
from amalia_convert.metadata import Metadata, boolean, float32, int32, string
from amalia_convert.pre_tokenizer import BEGINNING
from amalia_convert.sentencepiece_model import MODEL, read_sentencepiece
from amalia_convert.special_tokens import SpecialTokens, describe_special
from amalia_convert.tokenizer_json import JSON, read_tokenizer_json
from amalia_convert.tokens import TokenTable, complete
from amalia_edge.errors import CheckpointIncomplete


def describe_vocabulary(checkpoint: Checkpoint, size: int) -> Metadata:
    """Write the vocabulary for an embedding of `size` rows."""
    folder = checkpoint.folder
    tokenizer, config = read_tokenizer_files(folder)
    table = read_table(folder, tokenizer, config, size)
    tokens = complete(table, size)
    special = SpecialTokens(config, tokenizer, folder / JSON)
    if table.pre in BEGINNING:
        special.flags.setdefault("bos", False)
    return {
        **_prefix(table, config),
        "tokenizer.ggml.model": string(table.model),
        "tokenizer.ggml.pre": string(table.pre),
        "tokenizer.ggml.tokens": string(tuple(token.text for token in tokens)),
        **_scores(table, [token.score for token in tokens]),
        "tokenizer.ggml.token_type": int32(tuple(int(token.type) for token in tokens)),
        **_merges(table),
        **describe_special(special, checkpoint.config, tokens),
        **describe_templates(folder, config),
    }


def read_tokenizer_files(folder: Path) -> tuple[Json, Json]:
    """Read tokenizer.json and tokenizer_config.json, each empty where it is not there."""
    paths = folder / JSON, folder / "tokenizer_config.json"
    tokenizer, config = (read_json(path) if path.is_file() else {} for path in paths)
    return tokenizer, config


def read_table(folder: Path, tokenizer: Json, config: Json, size: int) -> TokenTable:
    """Read the tokens; a SentencePiece model is preferred, for tokenizer.json is made of it."""
    if (folder / MODEL).is_file():
        return read_sentencepiece(folder, config, size)
    if (folder / JSON).is_file():
        return read_tokenizer_json(folder, tokenizer, config)
    raise CheckpointIncomplete(str(folder), f"there is no {MODEL} and no {JSON}", "download the tokenizer too")


def _prefix(table: TokenTable, config: Json) -> Metadata:
    if table.model == "llama":
        return {"tokenizer.ggml.add_space_prefix": boolean(table.prefix)}
    told = config.get("add_prefix_space")  # means nothing to byte-level BPE, and llama.cpp writes it
    return {"tokenizer.ggml.add_space_prefix": boolean(told)} if isinstance(told, bool) else {}


def _scores(table: TokenTable, scores: list[float]) -> Metadata:
    return {"tokenizer.ggml.scores": float32(tuple(scores))} if table.model == "llama" else {}


def _merges(table: TokenTable) -> Metadata:
    return {} if table.model == "llama" else {"tokenizer.ggml.merges": string(table.merges)}
