"""A checkpoint becomes the bytes llama.cpp makes of it, whole or not at all."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from amalia_convert.conversion import ConvertConfig, convert
from amalia_convert.importance import Collected, Sums, describe_importance, read_imatrix, write_imatrix
from amalia_convert.level_table import find_level
from amalia_convert.levels import LEVELS
from amalia_convert.receipt import read_receipt
from amalia_convert.recipe import Recipe
from amalia_edge.errors import AmaliaError, ConvertError, UsageError
from amalia_edge.gguf import read_header
from amalia_edge.model import LoadConfig, Model
from amalia_edge.sampler import SamplingConfig
from checkpoints import Tiny, write_checkpoint, write_json

from .conftest import PLAIN, Converted
from .oracle import quantize_by, quantize_file


@pytest.mark.parametrize("level", PLAIN)
def test_the_whole_file_is_llama_quantize_s(every_family: Converted, level: str, tmp_path: Path) -> None:
    """Bytes of metadata and tensors; llama-quantize runs on our own GGUF of the checkpoint's precision."""
    quantize_file(every_family.path(every_family.tiny.dtype), tmp_path / "theirs.gguf", LEVELS[level].file_type)
    ours, theirs = every_family.path(level), tmp_path / "theirs.gguf"
    if ours.read_bytes() != theirs.read_bytes():
        pairs = zip(gguf.GGUFReader(ours).tensors, gguf.GGUFReader(theirs).tensors, strict=True)
        different = [
            (one.name, one.tensor_type.name, two.tensor_type.name)
            for one, two in pairs
            if one.tensor_type != two.tensor_type or one.data.tobytes() != two.data.tobytes()
        ]
        pytest.fail(f"tensors that differ: {different or 'none, the header does'}")


def test_libllama_runs_what_became_of_every_family(every_family: Converted) -> None:
    with Model.open(every_family.path("Q8_0"), LoadConfig(context=64, threads=1)) as model:
        pieces = list(model.complete([3, 40, 41], SamplingConfig(temperature=0, limit=4, ignore_end=True)))
    assert len(pieces) == 4


# Quick ones, and with AMALIA_ALL_TESTS those whose quantizers make tables for half a minute first.
IMPORTANT = ["Q8_0", "Q4_0", "Q4_K_M", "IQ4_XS", "IQ3_S", "IQ3_XXS", "Q2_K_S"]
IMPORTANT += (
    ["IQ3_XS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"] if os.environ.get("AMALIA_ALL_TESTS") else []
)


@pytest.mark.parametrize("level", IMPORTANT)
def test_importance_data_gives_llama_quantize_s_bytes(converted: Converted, level: str, tmp_path: Path) -> None:
    """Every tensor's bytes, and every key: theirs lacks only the four that their command line adds."""
    random, precise = np.random.default_rng(3), converted.path(converted.tiny.dtype)
    matrices = [one for one in read_header(precise).tensors if len(one.shape) > 1]
    sums = {one.name: Sums(random.uniform(0, 9, one.shape[0]) ** 2, rows=40) for one in matrices}
    data = tmp_path / "importance.gguf"
    write_imatrix(data, Collected(sums, ("built",), 4, 10))
    importance = read_imatrix(data)
    recipe = Recipe(find_level(level), importance=frozenset(importance.values))
    assert quantize_by(recipe, precise, tmp_path / "theirs.gguf", importance.values)
    (receipt,) = convert(ConvertConfig(str(converted.folder), (level,), tmp_path / "out", importance=data))
    ours, theirs = gguf.GGUFReader(tmp_path / "out" / receipt.output), gguf.GGUFReader(tmp_path / "theirs.gguf")
    for one, two in zip(ours.tensors, theirs.tensors, strict=True):
        same = one.tensor_type == two.tensor_type and one.data.tobytes() == two.data.tobytes()
        assert same, f"{one.name}: {one.tensor_type.name}, theirs {two.tensor_type.name}"
    assert set(ours.fields) - set(theirs.fields) == set(describe_importance(importance))
    assert receipt.importance == hashlib.sha256(data.read_bytes()).hexdigest()


def test_importance_data_of_another_model_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    data = tmp_path / "importance.gguf"
    write_imatrix(data, Collected({"blk.0.ffn_up.weight": Sums(np.ones(77), rows=1)}, ("built",), 1, 1))
    with pytest.raises(ConvertError, match=r"blk\.0\.ffn_up\.weight: 77 columns, the model's has 64"):
        convert(ConvertConfig(str(checkpoint), ("Q4_0",), tmp_path / "out", importance=data))
    assert not (tmp_path / "out").exists()


def test_the_checkpoint_s_own_precision_is_copied_bit_for_bit(converted: Converted) -> None:
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(converted.path(converted.tiny.dtype)).tensors}
    stored = (converted.folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(stored[:8], "little")
    entry = json.loads(stored[8:start])["model.layers.0.mlp.up_proj.weight"]
    begin, end = entry["data_offsets"]
    assert tensors["blk.0.ffn_up.weight"].data.tobytes() == stored[start + begin : start + end]


def test_the_hyper_parameters_are_the_configuration_s(converted: Converted) -> None:
    tiny, reader = converted.tiny, gguf.GGUFReader(converted.path("Q4_K_M"))
    wanted = {
        "general.architecture": "llama", "general.name": "Azulejo", "general.file_type": 15,
        "general.quantization_version": 2, "llama.block_count": tiny.layers, "llama.context_length": 512,
        "llama.embedding_length": tiny.hidden, "llama.feed_forward_length": tiny.feed_forward,
        "llama.attention.head_count": tiny.heads, "llama.attention.head_count_kv": tiny.heads_kv,
        "llama.rope.dimension_count": tiny.head_dim, "llama.rope.freq_base": 1e6,
        "llama.vocab_size": tiny.vocabulary, "tokenizer.ggml.model": "llama",
    }  # fmt: skip
    assert {key: reader.fields[key].contents() for key in wanted} == wanted


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_and_company_do_not_change_the_bytes(converted: Converted, tmp_path: Path, threads: int) -> None:
    (receipt,) = convert(ConvertConfig(str(converted.folder), ("Q4_K_M",), tmp_path, threads=threads))
    assert receipt.sha256 == converted.receipts["Q4_K_M"].sha256


@pytest.mark.parametrize("weights", [1, 1000, 20_000])
def test_the_size_of_the_pieces_does_not_change_the_bytes(
    converted: Converted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: int
) -> None:
    monkeypatch.setattr("amalia_convert.quantize.PIECE_WEIGHTS", weights)
    (receipt,) = convert(ConvertConfig(str(converted.folder), ("Q8_0",), tmp_path))
    assert receipt.sha256 == converted.receipts["Q8_0"].sha256


def test_the_receipt_tells_the_truth(converted: Converted) -> None:
    for level, receipt in converted.receipts.items():
        content = converted.path(level).read_bytes()
        assert receipt.sha256 == hashlib.sha256(content).hexdigest() and receipt.nbytes == len(content)
        assert read_receipt(converted.path(level)) == receipt
    sources = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in converted.folder.iterdir()}
    assert converted.receipts["Q8_0"].files == sources
    assert 8.5 <= converted.receipts["Q8_0"].bits_per_weight < 10


def test_only_files_and_receipts_are_left(converted: Converted) -> None:
    names = {path.name for path in converted.out.iterdir()}
    outputs = {receipt.output for receipt in converted.receipts.values()}
    assert names == outputs | {f"{name}.receipt.json" for name in outputs}


def test_f32_weights_are_quantized_from_f32(tmp_path: Path) -> None:
    tiny = Tiny(layers=2, heads_kv=2, dtype="F32")
    folder = write_checkpoint(tmp_path / "exact", tiny)
    convert(ConvertConfig(str(folder), ("F32", "Q4_K_M", "BF16"), tmp_path))
    for level in ("Q4_K_M", "BF16"):
        quantize_file(tmp_path / "exact-F32.gguf", tmp_path / "theirs.gguf", LEVELS[level].file_type)
        assert (tmp_path / f"exact-{level}.gguf").read_bytes() == (tmp_path / "theirs.gguf").read_bytes()


def test_a_file_that_is_there_is_replaced_only_on_request(checkpoint: Path, tmp_path: Path) -> None:
    config = ConvertConfig(str(checkpoint), ("Q8_0",), tmp_path)
    convert(config)
    with pytest.raises(UsageError, match=r"already there; --force"):
        convert(config)
    convert(ConvertConfig(str(checkpoint), ("Q8_0",), tmp_path, replace=True))


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda folder: (folder / "config.json").unlink(), 6),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), 3),
        (lambda folder: (folder / "model.safetensors").write_bytes(bytes(4)), 6),
        (lambda folder: write_json(folder / "config.json", {"architectures": ["Other"]}), 3),
        (lambda folder: (folder / "tokenizer.model").unlink(), 6),
    ],
    ids=["no config", "broken header", "cut", "unknown architecture", "no tokenizer"],
)
def test_a_bad_checkpoint_is_refused_and_nothing_is_left(checkpoint: Path, tmp_path: Path, spoil, code) -> None:  # type: ignore[no-untyped-def]
    spoil(checkpoint)
    with pytest.raises(AmaliaError) as caught:
        convert(ConvertConfig(str(checkpoint), out=tmp_path / "out"))
    assert caught.value.exit_code == code and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


CHILD = """
import sys, time
import amalia_convert.quantize as quantize
from amalia_convert.conversion import ConvertConfig, convert
from amalia_edge.errors import AmaliaError
{first}
try:
    convert(ConvertConfig(sys.argv[1], ("Q8_0", "F16"), sys.argv[2] and __import__("pathlib").Path(sys.argv[2])))
except AmaliaError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def start(first: str, checkpoint: Path, out: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CHILD.format(first=first), str(checkpoint), str(out)]
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths})


def test_a_disk_that_fills_up_half_way_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    # A limit on the size of files stands in for the disk: it strikes in the middle of a write, and needs no rights.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    with start(limit, checkpoint, tmp_path / "out") as child:
        said, _ = child.communicate(timeout=60)
    assert child.returncode == 6 and said.count("\n") == 1 and "larger than may be written" in said
    assert list((tmp_path / "out").iterdir()) == []


def test_a_killed_conversion_leaves_no_file_and_the_next_one_tidies_up(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with start("quantize.quantize_rows = lambda *_: time.sleep(600)", checkpoint, out) as child:
        deadline = time.monotonic() + 60
        while not list(out.glob(".*.partial")) and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    assert {path.name[0] for path in out.iterdir()} == {"."}  # hidden neighbours, nothing under a final name
    receipts = convert(ConvertConfig(str(checkpoint), ("Q8_0", "F16"), out))
    outputs = {receipt.output for receipt in receipts}
    assert {path.name for path in out.iterdir()} == outputs | {f"{name}.receipt.json" for name in outputs}


def test_ctrl_c_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    slow = "quantize.quantize_rows = lambda *_: time.sleep(1)"
    with start(slow, checkpoint, tmp_path / "out") as child:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").glob(".*.partial")) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
    assert child.returncode != 0
    assert list((tmp_path / "out").iterdir()) == []
