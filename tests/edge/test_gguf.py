"""A GGUF header is taken, never trusted, in one file or in parts."""

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as some

from amalia_edge import native
from amalia_edge.errors import AmaliaError, ModelCorrupt, ModelNotFound, ModelUnsupported
from amalia_edge.gguf import read_header
from amalia_edge.load_config import LoadConfig


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def key(name: str, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ARCHITECTURE = key("general.architecture", 8, string("llama"))


def built(
    keys: list[bytes],
    tensors: list[bytes] | None = None,
    data: bytes = b"",
    *,
    version: int = 3,
    key_count: int | None = None,
) -> bytes:
    """Build a file, which may lie about its count of keys."""
    tensors = tensors or []
    counts = len(tensors), len(keys) if key_count is None else key_count
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(keys) + b"".join(tensors)
    return head + b"\0" * (-len(head) % 32) + data


@pytest.fixture
def wrote(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        (tmp_path / "made.gguf").write_bytes(content)
        return tmp_path / "made.gguf"

    return write


@pytest.mark.parametrize(("kind", "width"), [(5, 4), (8, 8)])
def test_an_array_longer_than_any_vocabulary_is_not_walked(
    kind: int, width: int, wrote: Callable[[bytes], Path]
) -> None:
    many = (1 << 22) + 1
    path = wrote(built([key("a", 9, struct.pack("<IQ", kind, many))]))
    os.truncate(path, path.stat().st_size + width * many)  # a sparse file: it takes no room
    with pytest.raises(ModelCorrupt, match=f"an array of {many}.*more than any model has"):
        read_header(path, model=False)


def test_a_good_file_is_read_whole(tiny: Path) -> None:
    header = read_header(tiny)
    assert (header.architecture, header.name, header.level) == ("llama", "Tiny", "Q8_0")
    assert header.trained_context == 1024
    assert header.tensors[-1].offset + header.tensors[-1].nbytes <= header.file_size
    assert 8.4 < header.bits_per_weight < 8.8  # 34 bytes for 32 weights, and a few norms in f32


def test_a_missing_file_and_a_folder_are_not_found(tmp_path: Path) -> None:
    for path in (tmp_path / "nada.gguf", tmp_path):
        with pytest.raises(ModelNotFound):
            read_header(path)


def test_a_file_cut_in_half_names_the_tensor_and_what_is_missing(tiny: Path, wrote: Callable[[bytes], Path]) -> None:
    content = tiny.read_bytes()
    with pytest.raises(ModelCorrupt, match=r"the file ends [0-9,]+ bytes too early"):
        read_header(wrote(content[: len(content) // 2]))


def test_a_file_cut_in_its_header_names_the_byte(tiny: Path, wrote: Callable[[bytes], Path]) -> None:
    with pytest.raises(ModelCorrupt, match=r"byte 1[0-9]+"):
        read_header(wrote(tiny.read_bytes()[:200]))


WRONG = {
    "not a GGUF file": b"MZ" + b"\0" * 60,
    "too short": b"GGUF",
    "more than any model": built([ARCHITECTURE], key_count=1 << 40),
    "wanted .* more": built([ARCHITECTURE], key_count=2)[:70],
    "a string of": built([key("general.architecture", 8, struct.pack("<Q", 1 << 62))]),
    "an array of .* values": built([ARCHITECTURE, key("x", 9, struct.pack("<IQ", 4, 1 << 61))]),
    "an array of .* strings in [0-9]+ bytes": built([ARCHITECTURE, key("x", 9, struct.pack("<IQ", 8, 1 << 61))]),
    "an array of 1 strings, and the file ends": built([ARCHITECTURE, key("x", 9, struct.pack("<IQQ", 8, 1, 1 << 62))]),
    "unknown kind": built([ARCHITECTURE, key("x", 9, struct.pack("<IQ", 9, 1))]),
    "unknown value kind": built([ARCHITECTURE, key("x", 77, b"")]),
    "twice": built([ARCHITECTURE, ARCHITECTURE]),
    "an alignment of 12": built([ARCHITECTURE, key("general.alignment", 4, struct.pack("<I", 12))]),
    "an alignment of 0": built([ARCHITECTURE, key("general.alignment", 4, struct.pack("<I", 0))]),
    "no general.architecture": built([]),
    "block_count: 0, wanted 1 to 512": built([ARCHITECTURE, key("llama.block_count", 4, struct.pack("<I", 0))]),
    "block_count: 513, wanted 1 to 512": built([ARCHITECTURE, key("llama.block_count", 4, struct.pack("<I", 513))]),
    "nan": built([ARCHITECTURE, key("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", float("nan")))]),
    "-1e-05|-9.99": built([ARCHITECTURE, key("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", -1e-5))]),
    "5 of 2 experts used": built(
        [
            ARCHITECTURE,
            key("llama.expert_count", 4, struct.pack("<I", 2)),
            key("llama.expert_used_count", 4, struct.pack("<I", 5)),
        ]
    ),
    "0 of 1000 experts used": built([ARCHITECTURE, key("llama.expert_count", 4, struct.pack("<I", 1000))]),
    "nextn_predict_layers: 9 of 0 layers": built(
        [ARCHITECTURE, key("llama.nextn_predict_layers", 4, struct.pack("<I", 9))]
    ),
    "tokens: no vocabulary": built(
        [
            ARCHITECTURE,
            key("tokenizer.ggml.model", 8, string("llama")),
            key("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 0)),
        ]
    ),
    "a NUL in the name 'llama.expert_group_count": built(
        [ARCHITECTURE, key("llama.expert_group_count\0", 4, struct.pack("<I", 7))]
    ),
    "a NUL in the name 'a.x00b'": built([ARCHITECTURE], [tensor("a\0b", (8,), 0, 0)], b"\0" * 64),
    "a key without a name": built([key("", 4, bytes(4))]),
    "an alignment of 32": built([ARCHITECTURE, key("general.alignment", 10, struct.pack("<Q", 32))]),
    "of rank 9": built([ARCHITECTURE], [string("t") + struct.pack("<I", 9)]),
    "in blocks of 32": built([ARCHITECTURE], [tensor("t", (33, 2), 8, 0)]),
    r"of shape \(0,\)": built([ARCHITECTURE], [tensor("t", (0,), 0, 0)]),
    "of shape .4294967296": built([ARCHITECTURE], [tensor("t", (1 << 32, 1 << 32, 1 << 32), 0, 0)]),
    "not a multiple of 32": built([ARCHITECTURE], [tensor("t", (8,), 0, 4)], b"\0" * 64),
    "begins inside a": built([ARCHITECTURE], [tensor("a", (16,), 0, 0), tensor("b", (8,), 0, 32)], b"\0" * 64),
    "two tensors of one name": built([ARCHITECTURE], [tensor("a", (8,), 0, 0), tensor("a", (8,), 0, 32)], b"\0" * 64),
    "bytes too early": built([ARCHITECTURE], [tensor("a", (8,), 0, 1 << 60)]),
}


@pytest.mark.parametrize("found", WRONG)
def test_each_way_to_be_wrong_has_its_own_words(found: str, wrote: Callable[[bytes], Path]) -> None:
    with pytest.raises(ModelCorrupt, match=found):
        read_header(wrote(WRONG[found]))


def test_what_we_do_not_run_is_unsupported(wrote: Callable[[bytes], Path]) -> None:
    contents = [
        built([ARCHITECTURE], version=9),
        built([ARCHITECTURE], [tensor("t", (32,), 99, 0)]),
        built([ARCHITECTURE, key("llama.rope.scaling.type", 8, string("zzz"))]),
        built([ARCHITECTURE, key("tokenizer.ggml.model", 8, string("bert"))]),
        built([key("general.architecture", 8, string("bert"))]),
    ]
    for content in contents:
        with pytest.raises(ModelUnsupported):
            read_header(wrote(content))


CVES = {
    "CVE-2024-21802": ("bytes too early", built([ARCHITECTURE], [tensor("a", (1 << 40, 4), 0, 0)], b"\0" * 64)),
    "CVE-2024-23605": ("more than any model has", built([ARCHITECTURE], key_count=1 << 60)),
    "CVE-2025-53630": (
        "begins inside a|bytes too early",
        built([ARCHITECTURE], [tensor("a", (1 << 61,), 0, 0), tensor("b", (8,), 0, 0)], b"\0" * 64),
    ),
    "CVE-2026-27940": (
        "of shape", built([ARCHITECTURE], [tensor("a", (1 << 31, 1 << 31, 4), 0, 0)], b"\0" * 64),
    ),
    "CVE-2026-33298": ("begins inside a|bytes too early", built([ARCHITECTURE], [tensor("a", (8,), 0, (1 << 64) - 32)])),
}  # fmt: skip


@pytest.mark.parametrize("name", CVES)
def test_what_each_cve_believed_is_refused(name: str, wrote: Callable[[bytes], Path]) -> None:
    """All five believed a size or a count from the file: a tensor's, the keys', their sums, their products, an offset."""
    found, content = CVES[name]
    with pytest.raises(ModelCorrupt, match=found):
        read_header(wrote(content))


def split(path: Path, whole: Path, most: int = 8) -> list[Path]:
    """Write a model again in parts, by the gguf package."""
    reader, writer = gguf.GGUFReader(whole), gguf.GGUFWriter(path, "llama", split_max_tensors=most)
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1])
    for one in reader.tensors:
        writer.add_tensor(one.name, one.data, raw_dtype=one.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.parent.glob(f"{path.stem}-*.gguf"))


@pytest.fixture
def parts(tiny: Path, tmp_path: Path) -> list[Path]:
    return split(tmp_path / "model.gguf", tiny)


def test_a_model_in_parts_is_read_whole_by_any_of_them(tiny: Path, parts: list[Path]) -> None:
    whole = read_header(tiny)
    for part in parts:
        header = read_header(part)
        assert (header.path, header.parts) == (parts[0], tuple(parts))
        assert {(one.name, one.shape, one.kind) for one in header.tensors} == {
            (one.name, one.shape, one.kind) for one in whole.tensors
        }
        assert header.file_size == sum(one.stat().st_size for one in parts)
        assert header.strings("tokenizer.ggml.tokens") == whole.strings("tokenizer.ggml.tokens")


def test_each_tensor_says_in_which_part_its_bytes_lie(tiny: Path, parts: list[Path]) -> None:
    bytes_of = {one.name: one.data.tobytes() for one in gguf.GGUFReader(tiny).tensors}
    for one in read_header(parts[0]).tensors:
        content = parts[one.part].read_bytes()
        assert content[one.offset : one.offset + one.nbytes] == bytes_of[one.name]


def test_libllama_loads_the_parts_and_decodes_as_with_the_whole(tiny: Path, parts: list[Path]) -> None:
    told = []
    for paths in (read_header(tiny).parts, read_header(parts[1]).parts):
        pointer = native.open_model(paths, LoadConfig(gpu_layers=0))
        bindings = native.library()
        settings = bindings.llama_context_default_params()
        settings.n_ctx = 32
        context = bindings.llama_init_from_model(pointer, settings)
        ids = (bindings.llama_token * 3)(1, 20, 30)
        assert bindings.llama_decode(context, bindings.llama_batch_get_one(ids, 3)) == 0
        told.append(bindings.llama_get_logits(context)[:300])
        bindings.llama_free(context)
        bindings.llama_model_free(pointer)
    assert told[0] == told[1]


def test_a_missing_part_is_named(parts: list[Path]) -> None:
    parts[1].unlink()
    with pytest.raises(ModelNotFound, match=r"missing model-00002-of-00003\.gguf"):
        read_header(parts[0])


def test_a_part_that_is_not_called_like_one_says_so(parts: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match="not called like one"):
        read_header(parts[0].rename(tmp_path / "first.gguf"))


def test_parts_in_each_other_s_place_are_found(parts: list[Path], tmp_path: Path) -> None:
    parts[1].rename(tmp_path / "aside")
    parts[2].rename(parts[1])
    (tmp_path / "aside").rename(parts[2])
    with pytest.raises(ModelCorrupt, match="number 2 of 3, and lies in the place of number 1 of 3"):
        read_header(parts[0])


def part(number: int, keys: list[bytes], tensors: list[bytes], count: int = 2, kind: int = 2) -> bytes:
    layout = {2: "<H", 4: "<I"}[kind]
    told = [key("split.no", kind, struct.pack(layout, number)), key("split.count", 2, struct.pack("<H", 2))]
    told.append(key("split.tensors.count", 5, struct.pack("<i", count)))
    return built([*keys, *told], tensors, b"\0" * 64)


ONE, OTHER = [tensor("a", (8,), 0, 0)], [tensor("b", (8,), 0, 0)]
ODD = {
    "3 tensors in all parts, and the first says 2": (
        part(0, [ARCHITECTURE], ONE), part(1, [], [*OTHER, tensor("c", (8,), 0, 32)]),
    ),
    "a: in parts 1 and 2": (part(0, [ARCHITECTURE], ONE), part(1, [], ONE)),
    "general.name: a key that belongs in the first part": (
        part(0, [ARCHITECTURE], ONE), part(1, [key("general.name", 8, string("x"))], OTHER),
    ),
    "calls itself number 1": (part(0, [ARCHITECTURE], ONE), part(1, [], OTHER, kind=4)),  # libllama aborts on its kind
}  # fmt: skip


@pytest.mark.parametrize("found", ODD)
def test_parts_that_do_not_belong_together_are_refused(found: str, tmp_path: Path) -> None:
    for number, content in enumerate(ODD[found], 1):
        (tmp_path / f"m-{number:05}-of-00002.gguf").write_bytes(content)
    with pytest.raises(ModelCorrupt, match=found):
        read_header(tmp_path / "m-00001-of-00002.gguf")


def test_a_part_by_itself_can_be_read_as_no_model(parts: list[Path]) -> None:
    header = read_header(parts[2], model=False)
    assert (header.metadata["split.no"], header.parts) == (2, (parts[2],))


@given(some.binary(max_size=400))
def test_random_bytes_give_nothing_but_our_errors(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    path = tmp_path_factory.mktemp("random") / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + tail)
    with pytest.raises(AmaliaError):
        read_header(path)


def test_a_thousand_mutants_give_a_header_or_our_errors(tiny: Path, wrote: Callable[[bytes], Path]) -> None:
    whole, dice = tiny.read_bytes(), random.Random(25)
    header_size = read_header(tiny).data_offset
    for _ in range(1000):
        content = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            content[dice.randrange(header_size)] = dice.choice((0, 1, 127, 255, dice.randrange(256)))
        try:
            read_header(wrote(bytes(content)))
        except AmaliaError:
            continue
