"""Keys and values become the bytes gguf's own writer makes of them."""

from pathlib import Path

import gguf
import pytest
from gguf import GGUFValueType

from amalia_convert.metadata import Metadata, Value, boolean, float32, int32, pack, string, uint32
from amalia_edge.errors import ModelCorrupt

VALUES = {
    "uint32": uint32(2**32 - 1),
    "int32": int32(-(2**31)),
    "uint64": Value("uint64", 2**64 - 1),
    "float32": float32(0.1),
    "infinite": float32(float("-inf")),
    "true": boolean(True),
    "false": boolean(False),
    "text": string("São Tomé"),
    "empty text": string(""),
    "bytes": string(b"\xff\x00\n"),
    "uint32s": uint32((0, 1, 2**32 - 1)),
    "int32s": int32((-1, 2**31 - 1)),
    "float32s": float32((1.5, -1e-40)),
    "booleans": Value("bool", (True, False, True)),
    "texts": string(("á", "", b"\xc3")),
    "a key with ã": uint32(1),
}
KINDS = {
    "uint32": GGUFValueType.UINT32,
    "int32": GGUFValueType.INT32,
    "uint64": GGUFValueType.UINT64,
    "float32": GGUFValueType.FLOAT32,
    "bool": GGUFValueType.BOOL,
    "string": GGUFValueType.STRING,
}


def written_by_gguf(path: Path, metadata: Metadata) -> bytes:
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data = [{}]
    for key, value in metadata.items():
        kind = KINDS[value.kind]
        if isinstance(value.content, tuple):
            writer.add_key_value(key, list(value.content), GGUFValueType.ARRAY, sub_type=kind)
        else:
            writer.add_key_value(key, value.content, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path.read_bytes()[24:]  # after magic, version and the two counts


@pytest.mark.parametrize("name", VALUES)
def test_a_value_has_the_bytes_gguf_writes(tmp_path: Path, name: str) -> None:
    assert pack({name: VALUES[name]}) == written_by_gguf(tmp_path / "keys.gguf", {name: VALUES[name]})


def test_keys_keep_their_order(tmp_path: Path) -> None:
    assert pack(VALUES) == written_by_gguf(tmp_path / "keys.gguf", VALUES)


def test_raw_bytes_stay_as_another_file_held_them(tmp_path: Path) -> None:
    whole = written_by_gguf(tmp_path / "keys.gguf", {"key": string(("a", "b"))})
    assert pack({"key": Value("raw", whole[8 + len("key") :])}) == whole


def test_an_empty_list_is_written_with_its_kind() -> None:
    """gguf's own writer refuses it; its reader does not."""
    assert pack({"k": uint32(())}) == b"\1\0\0\0\0\0\0\0k" + bytes([9, 0, 0, 0, 4, 0, 0, 0]) + bytes(8)


@pytest.mark.parametrize(
    "value",
    [uint32(-1), uint32(2**32), uint32((1, -1)), int32(2**31), Value("uint64", -1), float32(1e39), uint32(1.5),  # type: ignore[arg-type]
     uint32("1"), string("\ud800"), string(("a", "\udfff"))],  # type: ignore[arg-type]
)  # fmt: skip
def test_a_value_gguf_cannot_hold_is_named(value: Value) -> None:
    with pytest.raises(
        ModelCorrupt, match=r"metadata: the value of 'general\.x' is one GGUF cannot hold \(.+\); look at"
    ):
        pack({"general.x": value})


def test_a_key_gguf_cannot_hold_is_named() -> None:
    with pytest.raises(ModelCorrupt, match=r"'\\ud800' is one GGUF cannot hold"):
        pack({"\ud800": uint32(1)})
