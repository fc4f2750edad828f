"""Importance data on disk is llama.cpp's format, read without trust, and means what llama-quantize makes of it."""

import ctypes
import dataclasses
import hashlib
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray

from amalia_convert.importance import (
    Collected,
    Importance,
    Sums,
    describe_importance,
    read_imatrix,
    write_imatrix,
)
from amalia_convert.metadata import string
from amalia_edge.errors import AmaliaError, ConvertError, ModelCorrupt, ModelNotFound, ModelUnsupported
from amalia_edge.gguf import read_header
from amalia_edge.native import library
from amalia_edge.quantizer import quantize_rows
from models import HIDDEN, tiny_model

NAME = "blk.0.attn_q.weight"


def collected() -> Collected:
    """Two weights, in another order than the file's; `blk.10` sorts before `blk.9`."""
    sums = {
        "blk.9.ffn_down.weight": Sums(np.linspace(0, 1, 40), 8),
        "blk.10.ffn_down.weight": Sums(np.linspace(1, 2, 7), 16),
    }
    return Collected(sums, ("fado.txt", "mar.txt"), 3, 512, {"amalia.imatrix.model.name": string("Azulejo")})


def foreign(path: Path, tensors: dict[str, NDArray[np.generic]], **keys: object) -> Path:
    """Write a file as another program might; a key set to None is left out."""
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data = [{}]
    told = {"datasets": ["a.txt"], "chunk_count": 2, "chunk_size": 512, **keys}
    writer.add_string("general.type", "imatrix")
    for key, value in told.items():
        if isinstance(value, list):
            writer.add_array(f"imatrix.{key}", value)
        elif isinstance(value, str):
            writer.add_string(f"imatrix.{key}", value)
        elif value is not None:
            writer.add_uint32(f"imatrix.{key}", value)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def pair(sums: list[float], counts: list[float]) -> dict[str, NDArray[np.generic]]:
    return {f"{NAME}.in_sum2": np.array(sums, np.float32), f"{NAME}.counts": np.array(counts, np.float32)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "i.gguf"
    write_imatrix(path, collected())
    return path


def test_another_reader_finds_llama_imatrixs_keys_and_tensors_in_its_order(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "i.gguf", collected())
    reader = gguf.GGUFReader(tmp_path / "i.gguf")
    keys = [key for key in reader.fields if not key.startswith("GGUF.")]
    told = [
        "general.type",
        "imatrix.datasets",
        "imatrix.chunk_count",
        "imatrix.chunk_size",
        "amalia.imatrix.model.name",
    ]
    assert keys == told
    assert reader.fields["imatrix.datasets"].contents() == ["fado.txt", "mar.txt"]
    assert [tensor.name for tensor in reader.tensors] == [
        "blk.10.ffn_down.weight.in_sum2", "blk.10.ffn_down.weight.counts",
        "blk.9.ffn_down.weight.in_sum2", "blk.9.ffn_down.weight.counts",
    ]  # fmt: skip
    assert reader.tensors[0].data.tolist() == np.linspace(1, 2, 7).astype(np.float32).tolist()
    assert reader.tensors[1].data.tolist() == [16]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "i.gguf", collected())
    found = read_imatrix(tmp_path / "i.gguf")
    assert (found.datasets, found.chunks) == (("fado.txt", "mar.txt"), 3)
    assert found.sha256 == hashlib.sha256((tmp_path / "i.gguf").read_bytes()).hexdigest()
    expected = np.linspace(0, 1, 40).astype(np.float32) / np.float32(8)
    assert found.values["blk.9.ffn_down.weight"].tolist() == expected.tolist()


def test_where_nothing_was_counted_every_column_weighs_one(tmp_path: Path) -> None:
    found = read_imatrix(foreign(tmp_path / "i.gguf", pair([7, 9], [0])))
    assert found.values[NAME].tolist() == [1, 1]


def test_each_matrix_of_a_stack_is_divided_by_its_own_count(tmp_path: Path) -> None:
    found = read_imatrix(foreign(tmp_path / "i.gguf", pair([6, 8, 5, 5, 12, 4], [2, 0, 4])))
    assert found.values[NAME].tolist() == [3, 4, 1, 1, 3, 1]


def test_counts_are_rounded_as_c_rounds(tmp_path: Path) -> None:
    found = read_imatrix(foreign(tmp_path / "i.gguf", pair([6, 6], [2.5, 0.5])))
    assert found.values[NAME].tolist() == [2, 6]  # np.round would make 2 and 0 of them


def test_a_tensors_importance_is_given_by_name(tmp_path: Path) -> None:
    found = read_imatrix(foreign(tmp_path / "i.gguf", pair([6, 8], [2])))
    assert found.of(NAME, 2) is found.values[NAME]
    assert found.of("blk.0.attn_k.weight", 2) is None


def test_another_models_importance_is_refused(tmp_path: Path) -> None:
    found = read_imatrix(foreign(tmp_path / "i.gguf", pair([6, 8], [2])))
    with pytest.raises(ConvertError, match=r"i.gguf: blk.0.attn_q.weight: 2 columns, the model's has 3"):
        found.of(NAME, 3)


@pytest.mark.parametrize(
    ("tensors", "keys", "message"),
    [
        (pair([1, np.nan], [1]), {}, "1 values that are negative, infinite or no number"),
        (pair([1, -1], [1]), {}, "1 values that are negative"),
        (pair([np.inf, np.inf], [1]), {}, "2 values that are negative, infinite"),
        (pair([1, 1], [-1]), {}, "1 values that are negative"),
        (pair([1, 1, 1], [1, 1]), {}, "3 sums for 2 counts"),
        ({f"{NAME}.in_sum2": np.ones(2, np.float32)}, {}, r"blk.0.attn_q.weight: .counts is missing"),
        ({f"{NAME}.counts": np.ones(1, np.float32)}, {}, r"blk.0.attn_q.weight: .in_sum2 is missing"),
        (pair([1, 1], [1]) | {f"{NAME}.in_sum2": np.ones(2, np.float16)}, {}, "F16 sums and F32 counts"),
        (pair([1, 1], [1]), {"chunk_count": None}, "no imatrix.chunk_count"),
        (pair([1, 1], [1]), {"datasets": None}, "no imatrix.datasets"),
        (pair([1, 1], [1]), {"chunk_count": "many"}, "imatrix.chunk_count: 'many'"),
        ({"blk.0.attn_q.weight": np.ones(2, np.float32)}, {}, "no importance data in it"),
    ],
    ids=["nan", "negative", "infinite", "count", "shape", "no counts", "no sums", "f16", "key", "texts", "kind", "none"],
)  # fmt: skip
def test_what_no_collector_writes_is_refused(
    tmp_path: Path, tensors: dict[str, NDArray[np.generic]], keys: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelCorrupt, match=message):
        read_imatrix(foreign(tmp_path / "i.gguf", tensors, **keys))


def test_a_model_is_no_importance_data(tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match=r"no imatrix.datasets; give a file that llama-imatrix"):
        read_imatrix(tiny_model(tmp_path / "tiny.gguf"))


def test_the_old_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "imatrix.dat").write_bytes(struct.pack("<ii19s", 1, 19, NAME.encode()))
    with pytest.raises(ModelUnsupported, match=r"llama.cpp's old format perhaps; rewrite it: llama-imatrix --in-file"):
        read_imatrix(tmp_path / "imatrix.dat")


def test_of_what_is_no_importance_data_nothing_but_the_header_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_model(tmp_path / "tiny.gguf")
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a hole, of more bytes than any memory has
    with pytest.raises(ModelCorrupt, match=r"no imatrix.datasets"):
        read_imatrix(path)


def test_a_file_that_changes_while_it_is_read_is_refused(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = read_header(whole, model=False)
    beyond = tuple(dataclasses.replace(tensor, offset=header.file_size - 2) for tensor in header.tensors)
    longer = dataclasses.replace(header, tensors=beyond)
    monkeypatch.setattr("amalia_convert.importance.read_header", lambda _path, model: longer)
    with pytest.raises(ModelCorrupt, match="it changed while it was read"):
        read_imatrix(whole)


@pytest.mark.parametrize("name", ["absent.gguf", "."])
def test_what_is_no_file_is_our_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelNotFound, match="give a file that llama-imatrix"):
        read_imatrix(tmp_path / name)


@settings(max_examples=200, deadline=None)
@given(data=some.data())
def test_no_bytes_lead_to_anything_but_our_errors(whole: Path, data: some.DataObject) -> None:
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(some.integers(1, 4))):
        content[data.draw(some.integers(0, len(content) - 1))] = data.draw(some.integers(0, 255))
    end = data.draw(some.integers(0, len(content))) if data.draw(some.booleans()) else len(content)
    mutant = whole.with_name("mutant.gguf")
    mutant.write_bytes(content[:end])
    try:
        found = read_imatrix(mutant)
    except AmaliaError:
        return
    assert all(np.isfinite(values).all() and (values >= 0).all() for values in found.values.values())


def test_the_quantizer_takes_the_values_as_libllama_does(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "tiny.gguf", kind="F32")
    random = np.random.default_rng(1)
    sums = {f"blk.{layer}.attn_q.weight": Sums(random.random(HIDDEN) ** 8 * 100, 64) for layer in range(2)}
    write_imatrix(tmp_path / "i.gguf", Collected(sums, ("a.txt",), 1, 64))
    importance = read_imatrix(tmp_path / "i.gguf")
    quantize_with(source, tmp_path / "q.gguf", 12, importance)  # Q3_K_M
    for name, values in importance.values.items():
        assert content_of(tmp_path / "q.gguf", name) == quantize_rows(11, weights_of(source, name), values).tobytes()
        assert content_of(tmp_path / "q.gguf", name) != quantize_rows(11, weights_of(source, name)).tobytes()


def quantize_with(source: Path, target: Path, file_type: int, importance: Importance) -> None:
    """Run llama_model_quantize with importance data, which is llama-quantize --imatrix."""

    class Entry(ctypes.Structure):
        _fields_ = (("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t))

    entries = (Entry * (len(importance.values) + 1))()
    for entry, (name, values) in zip(entries, importance.values.items(), strict=False):
        entry.name, entry.data, entry.size = name.encode(), values.ctypes.data, values.size
    parameters = library().llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread = file_type, 2
    parameters.imatrix = ctypes.cast(entries, type(parameters.imatrix))
    assert library().llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)) == 0


def content_of(path: Path, name: str) -> bytes:
    tensor = next(tensor for tensor in read_header(path).tensors if tensor.name == name)
    return path.read_bytes()[tensor.offset : tensor.offset + tensor.nbytes]


def weights_of(path: Path, name: str) -> NDArray[np.float32]:
    return np.frombuffer(content_of(path, name), np.float32).reshape(-1, HIDDEN)


def test_a_file_made_with_it_says_so_in_llama_quantizes_words() -> None:
    found = Importance(Path("/somewhere/fado.gguf"), "", ("a.txt", "b.txt"), 78, {NAME: np.ones(2, np.float32)})
    assert {key: (value.kind, value.content) for key, value in describe_importance(found).items()} == {
        "quantize.imatrix.file": ("string", "fado.gguf"),
        "quantize.imatrix.dataset": ("string", "a.txt"),
        "quantize.imatrix.entries_count": ("uint32", 1),
        "quantize.imatrix.chunks_count": ("uint32", 78),
    }


def test_what_is_not_known_is_not_said() -> None:
    found = describe_importance(Importance(Path("fado.gguf"), "", (), 0, {}))
    assert list(found) == ["quantize.imatrix.file", "quantize.imatrix.entries_count"]


def test_a_long_name_is_cut_between_two_characters() -> None:
    found = describe_importance(Importance(Path("ã" * 100), "", (), 0, {}))
    assert found["quantize.imatrix.file"].content == "ã" * 63  # of llama-quantize's 127 bytes
