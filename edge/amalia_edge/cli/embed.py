"""`amalia embed`: texts in, vectors out."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click
import numpy as np
from click.core import ParameterSource
from numpy.typing import NDArray

from amalia_edge.cli.options import JSON, LOADING, MODEL, VERSION, Command, model_name, opened, with_options
from amalia_edge.console import emit
from amalia_edge.embedding import POOLINGS, Embedder, token_ids
from amalia_edge.errors import UsageError


@click.command(cls=Command)
@click.argument("words", nargs=-1, metavar="[MODEL] [TEXT]...")
@MODEL
@click.option("--pooling", type=click.Choice(POOLINGS), envvar="LLAMA_ARG_POOLING", show_envvar=True, help="What of the tokens' vectors becomes the text's. [default: the model's, else their mean]")  # fmt: skip
@with_options(*LOADING)
@JSON
@VERSION
def embed(
    words: tuple[str, ...], model_option: str | None, pooling: str | None, as_json: bool, **settings: Any
) -> int:  # fmt: skip
    """Give the vector of each TEXT, of length one: a JSON array on a line of its own.

    Without TEXT, each line of standard input is one. MODEL is what `amalia run` takes; with -m all words are texts.
    --json prints them as OpenAI's API does.
    """
    asked = click.get_current_context().get_parameter_source("model_option") is ParameterSource.COMMANDLINE
    name = model_name(None if asked or not words else words[0], model_option)
    wanted = (words if asked else words[1:]) or _lines()
    with opened(name, settings) as opened_model:
        ids = [token_ids(opened_model, text) for text in wanted]
        with Embedder(opened_model, pooling, room=max(map(len, ids))) as embedder:
            vectors = embedder.embed(ids)
        if as_json:
            tokens = sum(map(len, ids))
            emit("embed", _as_openai(vectors, opened_model.header.name, tokens))
            return 0
    for vector in vectors:
        print(json.dumps(_numbers(vector)))
    return 0


def _lines() -> Sequence[str]:
    lines = [] if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read().splitlines()
    try:
        texts = [line.decode() for line in lines if line.strip()]
    except UnicodeDecodeError:
        raise UsageError("standard input", "not UTF-8", "convert it: iconv -f latin1 -t utf-8") from None
    if not texts:
        raise UsageError("TEXT", "none given", 'say what to embed: amalia embed MODEL "o mar"')
    return texts


def _as_openai(vectors: NDArray[np.float32], model: str, tokens: int) -> dict[str, Any]:
    data = [
        {"object": "embedding", "index": place, "embedding": _numbers(vector)} for place, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _numbers(vector: NDArray[np.float32]) -> list[float]:
    """Give each number with no more digits than a float32 has."""
    return [float(str(number)) for number in vector]
