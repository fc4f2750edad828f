"""A bad checkpoint, as a person meets one: one line that says what is wrong and where, and nothing left behind."""

import errno
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amalia_convert.checkpoint import INDEX
from amalia_convert.conversion import ConvertConfig, convert
from amalia_convert.shard import HEADER_LIMIT
from amalia_edge.errors import (
    AmaliaError,
    CheckpointIncomplete,
    ConvertError,
    ModelCorrupt,
    ModelUnsupported,
    ModelUntrusted,
    TensorUnmapped,
    Unquantizable,
    UsageError,
)
from checkpoints import Tiny, write_json, write_safetensors
from checkpoints import weights as draw

WEIGHTS, FIRST, SECOND = "model.safetensors", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
TINY = Tiny(layers=2, feed_forward=64, hidden=64, heads=2, head_dim=32)  # as in the fixture
QUERIES = "model.layers.0.self_attn.q_proj.weight"

Spoil = Callable[[Path], object]


def refused(checkpoint: Path, out: Path, kind: type[AmaliaError], found: str) -> None:
    """Convert, and see one line of that kind with these words, and nothing where the file would have been."""
    with pytest.raises(kind, match=found) as caught:
        convert(ConvertConfig(str(checkpoint), ("Q8_0", "F32"), out))
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value) and caught.value.advice
    assert not out.exists() or list(out.iterdir()) == []


def header(change: Callable[[dict[str, Any]], object]) -> Spoil:
    """Change the JSON of the weights' header."""

    def spoil(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        table = json.loads(content[8 : 8 + length])
        change(table)
        text = json.dumps(table).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])

    return spoil


def entry(name: str = QUERIES, **changes: object) -> Spoil:
    return header(lambda table: table[name].update(changes))


def values(change: Callable[[dict[str, Any]], object], dtype: str = "BF16") -> Spoil:
    """Change the weights themselves."""

    def spoil(folder: Path) -> None:
        table = draw(TINY)
        change(table)
        write_safetensors(folder / WEIGHTS, table, dtype)

    return spoil


def poke(value: float) -> Spoil:
    def change(table: dict[str, Any]) -> None:
        table[QUERIES][3, 1:4] = value

    return values(change)


def configured(**changes: object) -> Spoil:
    """Change config.json; None takes a key out."""

    def spoil(folder: Path) -> None:
        table = json.loads((folder / "config.json").read_text("utf-8")) | changes
        write_json(folder / "config.json", {key: value for key, value in table.items() if value is not None})

    return spoil


def indexed(weight_map: dict[str, str]) -> Spoil:
    return lambda folder: write_json(folder / INDEX, {"weight_map": weight_map})


def without_shards(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    indexed({"a": FIRST, "b": SECOND})(folder)


def doubled_name(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    text = content[8 : 8 + length].replace(b'"model.layers.1.', b'"model.layers.0.', 1)
    (folder / WEIGHTS).write_bytes(content[:8] + text + content[8 + length :])


def sparse_header(folder: Path) -> None:
    with (folder / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", HEADER_LIMIT + 1))
        file.truncate(HEADER_LIMIT + 100)


def linked(name: str) -> Spoil:
    """Move a file of the checkpoint out of it, and leave a link behind."""

    def spoil(folder: Path) -> None:
        outside = folder.parent / "outside"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return spoil


def linked_shard(folder: Path) -> None:
    indexed({QUERIES: FIRST})(folder)
    (folder / WEIGHTS).rename(folder.parent / "outside")
    (folder / FIRST).symlink_to(folder.parent / "outside")


def linked_index(folder: Path) -> None:
    indexed({QUERIES: WEIGHTS})(folder)
    linked(INDEX)(folder)


BAD: dict[str, tuple[Spoil, type[AmaliaError], str]] = {
    "shards missing": (without_shards, CheckpointIncomplete, f"shards missing: {FIRST}, {SECOND}"),
    "index names a tensor that is not there": (indexed({"ghost": WEIGHTS}), CheckpointIncomplete, "the first: 'ghost'"),
    "index is no map": (lambda folder: write_json(folder / INDEX, {"weight_map": 3}), ModelCorrupt, "no weight_map"),
    "header over 100 MB": (sparse_header, ModelCorrupt, "byte 0: a header of 100000001 bytes"),
    "overlapping offsets": (entry(data_offsets=[0, 8192]), ModelCorrupt, "overlaps|leaves a hole"),
    "offsets beyond the file": (entry(data_offsets=[10**9, 10**9 + 8192]), ModelCorrupt, "leaves a hole"),
    "file cut": (lambda folder: os.truncate(folder / WEIGHTS, 60_000), CheckpointIncomplete, "ends at byte 60000"),
    "bytes after the end": (lambda folder: os.truncate(folder / WEIGHTS, 10**6), ModelCorrupt, "after the last tensor"),
    "one name twice": (doubled_name, ModelCorrupt, "stands twice"),
    "negative shape": (entry(shape=[-64, -64]), ModelCorrupt, "not a list of"),
    "absurd shape": (entry(shape=[2**62, 2**62]), ModelCorrupt, "q_proj.weight'?: shape"),
    "shape of a size more": (entry(shape=[1, 64, 64]), CheckpointIncomplete, r"\[1, 64, 64\], and config.json makes it \[64, 64\]"),
    "empty tensor": (values(lambda table: table.update({QUERIES: np.zeros((0, 64), np.float32)})), CheckpointIncomplete, "q_proj"),
    "not a number": (poke(np.nan), Unquantizable, r"tensor .*q.*: 3 values are not a number and 0 are infinite"),
    "infinite": (poke(-np.inf), Unquantizable, r"tensor .*q.*: 0 values are not a number and 3 are infinite"),
    "whole numbers for weights": (entry(dtype="I16"), ModelUnsupported, "q_proj.weight is I16"),
    "an unknown dtype": (entry(dtype="F7"), ModelCorrupt, "dtype 'F7' is not one"),
    "config without a key": (configured(num_hidden_layers=None), CheckpointIncomplete, "has no num_hidden_layers"),
    "config of another width": (configured(hidden_size=128), CheckpointIncomplete, r"config.json makes it"),
    "config of more layers": (configured(num_hidden_layers=3), CheckpointIncomplete, "missing, the first: model.layers.2"),
    "config of fewer layers": (configured(num_hidden_layers=1), TensorUnmapped, "the first: model.layers.1"),
    "config of no layers": (configured(num_hidden_layers=0), ModelUnsupported, "num_hidden_layers is 0"),
    "config of a word for a number": (configured(hidden_size="64"), ModelUnsupported, "hidden_size is 64"),
    "config of absurd heads": (configured(num_attention_heads=10**12), ModelUnsupported, "num_attention_heads"),
    "vocabulary larger than the embedding": (configured(vocab_size=300), CheckpointIncomplete, "embed|pieces|300"),
    "no vocabulary": (lambda folder: (folder / "tokenizer.model").unlink(), CheckpointIncomplete, "tokenizer"),
    "../ in a file's name": (indexed({QUERIES: f"../{WEIGHTS}"}), ModelCorrupt, "names the shard"),
    "an absolute file name": (indexed({QUERIES: f"/tmp/{WEIGHTS}"}), ModelCorrupt, "names the shard"),
    "weights linked from outside": (linked(WEIGHTS), ModelUntrusted, "link out of the folder"),
    "shard linked from outside": (linked_shard, ModelUntrusted, "link out of the folder"),
    "tokenizer linked from outside": (linked("tokenizer.model"), ModelUntrusted, "link out of the folder"),
    "config linked from outside": (linked("config.json"), ModelUntrusted, "link out of the folder"),
    "template linked from outside": (linked("chat_template.jinja"), ModelUntrusted, "link out of the folder"),
    "index linked from outside": (linked_index, ModelUntrusted, "link out of the folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_checkpoint_is_refused_in_one_line_and_nothing_is_left(
    checkpoint: Path, tmp_path: Path, name: str
) -> None:
    spoil, kind, found = BAD[name]
    spoil(checkpoint)
    refused(checkpoint, tmp_path / "out", kind, found)


def test_a_vocabulary_of_more_tokens_than_the_embedding_has_rows_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    """Configuration and weights agree with each other, and the tokenizer is of another model."""
    configured(vocab_size=300)(checkpoint)
    table = draw(TINY)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        table[name] = table[name][:300]
    write_safetensors(checkpoint / WEIGHTS, table)
    refused(checkpoint, tmp_path / "out", CheckpointIncomplete, "400 pieces, and the embedding 300 rows")


def test_a_link_that_stays_in_the_folder_is_followed(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / WEIGHTS).rename(checkpoint / "real.bin")
    (checkpoint / WEIGHTS).symlink_to("real.bin")
    assert convert(ConvertConfig(str(checkpoint), ("Q8_0",), tmp_path / "out"))


def test_the_hub_s_cache_keeps_its_files_behind_links(checkpoint: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--amalia-llm--Azulejo"
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    checkpoint.rename(cache / "blobs")
    for blob in (cache / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(Path("../../blobs") / blob.name)
    assert convert(ConvertConfig(str(snapshot), ("Q8_0",), tmp_path / "out"))


def test_a_place_without_room_is_refused_before_it_is_made(checkpoint: Path) -> None:
    """/proc has no bytes to give."""
    with pytest.raises(AmaliaError, match=r"0\.0 MB are free|cannot be made"):
        convert(ConvertConfig(str(checkpoint), ("Q8_0",), Path("/proc/nobody/may/write")))


@pytest.mark.parametrize("out", ["file", "file/below", "/dev/null"])
def test_a_target_that_cannot_be_written_is_named(checkpoint: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(ConvertError, match="cannot be made") as caught:
        convert(ConvertConfig(str(checkpoint), ("Q8_0",), tmp_path / out))
    assert caught.value.exit_code == 6 and (tmp_path / "file").read_bytes() == b"mine"


@pytest.mark.parametrize("writes", [0, 1, 9])
def test_a_disk_that_fills_up_midway_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    real, done = os.pwrite, list[int]()

    def pwrite(descriptor: int, content: bytes, offset: int) -> int:
        done.append(offset)
        if len(done) > writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, content, offset)

    monkeypatch.setattr("os.pwrite", pwrite)
    refused(
        checkpoint, tmp_path / "out", ConvertError, r"Azulejo-1M-(Q8_0|F32)\.gguf: the disk is full; free some space"
    )


def test_a_limit_on_the_size_of_files_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    code = (
        "import resource, sys\nfrom amalia_edge.cli.door import run_door\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "sys.exit(run_door(['convert', sys.argv[1], '--to', 'F32', '--out', sys.argv[2]]))"
    )
    words = [sys.executable, "-c", code, str(checkpoint), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (6, "", 1)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_target_that_exists_stays_as_it_was(checkpoint: Path, tmp_path: Path, what: str) -> None:
    target = tmp_path / "out" / "Azulejo-1M-Q8_0.gguf"
    target.parent.mkdir()
    if what == "file":
        target.write_bytes(b"mine")
    else:
        target.mkdir()
    with pytest.raises((UsageError, ConvertError), match=r"is already there|is a folder"):
        convert(ConvertConfig(str(checkpoint), ("Q8_0",), target.parent))
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert what == "folder" or target.read_bytes() == b"mine"


def test_nothing_of_a_checkpoint_is_executed(checkpoint: Path, tmp_path: Path) -> None:
    """Python files, auto_map and pickles are what transformers would run."""
    (checkpoint / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (checkpoint / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch " + bytes(tmp_path / "ran") + b"'\ntR.")
    configured(auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"})(checkpoint)
    (checkpoint / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}")
    convert(ConvertConfig(str(checkpoint), ("Q8_0",), tmp_path / "out"))
    assert not (tmp_path / "ran").exists()
