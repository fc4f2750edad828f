"""The plan knows every offset and the file's size before a weight is read."""

from pathlib import Path

import pytest

from amalia_convert.conversion import ConvertConfig, prepare
from amalia_convert.levels import LEVELS
from amalia_convert.plan import OutputPlan, check_disk
from amalia_edge.errors import DoesNotFit, UsageError

from .conftest import PLAIN, Converted


def plan(folder: Path, *levels: str) -> list[OutputPlan]:
    return list(prepare(ConvertConfig(str(folder), levels)).outputs)


def test_the_planned_size_is_the_file_s_to_the_byte(converted: Converted) -> None:
    for output in plan(converted.folder, *PLAIN):
        assert output.nbytes == converted.path(output.level.name).stat().st_size


def test_tensors_lie_one_after_the_other_on_32_bytes(converted: Converted) -> None:
    for output in plan(converted.folder, *PLAIN):
        end = len(output.header)
        for tensor in output.tensors:
            assert tensor.offset % 32 == 0 and tensor.offset - end in range(32)
            end = tensor.offset + tensor.nbytes
        assert output.nbytes - end in range(32)


def test_a_plan_reads_no_weight(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    sound = plan(checkpoint, "Q8_0")
    header, size = 8 + int.from_bytes(path.read_bytes()[:8], "little"), path.stat().st_size
    with path.open("r+b") as file:
        file.seek(header)
        file.write(b"\xff" * (size - header))  # every weight is not a number now
    assert plan(checkpoint, "Q8_0")[0].header == sound[0].header


def test_a_level_named_twice_is_written_once(checkpoint: Path) -> None:
    assert [output.level.name for output in plan(checkpoint, "Q8_0", "q8_0", "F16")] == ["Q8_0", "F16"]


def test_no_level_is_a_mistake(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="names no level"):
        plan(checkpoint)


def test_what_the_disk_cannot_hold_is_refused_before_reading(tmp_path: Path) -> None:
    small = OutputPlan(LEVELS["Q4_0"], tmp_path / "a", b"", (), 1)
    large = OutputPlan(LEVELS["F32"], tmp_path / "b", b"", (), 2**60)
    check_disk(tmp_path, [small])
    with pytest.raises(DoesNotFit, match=r"needs 1152921504\.61 GB, .* are free; alone would fit: Q4_0"):
        check_disk(tmp_path, [small, large])
