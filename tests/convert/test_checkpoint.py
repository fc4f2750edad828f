"""A checkpoint is opened by its headers, and read once, in order, piece by piece."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from amalia_convert.checkpoint import INDEX, Reader, open_checkpoint
from amalia_edge.errors import CheckpointIncomplete, ModelCorrupt
from checkpoints import Tiny, weights, write_json, write_safetensors


def split(folder: Path) -> dict[str, str]:
    """Put a checkpoint's weights into two shards with an index."""
    (folder / "model.safetensors").unlink()
    table = weights(Tiny(layers=2, feed_forward=64, hidden=64, heads=2, head_dim=32))
    halves = {"model-00001-of-00002.safetensors": list(table)[:9], "model-00002-of-00002.safetensors": list(table)[9:]}
    for name, tensors in halves.items():
        write_safetensors(folder / name, {tensor: table[tensor] for tensor in tensors})
    weight_map = {tensor: name for name, tensors in halves.items() for tensor in tensors}
    write_json(folder / INDEX, {"metadata": {}, "weight_map": weight_map})
    return weight_map


def test_shards_and_one_file_hold_the_same_tensors(checkpoint: Path) -> None:
    whole = {name: tensor.shape for name, tensor in open_checkpoint(checkpoint).tensors.items()}
    split(checkpoint)
    assert {name: tensor.shape for name, tensor in open_checkpoint(checkpoint).tensors.items()} == whole


def test_every_missing_shard_is_listed(checkpoint: Path) -> None:
    for name in set(split(checkpoint).values()):
        (checkpoint / name).unlink()
    with pytest.raises(CheckpointIncomplete, match=r"00001-of-00002\.safetensors, model-00002-of-00002"):
        open_checkpoint(checkpoint)


def test_a_tensor_the_index_promises_must_be_there(checkpoint: Path) -> None:
    weight_map = split(checkpoint)
    write_json(checkpoint / INDEX, {"weight_map": weight_map | {"ghost": "model-00001-of-00002.safetensors"}})
    with pytest.raises(CheckpointIncomplete, match="ghost"):
        open_checkpoint(checkpoint)


def test_two_shards_may_not_hold_one_name(checkpoint: Path) -> None:
    weight_map = split(checkpoint)
    write_safetensors(checkpoint / "z.safetensors", {"model.norm.weight": np.ones(64, np.float32)})
    write_json(checkpoint / INDEX, {"weight_map": weight_map | {"other": "z.safetensors"}})
    with pytest.raises(ModelCorrupt, match=r"model\.norm\.weight"):
        open_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["../secret.safetensors", "a/b.safetensors", ".hidden.safetensors", "x.bin", 3])
def test_a_shard_is_a_plain_file_of_the_folder(checkpoint: Path, name: object) -> None:
    split(checkpoint)
    write_json(checkpoint / INDEX, {"weight_map": {"a": name}})
    with pytest.raises(ModelCorrupt, match="names the shard"):
        open_checkpoint(checkpoint)


def test_a_folder_without_config_is_no_checkpoint(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    with pytest.raises(CheckpointIncomplete, match=r"no config\.json"):
        open_checkpoint(checkpoint)


@pytest.mark.parametrize("text", ["{", "[]", "\ufeff{}", "[" * 100_000])
def test_a_broken_config_is_named(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_text(text, "utf-8")
    with pytest.raises(ModelCorrupt, match=r"config\.json"):
        open_checkpoint(checkpoint)


def test_pytorch_weights_are_not_opened(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(CheckpointIncomplete, match="not opened"):
        open_checkpoint(checkpoint)


def test_pieces_join_to_the_tensors_bytes_and_the_files_hash(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    wanted = dict.fromkeys(opened.tensors, 7)  # seven rows at a time: no tensor's height is a multiple
    reader, joined = Reader(opened.shards, wanted), dict[str, bytes]()
    for piece in reader.pieces():
        rows = joined.get(piece.tensor.name, b"")
        assert len(rows) == piece.first * piece.tensor.nbytes // piece.tensor.shape[0] or piece.first == 0
        joined[piece.tensor.name] = rows + piece.content
    content = (checkpoint / "model.safetensors").read_bytes()
    for name, tensor in opened.tensors.items():
        assert joined[name] == content[tensor.offset : tensor.offset + tensor.nbytes]
    assert reader.hashes == {"model.safetensors": hashlib.sha256(content).hexdigest()}


def test_a_tensor_nobody_wants_is_hashed_and_not_handed_on(checkpoint: Path) -> None:
    reader = Reader(open_checkpoint(checkpoint).shards, {"model.norm.weight": 1})
    assert [piece.tensor.name for piece in reader.pieces()] == ["model.norm.weight"]
    content = (checkpoint / "model.safetensors").read_bytes()
    assert reader.hashes["model.safetensors"] == hashlib.sha256(content).hexdigest()


def test_a_file_cut_while_it_is_read_is_an_error_not_a_crash(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    with (checkpoint / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(CheckpointIncomplete, match="left"):
        list(Reader(opened.shards, {}).pieces())
