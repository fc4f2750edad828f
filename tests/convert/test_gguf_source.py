"""A 16-bit GGUF, whole or in parts, gives the bytes its checkpoint gives."""

import struct
from pathlib import Path

import gguf
import pytest

from amalia_convert.conversion import ConvertConfig, convert
from amalia_convert.gguf_source import model_name, open_gguf
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


def test_a_16_bit_gguf_gives_the_checkpoint_s_bytes(converted: Converted, precise: Path, tmp_path: Path) -> None:
    for receipt in convert(ConvertConfig(str(precise), ("Q4_K_M", "Q8_0", "Q2_K"), tmp_path)):
        assert receipt.sha256 == converted.receipts[receipt.level].sha256
        assert receipt.output == f"{converted.folder.name}-{receipt.level}.gguf"


def test_parts_give_the_same_bytes_as_the_whole(converted: Converted, precise: Path, tmp_path: Path) -> None:
    first, *_ = split(precise, tmp_path)
    (receipt,) = convert(ConvertConfig(str(first), ("Q4_K_M",), tmp_path / "out"))
    assert receipt.sha256 == converted.receipts["Q4_K_M"].sha256 and len(receipt.files) == 3


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


def test_a_quantized_file_is_no_source(converted: Converted) -> None:
    with pytest.raises(ModelUnsupported, match="quantized already"):
        open_gguf(converted.path("Q4_K_M"))


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
