"""A text's vector is what the model makes of its tokens, pooled, of length one, whoever stands beside it."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from amalia_edge import native
from amalia_edge.cli.embed import embed as command
from amalia_edge.embedding import POOLINGS, Embedder, embed, token_ids
from amalia_edge.errors import ContextFull, UsageError
from amalia_edge.model import LoadConfig, Model
from models import tiny_model

TEXTS = [
    "olá",
    "o mar é azul, e o mar é grande",
    "a",
    "uma frase bem mais comprida do que as outras, que não cabe num só pedaço",
]

SETTINGS = LoadConfig(
    context=512, threads=1, micro_batch=32, cache_keys="f32", cache_values="f32", flash_attention="off"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path = tiny_model(tmp_path_factory.mktemp("embedding") / "tiny.gguf", kind="F32")
    with Model.open(path, SETTINGS) as opened:
        yield opened


def every_token(model: Model, text: str) -> NDArray[np.float64]:
    """Give libllama's own vector of each token (tokens, width), the text alone and in one piece."""
    bindings = native.library()
    ids = token_ids(model, text)
    parameters = bindings.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 128
    parameters.embeddings, parameters.type_k, parameters.type_v, parameters.flash_attn_type = True, 0, 0, 0
    parameters.n_threads = parameters.n_threads_batch = 1
    context = bindings.llama_init_from_model(model.pointer, parameters)
    tokens = (bindings.llama_token * len(ids))(*ids)
    assert bindings.llama_decode(context, bindings.llama_batch_get_one(tokens, len(ids))) == 0
    width = bindings.llama_model_n_embd(model.pointer)
    rows = [bindings.llama_get_embeddings_ith(context, row)[:width] for row in range(len(ids))]
    bindings.llama_free(context)
    return np.array(rows, np.float64)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_vector_is_libllamas_tokens_pooled(model: Model, pooling: str) -> None:
    found = embed(model, TEXTS, pooling=pooling)
    for text, vector in zip(TEXTS, found, strict=True):
        rows = every_token(model, text)
        wanted = {"mean": rows.mean(axis=0), "cls": rows[0], "last": rows[-1]}[pooling]
        assert np.abs(vector - wanted / np.linalg.norm(wanted)).max() < 1e-5


def test_vectors_are_of_length_one(model: Model) -> None:
    assert np.linalg.norm(embed(model, TEXTS), axis=1) == pytest.approx(1)


def test_a_text_has_the_same_vector_alone_and_among_others(model: Model) -> None:
    alone = np.concatenate([embed(model, [text]) for text in TEXTS])
    assert np.abs(embed(model, TEXTS) - alone).max() < 1e-5


def test_more_texts_than_a_batch_takes_keep_their_order(model: Model) -> None:
    many = [[1, 261 + place % 40] for place in range(300)]  # libllama knows no sequence above the 256th
    with Embedder(model) as embedder:
        found = embedder.embed(many)
        assert np.abs(found[299] - embedder.embed(many[299:])[0]).max() < 1e-5
        assert np.abs(found[17] - embedder.embed(many[17:18])[0]).max() < 1e-5


def test_more_tokens_than_a_batch_takes_are_read_in_groups(model: Model) -> None:
    many = [[1, *range(261, 281), 261 + place] for place in range(30)]
    found = embed(model, many)
    assert np.abs(found[29] - embed(model, many[29:])[0]).max() < 1e-5


def test_one_embedder_gives_the_same_vector_again(model: Model) -> None:
    with Embedder(model) as embedder:
        first = embedder.embed(TEXTS)
        embedder.embed(["outra coisa"])
        assert np.array_equal(embedder.embed(TEXTS), first)


def test_a_model_that_looks_ahead_sees_a_text_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = gguf.GGUFWriter.add_layer_norm_rms_eps
    with monkeypatch.context() as patched:  # the shared tiny model looks back only
        patched.setattr(
            gguf.GGUFWriter,
            "add_layer_norm_rms_eps",
            lambda self, value: (add(self, value), self.add_causal_attention(False)),
        )
        path = tiny_model(tmp_path / "both.gguf", kind="F32")
    with Model.open(path, SETTINGS) as both:
        assert len(token_ids(both, TEXTS[3])) > SETTINGS.micro_batch
        rows = every_token(both, TEXTS[3]).mean(axis=0)
        assert np.abs(embed(both, TEXTS)[3] - rows / np.linalg.norm(rows)).max() < 1e-5


def test_ids_may_be_given_instead_of_a_text(model: Model) -> None:
    assert np.array_equal(embed(model, [token_ids(model, "olá")]), embed(model, ["olá"]))


def test_a_text_longer_than_the_context_is_refused_with_both_counts(model: Model) -> None:
    with pytest.raises(ContextFull, match=r"texts\[1\]: 514 tokens, 512 of context"):
        embed(model, ["a", [1] * 514])


def test_a_text_as_long_as_the_context_is_taken(model: Model) -> None:
    assert embed(model, [[1] * 512]).shape == (1, 256)


def test_a_text_without_tokens_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match=r"texts\[0\]"):
        embed(model, [[]])


def test_no_texts_have_no_vectors(model: Model) -> None:
    assert embed(model, []).shape == (0, 256)


def test_a_way_of_pooling_there_is_not_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="pooling"):
        embed(model, TEXTS, pooling="max")


def test_the_models_own_pooling_is_used_unless_told(model: Model) -> None:
    model.header.metadata["llama.pooling_type"] = 3
    try:
        assert np.array_equal(embed(model, TEXTS), embed(model, TEXTS, pooling="last"))
    finally:
        del model.header.metadata["llama.pooling_type"]


def test_the_command_prints_a_vector_a_line(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    command.main([str(model.header.path), "olá", "o mar", "-t", "1", "-c", "64"], standalone_mode=False)
    vectors = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert np.abs(np.array(vectors) - embed(model, ["olá", "o mar"])).max() < 1e-2  # its cache is of 16 bits


def test_the_command_reads_lines_and_answers_as_openai_does(
    model: Model, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("olá\n\no mar\n".encode())))
    command.main([str(model.header.path), "--json", "-t", "1", "-c", "64"], standalone_mode=False)
    result = json.loads(capsys.readouterr().out)["result"]
    assert [(one["index"], len(one["embedding"])) for one in result["data"]] == [(0, 256), (1, 256)]
    tokens = sum(len(token_ids(model, text)) for text in ("olá", "o mar"))
    assert result["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
