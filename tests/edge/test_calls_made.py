"""What `Model.chat` gives beside words: tool calls held to their schemas, reasoning apart, log-probabilities."""

import json
import math
from pathlib import Path

import pytest

from amalia_edge.engine import Piece
from amalia_edge.messages import Tool
from amalia_edge.model import LoadConfig, Model
from amalia_edge.sampler import SamplingConfig
from models import TEMPLATE, tiny_model

TIDE: Tool = {
    "type": "function",
    "function": {
        "name": "mare",
        "description": "A maré num porto.",
        "parameters": {
            "type": "object",
            "properties": {"porto": {"enum": ["Sines", "Faro"]}, "horas": {"type": "integer", "maximum": 24, "minimum": 0}},
            "required": ["porto", "horas"],
            "additionalProperties": False,
        },
    },
}  # fmt: skip
ASKED = [{"role": "user", "content": "A que horas é a maré em Sines?"}]


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_that_must_be_a_call_is_one_by_the_tools_schema(model: Model, seed: int) -> None:
    sampling = SamplingConfig(temperature=1.5, seed=seed)
    with Model.open(model.header.path, LoadConfig(context=1024, threads=2)) as roomy:
        pieces = list(roomy.chat(ASKED, sampling, [TIDE], must_call=True))
    (call,) = [call for piece in pieces for call in piece.calls]
    arguments = json.loads(call["function"]["arguments"])
    assert call["function"]["name"] == "mare"
    assert arguments["porto"] in ("Sines", "Faro")
    assert 0 <= arguments["horas"] <= 24
    assert "".join(piece.text for piece in pieces) == ""
    assert pieces[-1].finish == "stop"


def test_what_a_model_thinks_is_no_part_of_its_words(tmp_path: Path) -> None:
    thinking = TEMPLATE + "{# <think></think> #}"
    path = tiny_model(tmp_path / "thinks.gguf", template=thinking)
    with Model.open(path, LoadConfig(context=256, threads=2)) as opened:
        said = iter(["<thi", "nk>uma ideia</th", "ink>olá"])

        def complete(_ids: object, _sampling: object = None) -> list[Piece]:
            return [Piece(text, 7, "stop" if "ink>o" in text else None) for text in said]

        opened.complete = complete  # type: ignore[method-assign, assignment]
        pieces = list(opened.chat(ASKED))
    assert "".join(piece.reasoning for piece in pieces) == "uma ideia"
    assert "".join(piece.text for piece in pieces) == "olá"


def test_a_piece_tells_the_likeliest_tokens_beside_its_own(model: Model) -> None:
    sampling = SamplingConfig(temperature=0, limit=6, logprobs=3, ignore_end=True)
    for piece in model.complete(model.prompt("o mar"), sampling):
        assert len(piece.top) == 3
        assert piece.top[0] == (piece.token, piece.logprob)  # greedy takes the likeliest
        assert sum(math.exp(logprob) for _, logprob in piece.top) < 1
