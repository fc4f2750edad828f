"""A 16-bit GGUF, whole or in parts, gives the bytes its checkpoint gives."""

import os
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from amalia_convert.checkpoint import Piece
from amalia_convert.conversion import ConvertConfig, convert
from amalia_convert.gguf_source import LISTED, model_name, open_gguf
from amalia_convert.level_table import find_level
from amalia_convert.plan import plan_output
from amalia_convert.quantize import Quantizer
from amalia_convert.recipe import Recipe
from amalia_edge.errors import CheckpointIncomplete, ModelCorrupt, ModelUnsupported

from .conftest import Converted


@pytest.fixture(scope="module")
def precise(converted: Converted) -> Path:
    return converted.path(converted.tiny.dtype)


def split(path: Path, folder: Path, parts: int = 3) -> list[Path]:
    """Cut a GGUF into parts as llama-gguf-split does: all the metadata in the first, some tensors in each."""
    reader = gguf.GGUFReader(path)
    step = -(-len(reader.tensors) // parts)
    stem, paths = path.stem, []
    for number in range(parts):
        part = folder / f"{stem}-{number + 1:05}-of-{parts:05}.gguf"
        writer = gguf.GGUFWriter(part, reader.fields["general.architecture"].contents() if number == 0 else "")
        writer.kv_data = [{}]
        if number == 0:
            for field in list(reader.fields.values())[3:]:  # after the three counts
                kind, *rest = field.types
                sub_type = rest[-1] if rest else None
                writer.add_key_value(field.name, field.contents(), kind, sub_type=sub_type)
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", parts)
        writer.add_int32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[number * step : (number + 1) * step]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        paths.append(part)
    return paths


SOUND = {"general.architecture": "llama", "llama.block_count": 1, "llama.attention.head_count": 4}
MATRIX = {"blk.0.attn_q.weight": np.ones((32, 32), np.float16)}


def handmade(
    path: Path, metadata: dict[str, Any] = SOUND, tensors: dict[str, np.ndarray[Any, Any]] = MATRIX, alignment: int = 32
) -> Path:
    """Write a GGUF of just these keys and tensors; whole numbers are u32."""
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data = [{}]
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    for key, value in metadata.items():
        kind = gguf.GGUFValueType.UINT32 if type(value) is int else gguf.GGUFValueType.get_type(value)
        writer.add_key_value(key, value, kind)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def parts_of(path: Path, metadata: dict[str, Any]) -> Path:
    """Write a model in two parts, the first with this metadata, and give the first."""
    told = {"split.count": 2}
    first, second = (path / f"model-0000{number}-of-00002.gguf" for number in (1, 2))
    handmade(second, {**told, "split.no": 1}, {"blk.0.attn_k.weight": MATRIX["blk.0.attn_q.weight"]})
    return handmade(first, {**told, "split.no": 0, **metadata})


def test_a_16_bit_gguf_gives_the_checkpoint_s_bytes(converted: Converted, precise: Path, tmp_path: Path) -> None:
    for receipt in convert(ConvertConfig(str(precise), ("Q4_K_M", "Q8_0", "Q2_K"), tmp_path)):
        assert receipt.sha256 == converted.receipts[receipt.level].sha256
        assert receipt.output == f"{converted.folder.name}-{receipt.level}.gguf"


def test_parts_give_the_same_bytes_as_the_whole(converted: Converted, precise: Path, tmp_path: Path) -> None:
    first, *_ = split(precise, tmp_path)
    (receipt,) = convert(ConvertConfig(str(first), ("Q4_K_M",), tmp_path / "out"))
    assert receipt.sha256 == converted.receipts["Q4_K_M"].sha256 and len(receipt.files) == 3


@pytest.mark.parametrize("alignment", [8, 64, 128])
def test_a_source_of_another_alignment_becomes_a_file_that_others_read(tmp_path: Path, alignment: int) -> None:
    dice = np.random.default_rng(alignment)
    # 120 bytes each: a multiple of 8, and of no wider alignment
    tensors = {f"blk.0.{name}.weight": dice.standard_normal((3, 20)).astype(np.float16) for name in ("a", "b", "c")}
    path = handmade(tmp_path / "odd-F16.gguf", SOUND, tensors, alignment)
    (receipt,) = convert(ConvertConfig(str(path), ("F16",), tmp_path / "out"))
    reader = gguf.GGUFReader(tmp_path / "out" / receipt.output)
    read = {tensor.name: tensor.data for tensor in reader.tensors}
    assert reader.alignment == 32 and read.keys() == tensors.keys()
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)


def test_a_vocabulary_alone_holds_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match="holds no weights"):
        open_gguf(handmade(tmp_path / "vocabulary.gguf", tensors={}))


@pytest.mark.parametrize("name", ["x-00000-of-00000.gguf", "x-00001-of-00000.gguf", "x-00007-of-00003.gguf"])
def test_a_part_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    for number in (1, 2, 3):
        handmade(tmp_path / f"x-{number:05}-of-00003.gguf", {**SOUND, "split.count": 3, "split.no": number - 1})
    with pytest.raises(ModelCorrupt, match=r"is called part \d of \d; give the parts the names"):
        open_gguf(handmade(tmp_path / name))


def test_a_list_of_missing_parts_is_cut_short(tmp_path: Path) -> None:
    path = handmade(tmp_path / "x-00001-of-99999.gguf")
    with pytest.raises(CheckpointIncomplete, match=rf"00041-of-99999\.gguf and {99_998 - LISTED} more; put"):
        open_gguf(path)


@pytest.mark.parametrize("key", ["attention.head_count", "attention.head_count_kv", "expert_count"])
@pytest.mark.parametrize("value", [[float("nan")], [float("inf"), 4.0], ["four"], "four", 4.0, [True]])
def test_counts_that_are_none_are_refused_in_a_split_file(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ModelCorrupt, match=f"llama.{key}: is not a count"):
        open_gguf(parts_of(tmp_path, {**SOUND, f"llama.{key}": value}))


def test_counts_of_each_layer_are_read_by_the_first(tmp_path: Path) -> None:
    counts = {"llama.attention.head_count": [8, 4], "llama.attention.head_count_kv": [2, 4]}
    assert open_gguf(parts_of(tmp_path, {**SOUND, **counts})).geometry.groups == 4


@pytest.mark.parametrize("layers", [0, 513, 2**32 - 1, "two", 1.0])
def test_a_split_file_of_absurd_layers_is_refused(tmp_path: Path, layers: object) -> None:
    with pytest.raises(ModelCorrupt, match=r"\d+ layers; 1 to 512"):
        open_gguf(parts_of(tmp_path, {**SOUND, "llama.block_count": layers}))


@pytest.mark.parametrize("architecture", [7, ""])
def test_a_split_file_needs_an_architecture(tmp_path: Path, architecture: object) -> None:
    with pytest.raises(ModelCorrupt, match=r"no general\.architecture"):
        open_gguf(parts_of(tmp_path, {"general.architecture": architecture, f"{architecture}.block_count": 1}))


def test_a_layer_s_number_of_many_digits_is_only_a_name(tmp_path: Path) -> None:
    name = f"blk.{'9' * 5000}.attn_q.weight"
    draft = open_gguf(handmade(tmp_path / "long.gguf", tensors={name: MATRIX["blk.0.attn_q.weight"]}))
    (tensor,) = plan_output(Recipe(find_level("Q8_0")), tmp_path / "out.gguf", draft).tensors
    assert tensor.name == name


def test_missing_parts_are_all_listed(precise: Path, tmp_path: Path) -> None:
    first, second, third = split(precise, tmp_path)
    second.unlink()
    third.unlink()
    with pytest.raises(CheckpointIncomplete, match=r"00002-of-00003\.gguf, .*00003-of-00003\.gguf"):
        open_gguf(first)


def test_a_part_under_another_one_s_name_is_refused(precise: Path, tmp_path: Path) -> None:
    first, second, third = split(precise, tmp_path)
    third.write_bytes(second.read_bytes())
    with pytest.raises(ModelCorrupt, match="part 1 of 3"):
        open_gguf(first)


def test_a_file_that_changes_while_it_is_read_is_noticed(
    precise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, work = tmp_path / "model-F16.gguf", Quantizer.__call__
    path.write_bytes(precise.read_bytes())

    def touch(self: Quantizer, piece: Piece) -> tuple[int, int]:
        os.utime(path, ns=(1, 1))
        return work(self, piece)

    monkeypatch.setattr(Quantizer, "__call__", touch)
    with pytest.raises(ModelCorrupt, match="changed while it was read"):
        convert(ConvertConfig(str(path), ("Q8_0",), tmp_path / "out"))


def test_a_quantized_file_is_no_source(converted: Converted) -> None:
    with pytest.raises(ModelUnsupported, match="quantized already"):
        open_gguf(converted.path("Q4_K_M"))


@pytest.mark.parametrize("kind", ["I32", "I8", "F64"])
def test_numbers_that_are_no_weights_are_called_what_they_are(tmp_path: Path, kind: str) -> None:
    content = np.ones((2, 32), {"I32": np.int32, "I8": np.int8, "F64": np.float64}[kind])
    path = handmade(tmp_path / "numbers.gguf", tensors={"table": content})
    with pytest.raises(ModelUnsupported, match=f"tensor table is {kind}: numbers, not 16-bit weights"):
        open_gguf(path)


def test_a_file_cut_short_is_refused_before_anything_is_written(precise: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut-F16.gguf"
    cut.write_bytes(precise.read_bytes()[:-5000])
    with pytest.raises(ModelCorrupt, match="too early"):
        convert(ConvertConfig(str(cut), ("Q8_0",), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_file_without_an_architecture_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "none.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(8))
    with pytest.raises(ModelCorrupt, match=r"no general\.architecture"):
        open_gguf(path)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("EuroLLM-9B-BF16-00001-of-00002.gguf", "EuroLLM-9B"),
        ("amalia.f16.gguf", "amalia"),
        ("AMALIA-9B-0626-DPO.gguf", "AMALIA-9B-0626-DPO"),
    ],
)
def test_a_model_is_named_without_part_and_precision(name: str, model: str) -> None:
    assert model_name(Path(name)) == model
