"""What `amalia verify` finds: each kind of damage, by its tensor or its byte, and nothing in a sound file."""

import ctypes
import dataclasses
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from click.testing import CliRunner

from amalia_convert.cli import verify
from amalia_convert.receipt import FORMAT, Receipt, receipt_path, write_receipt
from amalia_convert.verify import AHEAD, PIECE, SCALES, Verification, faulty_blocks, verify_file
from amalia_edge.cli.door import run_door
from amalia_edge.errors import AmaliaError, ModelCorrupt, ModelNotFound, ModelUnsupported
from amalia_edge.gguf import BLOCKS, read_header
from amalia_edge.native import library
from models import tiny_model

from .conftest import Converted

KINDS = {name: (number, weights, nbytes) for number, (name, weights, nbytes) in BLOCKS.items()}
FLOATING = [kind for kind in KINDS if kind not in ("I8", "I16", "I32", "I64", "NVFP4")]  # the others are all numbers


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("sound") / "sound.gguf", kind="Q8_0")


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    """A sound model with its receipt, for a test to damage."""
    path = tmp_path / "copy.gguf"
    path.write_bytes(sound.read_bytes())
    receipt(path)
    return path


def receipt(path: Path, **changes: Any) -> None:
    made = Receipt(path.name, "Q8_0", "x", None, {}, verify_file(path).sha256, path.stat().st_size, 1, 8.5, 1, 1, {})
    write_receipt(path, dataclasses.replace(made, **changes))


def outcomes(path: Path) -> dict[str, str]:
    return {check.name: check.outcome for check in verify_file(path).checks}


def faults(path: Path) -> str:
    return "\n".join(map(str, verify_file(path).faults))


def test_every_level_of_a_conversion_is_sound(converted: Converted) -> None:
    for level in converted.receipts:
        assert set(outcomes(converted.path(level)).values()) == {"passed"}, level


def test_a_sound_file_without_a_receipt_says_so_and_passes(sound: Path) -> None:
    assert outcomes(sound) == {
        "header": "passed", "size": "passed", "scales": "passed", "vocabulary": "passed", "template": "passed",
        "SHA-256": "skipped",
    }  # fmt: skip
    verify_file(sound).raise_faults()


@pytest.mark.parametrize("place", ["magic", "name", "first", "middle", "last"])
def test_one_flipped_bit_anywhere_is_found(copy: Path, place: str) -> None:
    header = read_header(copy)
    name = copy.read_bytes().index(b"Tiny")
    byte = {"magic": 0, "name": name, "first": header.data_offset, "middle": 700_000, "last": header.file_size - 1}[
        place
    ]
    content = bytearray(copy.read_bytes())
    content[byte] ^= 1
    copy.write_bytes(content)
    with pytest.raises(ModelCorrupt):
        verify_file(copy).raise_faults()


def test_a_cut_file_names_the_tensor_and_the_bytes_that_are_missing(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[:-5000])
    with pytest.raises(ModelCorrupt, match=r"copy\.gguf: tensor blk\.\d.*ends [\d,]+ bytes too early"):
        verify_file(copy)


def test_bytes_after_the_last_tensor_are_counted(copy: Path) -> None:
    size = copy.stat().st_size
    with copy.open("ab") as file:
        file.write(b"x" * 33)
    assert f"byte {size}: 33 bytes after the last tensor" in faults(copy)


def test_padding_after_the_last_tensor_may_be_there_or_not(tmp_path: Path) -> None:
    path = blocks_file(tmp_path / "a.gguf", {"a": ("Q4_0", bytes(18)), "b": ("Q4_0", bytes(18))})
    header = read_header(path)
    end = header.tensors[-1].offset + 18
    for size in (end, end + 14):
        path.write_bytes(path.read_bytes()[:end].ljust(size, b"\0"))
        assert outcomes(path)["size"] == "passed", size


def test_a_hole_between_tensors_is_found(tmp_path: Path) -> None:
    path = blocks_file(tmp_path / "a.gguf", {"a": ("Q4_0", bytes(18)), "b": ("Q4_0", bytes(18))})
    content = bytearray(path.read_bytes() + bytes(32))
    at = content.index(b"\1\0\0\0\0\0\0\0b") + 8 + 1 + 4 + 8 + 4  # after the name: rank, one side, type, offset
    assert content[at] == 32
    content[at] = 64
    path.write_bytes(content)
    assert "tensor b: begins at byte" in faults(path)


def blocks_file(path: Path, tensors: dict[str, tuple[str, bytes]]) -> Path:
    """Write a file of tensors given as raw blocks, one row each; it has no vocabulary."""
    table, data = b"", b""
    for name, (kind, content) in tensors.items():
        number, weights, nbytes = KINDS[kind]
        row = len(content) // nbytes * weights
        table += string(name) + struct.pack("<IQIQ", 1, row, number, len(data))
        data += content + bytes(-len(content) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 1) + string("general.architecture") + struct.pack("<I", 8)
    head += string("llama") + table
    path.write_bytes(head + bytes(-len(head) % 32) + data)
    return path


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def test_every_block_type_we_read_has_its_scales_named() -> None:
    assert set(SCALES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_is_faulty_where_libllama_says_so(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Each byte of a block, the two and the four from it on, with every bit set or an infinity's; and blocks at random."""
    number, _, nbytes = KINDS[kind]
    draw = np.random.default_rng(number)
    blocks = [draw.integers(0, 256, nbytes, np.uint8).tobytes() for _ in range(300)]
    for offset in range(nbytes):
        for poke in (
            b"\xff",
            b"\x00\x7c",
            b"\xff\xfb",
            b"\x80\x7f",
            b"\x00\x00\x80\x7f",
            b"\xff" * 4,
            b"\x00\xc0\x00\x70",
        ):
            blocks.append((bytes(offset) + poke + bytes(nbytes))[:nbytes])
    blocks.append(bytes([*bytes(nbytes)[:-8], *np.float64(np.inf).tobytes()]) if nbytes >= 8 else bytes(nbytes))
    validate = library()._lib.ggml_validate_row_data
    validate.restype, validate.argtypes = ctypes.c_bool, [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t]
    theirs = [index for index, block in enumerate(blocks) if not validate(number, block, nbytes)]
    if kind == "F64":  # libllama narrows to f32 before it looks
        theirs = np.flatnonzero(~np.isfinite(np.frombuffer(b"".join(blocks), "<f8"))).tolist()
    assert faulty_blocks(kind, b"".join(blocks)).tolist() == theirs
    assert bool(theirs) == (kind in FLOATING)


@pytest.mark.parametrize("kind", FLOATING)
def test_a_broken_block_of_any_type_is_found_in_a_file_and_its_byte_named(tmp_path: Path, kind: str) -> None:
    nbytes = KINDS[kind][2]
    content = bytes(nbytes * 6) + b"\xff" * nbytes * 2 + bytes(nbytes * 8)
    path = blocks_file(tmp_path / "a.gguf", {"sound": (kind, bytes(nbytes * 2)), "broken": (kind, content)})
    first = next(one.offset for one in read_header(path).tensors if one.name == "broken") + 6 * nbytes
    found = f"tensor broken: 2 of 16 {kind} blocks are infinite or not a number, the first at byte {first}"
    assert found in faults(path) and "tensor sound" not in faults(path)


def test_blocks_are_counted_over_all_pieces_of_a_tensor(tmp_path: Path) -> None:
    content = np.zeros(PIECE * (AHEAD + 2) // 4, "<f4")
    content[[300_000, -1]] = np.inf, np.nan
    path = blocks_file(tmp_path / "a.gguf", {"long": ("F32", content.tobytes())})
    (tensor,) = read_header(path).tensors
    assert f"2 of {content.size:,} F32 blocks are infinite or not a number, the first at byte {tensor.offset + 1_200_000}" in faults(path)  # fmt: skip


def vocabulary_file(path: Path, changes: dict[str, Any], model: str = "llama") -> Path:
    """Write a file that is a vocabulary and its embedding; None leaves a key out."""
    if model == "llama":
        texts = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a"]
        keys: dict[str, Any] = {"scores": [0.0] * len(texts)}
    else:
        texts, keys = ["a", "b", "ab", "c", "abc", "<s>"], {"merges": ["a b", "ab c"]}
    keys |= {"model": model, "tokens": texts, "token_type": [1] * len(texts), "bos_token_id": 1} | changes
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in keys.items():
        if isinstance(value, list):
            writer.add_array(f"tokenizer.ggml.{key}", value)
        elif value is not None:
            writer.add_key_value(f"tokenizer.ggml.{key}", value, gguf.GGUFValueType.get_type(value))
    writer.add_tensor("token_embd.weight", np.zeros((len(texts), 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_a_coherent_vocabulary_passes(tmp_path: Path, model: str) -> None:
    assert outcomes(vocabulary_file(tmp_path / "a.gguf", {}, model))["vocabulary"] == "passed"


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA_FAULTS: dict[str, dict[str, Any]] = {
    "tokens: no vocabulary": {"tokens": None},
    "scores: 3 for 259 tokens": {"scores": [0.0, 1.0, 2.0]},
    "scores: none, and": {"scores": None},
    "scores: a score that is infinite": {"scores": [0.0] * 258 + [float("nan")]},
    "token_type: 260 for 259 tokens": {"token_type": [1] * 260},
    "token_type: no array for 259": {"token_type": 1},
    "bos_token_id: 259, and the tokens are 0 to 258": {"bos_token_id": 259},
    "eos_token_id: -1, and": {"eos_token_id": -1},
    "padding_token_id: zero": {"padding_token_id": "zero"},
    "tokens: 1 texts stand more than once, the first: 'a'": {"tokens": ["<unk>", "a", *BYTES, "a"]},
    "tokens: 1 of 256 byte tokens are missing, the first: <0x0A>": {
        "tokens": ["<unk>", "<s>", *BYTES[:10], "x", *BYTES[11:], "a"]
    },
    "token_embd.weight: 259 rows for 260 tokens": {"tokens": ["<unk>", "<s>", *BYTES, "a", "b"]},
}
GPT2_FAULTS: dict[str, dict[str, Any]] = {
    "merges: none": {"merges": None},
    "merges: 1 name no known tokens, the first: 'a z'": {"merges": ["a b", "a z"]},
    "merges: 1 name no known tokens, the first: 'b c'": {"merges": ["b c"]},  # both are tokens, what they make is not
    "merges: 1 name no known tokens, the first: 'ab'": {
        "merges": ["ab"],
        "tokens": ["a", "b", "ab", "aab", "c", "<s>"],
    },
}


@pytest.mark.parametrize("found", [*LLAMA_FAULTS, *GPT2_FAULTS])
def test_each_way_a_vocabulary_can_be_wrong_has_its_own_words(tmp_path: Path, found: str) -> None:
    model = "llama" if found in LLAMA_FAULTS else "gpt2"
    path = vocabulary_file(tmp_path / "a.gguf", (LLAMA_FAULTS | GPT2_FAULTS)[found], model)
    assert found in faults(path)


def test_an_empty_token_has_the_name_libllama_gives_it(tmp_path: Path) -> None:
    one_empty, two_empty = ["<unk>", "", *BYTES, "a"], ["", "", *BYTES, "a"]
    for tokens in (one_empty, two_empty):
        assert outcomes(vocabulary_file(tmp_path / "a.gguf", {"tokens": tokens}))["vocabulary"] == "passed"


@pytest.mark.parametrize("template", ["{% if %}", "{{", "{% endfor %}", "{{ " + "(" * 5000])
def test_a_template_that_does_not_parse_is_found(tmp_path: Path, template: str) -> None:
    path = tiny_model(tmp_path / "a.gguf", kind="Q8_0", template=template)
    with pytest.raises(ModelCorrupt, match=r"tokenizer\.chat_template: .*; use amalia run --raw, or"):
        verify_file(path).raise_faults()


def test_a_template_is_not_run(tmp_path: Path) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    assert outcomes(tiny_model(tmp_path / "a.gguf", kind="Q8_0", template=endless))["template"] == "passed"


def test_a_file_as_its_receipt_says_passes(copy: Path) -> None:
    assert outcomes(copy)["SHA-256"] == "passed"


def test_a_receipt_of_another_file_is_named(copy: Path) -> None:
    receipt(copy, sha256="11" * 32, output="other.gguf")
    with pytest.raises(
        ModelCorrupt, match=r"SHA-256 is [0-9a-f]{64}, and its receipt says 1{64}; it speaks of other\.gguf"
    ):
        verify_file(copy).raise_faults()


def test_a_file_renamed_with_its_receipt_is_still_that_file(copy: Path) -> None:
    receipt(copy, output="other.gguf")
    assert outcomes(copy)["SHA-256"] == "passed"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}'])
def test_an_unreadable_receipt_is_named(copy: Path, text: str) -> None:
    receipt_path(copy).write_text(text, "utf-8")
    with pytest.raises(ModelCorrupt, match=r"copy\.gguf\.receipt\.json: is not a receipt"):
        verify_file(copy).raise_faults()


def test_a_newer_receipt_is_refused_by_its_format(copy: Path) -> None:
    receipt(copy, format=FORMAT + 1)
    with pytest.raises(ModelUnsupported, match=f"format {FORMAT + 1}"):
        verify_file(copy).raise_faults()


@pytest.mark.parametrize(("make", "kind"), [
    (lambda path: None, ModelNotFound), (lambda path: path.mkdir(), ModelNotFound),
    (lambda path: path.write_bytes(b"MZ" + bytes(100)), ModelCorrupt), (lambda path: path.touch(), ModelCorrupt),
], ids=["missing", "a folder", "no GGUF", "empty"])  # fmt: skip
def test_what_is_no_gguf_is_refused(tmp_path: Path, make: Callable[[Path], object], kind: type[AmaliaError]) -> None:
    make(tmp_path / "a.gguf")
    with pytest.raises(kind):
        verify_file(tmp_path / "a.gguf")


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_a_changed_header_makes_nothing_but_our_errors(tmp_path: Path, model: str) -> None:
    path, dice = vocabulary_file(tmp_path / "a.gguf", {"chat_template": "x"}, model), random.Random(3)
    whole, size, survivors = path.read_bytes(), read_header(path, model=False).data_offset, 0
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            content[dice.randrange(size)] = dice.choice((0, 1, 9, 127, 255, dice.randrange(256)))
        path.write_bytes(content)
        try:
            json.dumps([*verify_file(path).lines()])
            survivors += 1
        except AmaliaError:
            continue
    assert survivors > 20  # the changes reach what is behind the header's own checks


def test_all_faults_are_told_and_the_first_is_raised_with_their_count(copy: Path) -> None:
    with copy.open("ab") as file:
        file.write(b"x" * 64)
    done: Verification = verify_file(copy)
    assert [check.name for check in done.checks if check.faults] == ["size", "SHA-256"]
    with pytest.raises(ModelCorrupt, match=r"64 bytes after the last tensor \(and 1 more\)"):
        done.raise_faults()
    assert sum("✗" in line for line in done.lines()) == 2


def test_the_command_lists_what_was_checked(copy: Path) -> None:
    done = CliRunner().invoke(verify, [str(copy)])
    assert (done.exit_code, done.stdout.count("✓"), done.stdout.count("\n")) == (0, 6, 6)


def test_the_command_prints_faults_before_it_fails(copy: Path) -> None:
    receipt(copy, sha256="0")
    done = CliRunner().invoke(verify, [str(copy)])
    assert isinstance(done.exception, ModelCorrupt) and done.stdout.count("✗") == 1


def test_json_is_one_object_with_every_check(copy: Path) -> None:
    told = json.loads(CliRunner().invoke(verify, [str(copy), "--json"]).stdout)["result"]
    assert (told["file"], told["sha256"]) == (str(copy), verify_file(copy).sha256)
    assert [check["outcome"] for check in told["checks"]] == ["passed"] * 6


def test_json_of_a_faulty_file_names_every_fault(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with copy.open("ab") as file:
        file.write(b"x" * 64)
    assert run_door(["verify", str(copy), "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert "64 bytes after the last tensor; copy.gguf: SHA-256 is" in error["found"]
    assert set(error) == {"code", "where", "found", "advice"}


def test_a_failed_check_does_not_say_that_all_is_well(copy: Path) -> None:
    with copy.open("ab") as file:
        file.write(b"x" * 64)
    size = verify_file(copy).as_dict()["checks"][1]
    assert size["outcome"] == "failed" and "none too many" not in size["found"] and "64 bytes after" in size["found"]
