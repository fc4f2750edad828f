"""What `amalia inspect` tells is what the header says, and nothing in a header steers a terminal."""

import contextlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from click.testing import CliRunner, Result

from amalia_edge.cli.about import inspect
from amalia_edge.errors import AmaliaError, ModelError
from amalia_edge.gguf import KINDS, Header, examine_header, read_header
from amalia_edge.summary import cache_cost, facts, heads_kv, other_facts, special_tokens, summarise, type_table, types

from .architectures import write_architecture, write_metadata
from .header_mutants import mutant, take_apart
from .test_gguf import split

AMALIA = {"block_count": 42, "embedding_length": 4096, "attention.head_count": 32, "attention.head_count_kv": 8}


def described(path: Path, numbers: dict[str, Any], texts: dict[str, str] | None = None) -> Header:
    """Write and read a header with these keys, and one small tensor."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in numbers.items():
        if isinstance(value, list):
            writer.add_array(f"llama.{key}", value)
        else:
            writer.add_uint32(f"llama.{key}", value)
    for key, text in (texts or {}).items():
        writer.add_string(key, text)
    writer.add_tensor("t", np.zeros(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read_header(path, model=False)


def command(*words: str) -> Result:
    return CliRunner().invoke(inspect, words)


def test_amalia_s_cache_costs_what_is_known_of_it(tmp_path: Path) -> None:
    header = described(tmp_path / "a.gguf", AMALIA)
    assert (cache_cost(header, "f16"), cache_cost(header, "q8_0")) == (172_032, 172_032 * 17 // 32)


def test_keys_and_values_may_be_of_different_lengths(tmp_path: Path) -> None:
    header = described(tmp_path / "a.gguf", AMALIA | {"attention.key_length": 192, "attention.value_length": 64})
    assert cache_cost(header, "f16") == 42 * 8 * (192 + 64) * 2


def test_heads_may_be_counted_layer_by_layer(tmp_path: Path) -> None:
    counts = {"block_count": 3, "attention.head_count": [32, 32, 0], "attention.head_count_kv": [8, 4, 0]}
    header = described(tmp_path / "a.gguf", AMALIA | counts)
    assert (heads_kv(header), cache_cost(header, "f16")) == ([8, 4, 0], (8 + 4) * 2 * 128 * 2)
    assert facts(header)["heads"] == "0 to 32, 0 to 8 for keys and values, of 128"


def test_without_a_count_for_keys_there_are_as_many_as_heads(tmp_path: Path) -> None:
    header = described(tmp_path / "a.gguf", {key: value for key, value in AMALIA.items() if not key.endswith("kv")})
    assert cache_cost(header, "f16") == 4 * 172_032


def test_a_head_that_is_no_whole_blocks_has_no_quantized_cache(tmp_path: Path) -> None:
    header = described(tmp_path / "a.gguf", AMALIA | {"attention.key_length": 80})
    assert (cache_cost(header, "q8_0"), cache_cost(header, "f16")) == (None, 42 * 8 * (80 + 128) * 2)


def test_a_model_in_parts_says_so(tiny: Path, tmp_path: Path) -> None:
    header = read_header(split(tmp_path / "m.gguf", tiny)[1])
    assert (summarise(header)["parts"], summarise(header)["tensors"][-1]["part"]) == (3, 2)
    assert facts(header)["size"].endswith(" in 3 parts")


def test_special_tokens_have_their_texts(tiny: Path) -> None:
    assert special_tokens(read_header(tiny)) == {
        "unknown": {"id": 0, "text": "<unk>"}, "bos": {"id": 1, "text": "<s>"},
        "padding": {"id": 2, "text": "</s>"}, "eos": {"id": 4, "text": "<|im_end|>"},
    }  # fmt: skip


def test_types_add_up_to_the_whole_model(tiny: Path) -> None:
    header = read_header(tiny)
    rows = types(header)
    assert [row["type"] for row in rows] == ["Q8_0", "F32"]
    assert sum(row["nbytes"] for row in rows) == header.weight_bytes
    assert sum(row["weights"] for row in rows) == header.parameters
    assert sum(row["tensors"] for row in rows) == len(header.tensors)


def test_arrays_are_told_by_kind_and_length(tiny: Path) -> None:
    told, size = summarise(read_header(tiny)), len(gguf.GGUFReader(tiny).fields["tokenizer.ggml.tokens"].data)
    assert told["metadata"]["tokenizer.ggml.tokens"] == f"string[{size}]"
    assert told["metadata"]["tokenizer.ggml.scores"] == f"float32[{size}]"
    assert told["vocabulary"]["size"] == size


def test_provenance_stands_among_the_first_facts_and_every_other_key_below(tmp_path: Path) -> None:
    texts = {
        "general.source.url": "u",
        "general.base_model.0.name": "b",
        "quantize.imatrix.file": "i",
        "general.license": "l",
    }
    header = described(tmp_path / "a.gguf", AMALIA, texts)
    assert {"general.source.url", "general.base_model.0.name", "quantize.imatrix.file"} <= set(facts(header))
    assert "general.license" in other_facts(header) and "llama.block_count" in other_facts(header)


def test_no_text_of_a_file_steers_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07 \x9b31m [bold red] \u202e \r\n"
    texts = {"general.name": evil, "tokenizer.chat_template": evil, f"x{evil}": evil, "general.source.url": evil}
    described(tmp_path / "a.gguf", AMALIA, texts)
    for words in ((), ("--tensors",), ("--template",)):
        shown = command(str(tmp_path / "a.gguf"), *words).stdout
        assert not [letter for letter in shown if not (letter.isprintable() or letter == "\n")]
        assert "[bold red]" in shown


def test_a_tensor_s_name_is_shown_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    described(path, AMALIA)
    path.write_bytes(path.read_bytes().replace(b"\1\0\0\0\0\0\0\0t", b"\1\0\0\0\0\0\0\0\x1b"))
    shown = command(str(path), "--tensors").stdout
    assert "\x1b" not in shown and "\ufffd" in shown


@pytest.mark.parametrize("changes", [
    {"attention.head_count": 0}, {"attention.head_count": []}, {"attention.head_count": [0.5]}, {"embedding_length": 0},
    {"attention.head_count_kv": [1, 2]}, {"attention.key_length": [1]},
])  # fmt: skip
def test_a_header_without_sense_is_told_without_failing(tmp_path: Path, changes: dict[str, Any]) -> None:
    header = described(tmp_path / "a.gguf", AMALIA | changes)
    assert json.dumps(summarise(header), allow_nan=False) and facts(header)


def test_heads_that_are_no_whole_numbers_are_none(tmp_path: Path) -> None:
    header = described(tmp_path / "a.gguf", AMALIA | {"attention.head_count_kv": [float("nan"), 1.5]})
    assert heads_kv(header) == [32] * 42


def test_the_kinds_of_arrays_have_gguf_s_names() -> None:
    assert list(KINDS) == [kind.name.lower() for kind in gguf.GGUFValueType]


def test_a_changed_header_is_told_or_refused(tiny: Path, tmp_path: Path) -> None:
    whole, dice, path, survivors = tiny.read_bytes(), random.Random(7), tmp_path / "a.gguf", 0
    size = read_header(tiny).data_offset
    for _ in range(300):
        content = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            content[dice.randrange(size)] = dice.choice((0, 1, 9, 127, 255, dice.randrange(256)))
        path.write_bytes(content)
        try:
            header = read_header(path)
            json.dumps(summarise(header), allow_nan=False)
            assert all(line.isprintable() for line in (facts(header) | other_facts(header)).values())
            survivors += 1
        except AmaliaError:
            continue
    assert survivors > 20


def test_a_key_of_another_kind_is_still_json(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for key in ("tokenizer.ggml.model", "tokenizer.chat_template", "general.name", "tokenizer.ggml.tokens"):
        writer.add_array(key, [1, 2])
    writer.add_float32("x", float("nan"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    told = json.loads(json.dumps(summarise(read_header(path, model=False)), allow_nan=False))
    assert (told["vocabulary"]["model"], told["metadata"]["x"]) == ("int32[2]", "nan")


def test_json_tells_everything_the_header_says(tiny: Path) -> None:
    told = json.loads(command(str(tiny), "--json").stdout)
    header, result = read_header(tiny), told["result"]
    assert told["command"] == "inspect"
    assert (result["parameters"], result["level"], result["alignment"]) == (header.parameters, "Q8_0", 32)
    assert len(result["tensors"]) == len(header.tensors) and set(result["metadata"]) == set(header.metadata)
    assert result["chat_template"] == header.metadata["tokenizer.chat_template"]


def test_the_template_is_printed_whole_on_request(tiny: Path) -> None:
    assert command(str(tiny), "--template").stdout == read_header(tiny).metadata["tokenizer.chat_template"] + "\n"


def test_every_tensor_is_listed_on_request(tiny: Path) -> None:
    assert "blk.1.ffn_down.weight" in command(str(tiny), "--tensors").stdout
    assert "blk.1.ffn_down.weight" not in command(str(tiny)).stdout


def test_inspecting_loads_no_library(tiny: Path) -> None:
    code = (
        "import sys\nfrom amalia_edge.cli.door import run_door\n"
        "assert run_door(['inspect', sys.argv[1]]) == 0\n"
        "assert not {'llama_cpp', 'gguf', 'jinja2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny)], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_file_that_breaks_a_rule_is_told_of_with_the_rule(words: list[str], tmp_path: Path) -> None:
    path = write_metadata(tmp_path / "a.gguf", "llama", {"block_count": 600})
    done = command(str(path), *words)
    assert done.exit_code == 0 and "block_count: 600, wanted 1 to 512" in " ".join(done.output.split())
    assert "llama.context_length" in done.output


def test_a_file_s_layers_are_not_believed_before_they_are_checked(tmp_path: Path) -> None:
    done = command(str(write_metadata(tmp_path / "a.gguf", "llama", {"block_count": (1 << 32) - 1})))
    assert done.exit_code == 0


def test_whatever_breaks_a_rule_can_be_told_of(tmp_path: Path) -> None:
    base, dice = take_apart(write_architecture(tmp_path / "a.gguf", "llama").read_bytes()), random.Random(7)
    for _ in range(300):
        (tmp_path / "b.gguf").write_bytes(mutant(base, dice))
        with contextlib.suppress(ModelError):
            header, _fault = examine_header(tmp_path / "b.gguf")
            json.dumps(summarise(header))
            assert facts(header) and type_table(header)
            other_facts(header)
