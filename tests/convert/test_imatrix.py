"""Importance data is what the model's own arithmetic says, computed here a second time in numpy; bad input ends early."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from amalia_convert import cli
from amalia_convert.imatrix import CALIBRATION, Collector, ImatrixConfig, collect, collect_imatrix, cut
from amalia_convert.importance import read_imatrix
from amalia_edge.errors import AmaliaError, ConvertError, ModelCorrupt, ModelUnsupported, UsageError
from amalia_edge.gguf import read_header
from amalia_edge.model import LoadConfig, Model
from models import FEED_FORWARD, HIDDEN, LAYERS, VOCABULARY, tiny_model

SIZE = 32  # tokens of a chunk
TEXT = "o mar bate na rocha, e a rocha nem dá por isso! será assim? já não sei: águas passadas.\n" * 2
Table = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose attention adds nothing, so that each token's way through it can be followed alone."""
    path = tiny_model(tmp_path_factory.mktemp("imatrix") / "still.gguf", kind="F32")
    for layer in range(LAYERS):
        overwrite(path, f"blk.{layer}.attn_output.weight", 0)
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "mar.txt"
    path.write_text(TEXT, "utf-8")
    return path


def overwrite(path: Path, name: str, value: float) -> None:
    tensor = next(tensor for tensor in read_header(path).tensors if tensor.name == name)
    with path.open("r+b") as file:
        file.seek(tensor.offset)
        file.write(np.full(tensor.nbytes // 4, value, np.float32).tobytes())


def weights(path: Path) -> Table:
    content = path.read_bytes()
    return {
        tensor.name: np.frombuffer(content, np.float32, tensor.nbytes // 4, tensor.offset).reshape(tensor.shape[::-1])
        for tensor in read_header(path).tensors
    }


def norm(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """RMSNorm with weights of one."""
    return rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5)


def forward(table: Table, ids: list[int]) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """Give what each weight of a still model meets, but for attn_output, and the logits."""
    rows, meets = table["token_embd.weight"][ids], {}
    for layer in range(LAYERS):
        block, normed = f"blk.{layer}.", norm(rows)
        for name in ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"):
            meets[f"{block}{name}.weight"] = normed
        gate, up = (normed @ table[f"{block}{name}.weight"].T for name in ("ffn_gate", "ffn_up"))
        inner = gate / (1 + np.exp(-gate)) * up
        meets[f"{block}ffn_down.weight"] = inner
        rows = rows + inner @ table[f"{block}ffn_down.weight"].T
    return meets, norm(rows) @ table["output.weight"].T


def opened(path: Path, *, size: int = SIZE, batch: int = 2048) -> Model:
    return Model.open(path, LoadConfig(context=size, threads=1, batch=batch))


def chunks_of(model: Model, count: int = 3) -> list[list[int]]:
    return cut(model.prompt(TEXT), ImatrixConfig("", chunk_size=SIZE, chunks=count))


@pytest.mark.parametrize("batch", [2048, 20], ids=["whole chunks", "parts of chunks"])
def test_the_sums_are_those_of_the_models_own_arithmetic(still: Path, batch: int) -> None:
    with opened(still, batch=batch) as model:
        chunks = chunks_of(model)
        collector, _ = collect(model, chunks)
    ids = [token for chunk in chunks for token in [1, *chunk[1:]]]  # BOS before each chunk
    meets, _ = forward(weights(still), ids)
    assert set(collector.sums) == set(meets) | {f"blk.{layer}.attn_output.weight" for layer in range(LAYERS)}
    for name, rows in meets.items():
        assert collector.sums[name].rows == len(ids) == 3 * SIZE
        np.testing.assert_allclose(collector.sums[name].squares, (rows**2).sum(axis=0), rtol=1e-3, atol=1e-6)


def test_the_perplexity_is_over_the_second_half_of_each_chunk(still: Path) -> None:
    with opened(still) as model:
        chunks = chunks_of(model)
        _, losses = collect(model, chunks)
    expected = []
    for chunk in chunks:
        _, logits = forward(weights(still), [1, *chunk[1:]])
        for place in range(SIZE // 2, SIZE - 1):
            row = logits[place].astype(np.float64)
            expected.append(np.log(np.exp(row).sum()) - row[chunk[place + 1]])
    np.testing.assert_allclose(losses, expected, rtol=1e-3)


def test_each_chunk_is_read_alone(tmp_path: Path) -> None:
    """Attention is where a chunk could meet another one: what attn_output meets is added up chunk by chunk."""
    name = "blk.1.attn_output.weight"
    with opened(tiny_model(tmp_path / "tiny.gguf", kind="F32")) as model:
        chunks = chunks_of(model)
        together = collect(model, chunks)[0].sums[name].squares
        apart = sum(collect(model, [chunk])[0].sums[name].squares for chunk in chunks)
    np.testing.assert_allclose(together, apart, rtol=1e-6)


def test_the_file_says_what_was_read_by_which_model(still: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "i.gguf"
    summary = collect_imatrix(ImatrixConfig(str(still), (text, text), out, chunk_size=SIZE, threads=1))
    header = read_header(out, model=False)
    assert (summary.chunks, summary.tokens) == (header.metadata["imatrix.chunk_count"], summary.chunks * SIZE)
    assert header.metadata["imatrix.chunk_size"] == SIZE
    assert header.strings("imatrix.datasets") == [b"mar.txt", b"mar.txt"]  # no folder of this machine
    assert header.strings("amalia.imatrix.text.sha256") == [hashlib.sha256(TEXT.encode()).hexdigest().encode()] * 2
    assert header.metadata["amalia.imatrix.model.name"] == "Tiny"
    assert header.metadata["amalia.imatrix.model.sha256"] == hashlib.sha256(still.read_bytes()).hexdigest()


def test_the_file_holds_the_mean_squares(still: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "i.gguf"
    collect_imatrix(ImatrixConfig(str(still), (text,), out, chunk_size=SIZE, chunks=2, threads=1))
    with opened(still) as model:
        collector, _ = collect(model, chunks_of(model, 2))
    found = read_imatrix(out)
    assert (found.chunks, set(found.values)) == (2, set(collector.sums))
    assert found.of("blk.1.ffn_down.weight", FEED_FORWARD) is not None
    for name, values in found.values.items():
        np.testing.assert_allclose(values, collector.sums[name].squares / (2 * SIZE), rtol=1e-5)


def test_several_texts_are_read_one_after_the_other(still: Path, tmp_path: Path) -> None:
    """The last line's end is left off, as llama-imatrix does, and put between two texts."""
    halves = TEXT[: len(TEXT) // 2], TEXT[len(TEXT) // 2 :]
    for name, content in zip(("a.txt", "b.txt", "both.txt"), (*halves, TEXT), strict=True):
        (tmp_path / name).write_text(content, "utf-8")
    means = []
    for texts in (("a.txt", "b.txt"), ("both.txt",)):
        out = tmp_path / f"{len(texts)}.gguf"
        collect_imatrix(ImatrixConfig(str(still), tuple(tmp_path / name for name in texts), out, chunk_size=SIZE))
        means.append(read_imatrix(out).values["blk.0.attn_q.weight"])
    assert np.array_equal(*means)


def test_chunks_are_whole_and_no_more_than_asked() -> None:
    ids = list(range(100))
    assert cut(ids, ImatrixConfig("", chunk_size=32)) == [ids[:32], ids[32:64], ids[64:96]]
    assert cut(ids, ImatrixConfig("", chunk_size=32, chunks=2)) == [ids[:32], ids[32:64]]
    assert len(cut(ids, ImatrixConfig("", chunk_size=32, chunks=9))) == 3


def test_a_short_text_is_refused_with_both_figures() -> None:
    with pytest.raises(UsageError, match="text: 63 tokens, at least 64 needed; give more text, or a smaller"):
        cut([0] * 63, ImatrixConfig("", chunk_size=32))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b" \n\n", "empty"), (b"mar\xe9\n", "byte 3: not UTF-8; save the text as UTF-8"), (None, "cannot be read")],
    ids=["empty", "blank", "latin-1", "absent"],
)  # fmt: skip
def test_what_is_no_text_is_refused(still: Path, tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "mar.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        collect_imatrix(ImatrixConfig(str(still), (path,), tmp_path / "i.gguf"))
    assert not (tmp_path / "i.gguf").exists()


def test_a_file_that_is_there_is_replaced_only_when_asked(still: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "i.gguf"
    out.write_bytes(b"mine")
    config = ImatrixConfig(str(still), (text,), out, chunk_size=SIZE, threads=1)
    with pytest.raises(UsageError, match=r"i.gguf: already there; replace it with --force"):
        collect_imatrix(config)
    assert out.read_bytes() == b"mine"
    collect_imatrix(dataclasses.replace(config, replace=True))
    assert read_imatrix(out).values


@pytest.mark.parametrize("name", ["model.gguf", "mar.txt", "link.gguf", "../{}/model.gguf"])
def test_what_is_read_is_never_replaced(still: Path, text: Path, tmp_path: Path, name: str) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(still.read_bytes())
    (tmp_path / "link.gguf").symlink_to(model)
    out = tmp_path / name.format(tmp_path.name)
    with pytest.raises(UsageError, match="is the model, or a text that is read; name another --out"):
        collect_imatrix(ImatrixConfig(str(model), (text,), out, replace=True, chunk_size=SIZE, threads=1))
    assert (model.read_bytes(), text.read_text("utf-8")) == (still.read_bytes(), TEXT)


@pytest.mark.parametrize(
    ("out", "kind", "message"),
    [
        ("", UsageError, "a folder; name a file with --out"),
        ("mar.txt/i.gguf", ConvertError, "name another --out"),
        ("absent/i.gguf", ConvertError, "name another --out"),
    ],
    ids=["a folder", "under a file", "in no folder"],
)
def test_what_cannot_be_written_is_refused_first(
    still: Path, text: Path, tmp_path: Path, out: str, kind: type[AmaliaError], message: str
) -> None:
    absent = tmp_path / "absent.txt"  # would be complained of, were it looked at before
    with pytest.raises(kind, match=message):
        collect_imatrix(ImatrixConfig(str(still), (absent,), tmp_path / out))


def test_ctrl_c_leaves_nothing_behind(still: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Collector, "see", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collect_imatrix(ImatrixConfig(str(still), (text,), tmp_path / "i.gguf", chunk_size=SIZE))
    assert [path.name for path in tmp_path.iterdir()] == ["mar.txt"]


def test_a_model_that_computes_no_numbers_is_refused_by_the_weights_name(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", kind="F32")
    overwrite(path, "blk.1.ffn_gate.weight", np.nan)
    with opened(path) as model, pytest.raises(ModelCorrupt, match=r"blk.1.ffn_down.weight: meets activations that are"):
        collect(model, chunks_of(model))


def test_logits_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.gguf", kind="F32")
    overwrite(path, "output.weight", np.nan)
    with opened(path) as model, pytest.raises(ModelCorrupt, match="its logits are infinite or no number"):
        collect(model, chunks_of(model))


def test_a_stack_of_experts_is_refused_by_name(still: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = read_header(still)
    stacked = dataclasses.replace(header.tensors[0], name="blk.0.ffn_up_exps.weight", shape=(HIDDEN, 8, 4))
    monkeypatch.setattr("amalia_convert.imatrix.read_header", lambda _: dataclasses.replace(header, tensors=(stacked,)))
    with pytest.raises(ModelUnsupported, match=r"blk.0.ffn_up_exps.weight is a stack of matrices.*use llama-imatrix"):
        collect_imatrix(ImatrixConfig(str(still)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_size": 2048}, "ctx-size: 2048 tokens, the model was trained for 1024"),
        ({"chunk_size": 15}, "ctx-size: 15; at least 16"),
        ({"chunks": 0}, "chunks: 0; give a number above zero"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(still: Path, settings: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        collect_imatrix(ImatrixConfig(str(still), **settings))


def test_the_text_that_comes_with_us_is_long_enough_and_without_surprises() -> None:
    content = CALIBRATION.read_bytes()
    assert len(content) >= 100_000
    assert "\r" not in content.decode() and content.endswith(b"\n")


def test_the_command_prints_one_object(still: Path, text: Path, tmp_path: Path) -> None:
    words = [str(still), "--text", str(text), "--out", str(tmp_path / "i.gguf"), "-c", "32", "--chunks", "2", "--json"]
    result = CliRunner().invoke(cli.imatrix, words)
    printed = json.loads(result.stdout)
    assert (printed["command"], printed["result"]["path"]) == ("imatrix", str(tmp_path / "i.gguf"))
    assert (printed["result"]["chunks"], printed["result"]["tokens"]) == (2, 64)
    assert 1 < printed["result"]["perplexity"] < 100 * VOCABULARY
    assert read_imatrix(tmp_path / "i.gguf").datasets == ("mar.txt",)


def test_the_command_says_what_to_type_next(
    still: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli.imatrix, [str(still), "--text", str(text), "-c", "32"])
    assert "still.imatrix.gguf: 14 tensors" in result.stdout and "--imatrix still.imatrix.gguf" in result.stdout
    assert (tmp_path / "still.imatrix.gguf").is_file()
