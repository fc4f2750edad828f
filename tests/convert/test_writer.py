"""A file is whole or absent."""

import fcntl
import hashlib
import os
from pathlib import Path

import pytest

from amalia_convert.metadata import string, uint32
from amalia_convert.writer import Target, header_bytes, make_folder, write_whole
from amalia_edge.errors import ConvertError, ModelCorrupt
from amalia_edge.gguf import read_header


def test_nothing_has_the_final_name_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    with Target(path, 6) as target:
        target.write(3, b"def")
        assert {entry.name for entry in tmp_path.iterdir()} == {".a.gguf.partial", ".a.gguf.journal"}
        target.write(0, b"abc")
        assert target.finish() == hashlib.sha256(b"abcdef").hexdigest()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.gguf"] and path.read_bytes() == b"abcdef"


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_interruption_leaves_nothing_and_the_old_file_as_it_was(tmp_path: Path, kind: type[BaseException]) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"old")
    with pytest.raises(kind), Target(path, 6) as target:
        target.write(0, b"abc")
        raise kind
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.gguf"] and path.read_bytes() == b"old"


def test_what_another_conversion_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".a.gguf.partial").write_bytes(b"x" * 100)
    with Target(tmp_path / "a.gguf", 8) as target:
        target.write(0, b"abc")  # the rest is padding: nothing of the old bytes may show in it
        target.finish()
    assert (tmp_path / "a.gguf").read_bytes() == b"abc" + bytes(5) and len(list(tmp_path.iterdir())) == 1


def test_two_conversions_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    with Target(path, 3) as first:
        with pytest.raises(ConvertError, match="another conversion"), Target(path, 3):
            pass
        first.write(0, b"abc")
        first.finish()
    assert path.read_bytes() == b"abc"


def test_a_link_in_the_neighbour_s_place_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".a.gguf.partial").symlink_to(victim)
    with pytest.raises(ConvertError, match="cannot be written"), Target(tmp_path / "a.gguf", 3):
        pass
    assert victim.read_bytes() == b"precious"


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has a device that is always full")
    with Target(tmp_path / "a.gguf", 3) as target:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, target._file)
        os.close(full)
        with pytest.raises(ConvertError, match=r"a\.gguf: the disk is full; free some space"):
            target.write(0, b"abc")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConvertError, match="cannot be made"):
        make_folder(tmp_path / "file" / "models")


def test_our_own_reader_finds_what_was_written(tmp_path: Path) -> None:
    metadata = {"general.architecture": string("llama"), "b": uint32((1, 2)), "ç": string(("é", "ü"))}
    header = header_bytes(metadata, [("t", (2, 32), 8, 68)])
    assert len(header) % 32 == 0
    (tmp_path / "a.gguf").write_bytes(header + bytes(96))
    read = read_header(tmp_path / "a.gguf")
    assert list(read.metadata) == list(metadata)
    (tensor,) = read.tensors
    assert tensor.name == "t"


@pytest.mark.parametrize("value", [string("\ud800"), uint32(2**40), string(("a", "\udfff"))])
def test_a_value_gguf_cannot_hold_is_an_error_of_ours(value: object) -> None:
    with pytest.raises(ModelCorrupt, match="metadata"):
        header_bytes({"general.architecture": string("llama"), "a": value}, [])  # type: ignore[dict-item]


def test_a_finished_file_is_no_longer_locked(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"abc")
    with (tmp_path / "a").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
