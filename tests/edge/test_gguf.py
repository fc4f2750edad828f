"""A GGUF header is taken, never trusted."""

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from amalia_edge.errors import AmaliaError, ModelCorrupt, ModelNotFound, ModelUnsupported
from amalia_edge.gguf import read_header


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
    "an array of .* strings": built([ARCHITECTURE, key("x", 9, struct.pack("<IQ", 8, 1 << 61))]),
    "a string of 4611686018427387904 bytes, [0-9]+ left": built(
        [ARCHITECTURE, key("x", 9, struct.pack("<IQQ", 8, 1, 1 << 62))]
    ),
    "unknown kind": built([ARCHITECTURE, key("x", 9, struct.pack("<IQ", 9, 1))]),
    "unknown value kind": built([ARCHITECTURE, key("x", 77, b"")]),
    "twice": built([ARCHITECTURE, ARCHITECTURE]),
    "an alignment of 12": built([ARCHITECTURE, key("general.alignment", 4, struct.pack("<I", 12))]),
    "an alignment of 0": built([ARCHITECTURE, key("general.alignment", 4, struct.pack("<I", 0))]),
    "no general.architecture": built([]),
    "0 layers": built([ARCHITECTURE, key("llama.block_count", 4, struct.pack("<I", 0))]),
    "513 layers": built([ARCHITECTURE, key("llama.block_count", 4, struct.pack("<I", 513))]),
    "nan": built([ARCHITECTURE, key("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", float("nan")))]),
    "-1e-05|-9.99": built([ARCHITECTURE, key("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", -1e-5))]),
    "5 of 2 experts": built(
        [
            ARCHITECTURE,
            key("llama.expert_count", 4, struct.pack("<I", 2)),
            key("llama.expert_used_count", 4, struct.pack("<I", 5)),
        ]
    ),
    "0 of 1000 experts": built([ARCHITECTURE, key("llama.expert_count", 4, struct.pack("<I", 1000))]),
    "nextn_predict_layers 9": built([ARCHITECTURE, key("llama.nextn_predict_layers", 4, struct.pack("<I", 9))]),
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
    other = [
        key("split.count", 2, struct.pack("<H", 3)),
        key("llama.rope.scaling.type", 8, string("zzz")),
    ]
    contents = [built([ARCHITECTURE, kind]) for kind in other]
    for content in (built([ARCHITECTURE], version=9), built([ARCHITECTURE], [tensor("t", (32,), 99, 0)]), *contents):
        with pytest.raises(ModelUnsupported):
            read_header(wrote(content))


@pytest.mark.parametrize("first", [[ARCHITECTURE], []], ids=["the first", "another"])
def test_a_part_of_a_model_says_which_one_it_is(first: list[bytes], wrote: Callable[[bytes], Path]) -> None:
    split = [key("split.no", 2, struct.pack("<H", 1)), key("split.count", 2, struct.pack("<H", 3))]
    with pytest.raises(ModelUnsupported, match="part 2 of 3; join them"):
        read_header(wrote(built([*first, *split])))


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
