"""A safetensors header is believed only after every number in it has been checked."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from amalia_convert.checkpoint import LocalFile
from amalia_convert.shard import HEADER_LIMIT, StoredTensor, parse_tensors
from amalia_edge.errors import AmaliaError, CheckpointIncomplete, ModelCorrupt
from checkpoints import safetensors_bytes

SOUND = {
    "__metadata__": {"format": "pt"},
    "b": {"dtype": "F32", "shape": [2], "data_offsets": [6, 14]},
    "a": {"dtype": "BF16", "shape": [1, 3], "data_offsets": [0, 6]},
}


def read_tensors(path: Path) -> list[StoredTensor]:
    file = LocalFile(path)
    return parse_tensors(path, file.nbytes, file.read)


def read(folder: Path, content: bytes) -> list[tuple[str, int, int]]:
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return [(tensor.name, tensor.offset, tensor.nbytes) for tensor in read_tensors(path)]


def test_tensors_come_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    content = safetensors_bytes(SOUND, bytes(14))
    start = len(content) - 14
    assert read(tmp_path, content) == [("a", start, 6), ("b", start + 6, 8)]


def test_an_empty_tensor_takes_no_place(tmp_path: Path) -> None:
    empty = {"e": {"dtype": "F16", "shape": [0, 4], "data_offsets": [6, 6]}}
    names = [name for name, _, _ in read(tmp_path, safetensors_bytes(SOUND | empty, bytes(14)))]
    assert names == ["a", "e", "b"]


def tensor(**changes: object) -> dict[str, object]:
    return {"a": {"dtype": "BF16", "shape": [1, 3], "data_offsets": [0, 6]} | changes}


BROKEN = {
    "shorter than its length": b"\x01\x02",
    "a header longer than the limit": struct.pack("<Q", HEADER_LIMIT + 1) + b"{}",
    "a header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "not JSON": safetensors_bytes({})[:8] + b"{]",
    "not UTF-8": struct.pack("<Q", 2) + b"\xff\xfe",
    "nested beyond reason": struct.pack("<Q", 200_000) + b"[" * 200_000,
    "a list": safetensors_bytes([]),
    "the same name twice": struct.pack("<Q", 13) + b'{"a":1,"a":2}',
    "a tensor that is no object": safetensors_bytes({"a": 3}),
    "no dtype": safetensors_bytes({"a": {"shape": [1], "data_offsets": [0, 2]}}, bytes(2)),
    "an unknown dtype": safetensors_bytes(tensor(dtype="BF17"), bytes(6)),
    "a dtype that is no text": safetensors_bytes(tensor(dtype=["BF16"]), bytes(6)),
    "a negative size": safetensors_bytes(tensor(shape=[-1, -3]), bytes(6)),
    "a size that is a truth value": safetensors_bytes(tensor(shape=[True, 3]), bytes(6)),
    "a size with a fraction": safetensors_bytes(tensor(shape=[1.0, 3]), bytes(6)),
    "an absurd size": safetensors_bytes(tensor(shape=[2**64, 3]), bytes(6)),
    "too many dimensions": safetensors_bytes(tensor(shape=[1] * 8 + [3]), bytes(6)),
    "one offset": safetensors_bytes(tensor(data_offsets=[6]), bytes(6)),
    "offsets the wrong way round": safetensors_bytes(tensor(data_offsets=[6, 0]), bytes(6)),
    "a span that is not the shape's": safetensors_bytes(tensor(data_offsets=[0, 8]), bytes(8)),
    "a hole before the first tensor": safetensors_bytes(tensor(data_offsets=[2, 8]), bytes(8)),
    "an overlap": safetensors_bytes(tensor() | {"b": tensor()["a"]}, bytes(6)),
    "bytes after the last tensor": safetensors_bytes(tensor(), bytes(7)),
    "fewer bytes than announced": safetensors_bytes(tensor(), bytes(5)),
    "a name that cannot be printed": safetensors_bytes({"\ud800": tensor()["a"]}, bytes(6)),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_header_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    with pytest.raises((ModelCorrupt, CheckpointIncomplete)) as caught:
        read(tmp_path, content)
    assert "model.safetensors" in caught.value.where
    assert "\n" not in str(caught.value)
    assert caught.value.found and caught.value.advice


def test_a_cut_file_is_called_incomplete_not_corrupt(tmp_path: Path) -> None:
    with pytest.raises(CheckpointIncomplete, match="ends at byte"):
        read(tmp_path, safetensors_bytes(SOUND, bytes(13)))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F4", "I64", "X"]) | values,
        "shape": st.lists(st.integers(-1, 5), max_size=3) | values,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | values,
    }
)
headers = st.dictionaries(st.text(max_size=3), entries | values, max_size=4)


@given(header=headers | values, content=st.binary(max_size=48))
@example(header={}, content=b"")
def test_no_header_makes_anything_but_our_errors(
    tmp_path_factory: pytest.TempPathFactory, header: object, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(safetensors_bytes(header, content))
    _read_or_refuse(path)


@given(content=st.binary(max_size=200))
def test_no_bytes_make_anything_but_our_errors(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.safetensors"
    path.write_bytes(content)
    _read_or_refuse(path)


@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_one_changed_byte_makes_nothing_but_our_errors(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    content = bytearray(safetensors_bytes(SOUND, bytes(14)))
    content[place % len(content)] = byte
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(content)
    _read_or_refuse(path)


def _read_or_refuse(path: Path) -> None:
    try:
        tensors = read_tensors(path)
    except AmaliaError as error:
        assert "\n" not in str(error)
        str(error).encode()
        return
    # Whatever was believed covers the file from the header's end to its own, without a hole.
    size = path.stat().st_size
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    json.loads(path.read_bytes()[8 : 8 + length])
    assert 8 + length + sum(tensor.nbytes for tensor in tensors) == size
