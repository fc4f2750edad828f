"""A dry run tells what a conversion will write, to the byte, and what it takes."""

import shutil
from pathlib import Path

import pytest

from amalia_convert.conversion import ConvertConfig, convert
from amalia_convert.forecast import forecast
from amalia_convert.shape import SHAPES

from .conftest import Converted


def test_the_forecast_is_the_file_s_to_the_byte(converted: Converted, tmp_path: Path) -> None:
    found = forecast(ConvertConfig(str(converted.folder), ("Q4_K_M", "Q8_0"), tmp_path))
    for output in found.outputs:
        assert output.nbytes == converted.path(output.level.name).stat().st_size
    assert found.whole and found.disk_needed == sum(output.nbytes for output in found.outputs)
    assert not list(tmp_path.iterdir())


def test_a_configuration_alone_gives_the_tensors_and_misses_only_the_vocabulary(
    converted: Converted, tmp_path: Path
) -> None:
    shutil.copy(converted.folder / "config.json", tmp_path)
    (output,) = forecast(ConvertConfig(str(tmp_path / "config.json"), ("Q4_K_M",))).outputs
    (whole,) = forecast(ConvertConfig(str(converted.folder), ("Q4_K_M",))).outputs
    assert [(one.name, one.shape, one.block) for one in output.tensors] == [
        (one.name, one.shape, one.block) for one in whole.tensors
    ]
    assert output.nbytes - len(output.header) == whole.nbytes - len(whole.header)
    assert len(output.header) < len(whole.header)


# Published sizes in bytes: AMÁLIA's own, and those of files of the same shape (tests/convert/test_shapes.py has more).
@pytest.mark.parametrize(
    ("shape", "level", "published"),
    [("amalia-9b", "Q4_0", 5.29e9), ("amalia-9b", "Q4_K_M", 5.58e9),
     ("amalia-9b", "Q6_K", 7.51e9), ("amalia-9b", "Q8_0", 9.73e9)],
)  # fmt: skip
def test_amalia_s_sizes_are_the_published_ones(shape: str, level: str, published: float) -> None:
    found = forecast(ConvertConfig(str(SHAPES / f"{shape}.json"), (level,)))
    assert found.outputs[0].nbytes == pytest.approx(published, rel=0.01)
    assert found.outputs[0].parameters == 9_152_319_488 and not found.whole


def test_memory_is_counted_high_enough(tmp_path: Path, converted: Converted) -> None:
    found = forecast(ConvertConfig(str(converted.folder), ("Q4_K_M",), tmp_path, threads=2))
    assert 100e6 < found.memory < 600e6 and found.seconds > 0


def test_a_stopped_conversion_needs_less_of_the_disk(converted: Converted, tmp_path: Path) -> None:
    config = ConvertConfig(str(converted.folder), ("Q8_0",), tmp_path)
    whole = forecast(config).disk_needed
    (tmp_path / f".{converted.folder.name}-Q8_0.gguf.partial").write_bytes(bytes(100_000))
    assert forecast(config).disk_needed <= whole - 90_000


def test_converting_writes_what_was_forecast(converted: Converted, tmp_path: Path) -> None:
    config = ConvertConfig(str(converted.folder), ("Q4_0",), tmp_path)
    (told,), (made,) = forecast(config).outputs, convert(config)
    assert (told.nbytes, told.bits_per_weight) == (made.nbytes, made.bits_per_weight)
