"""`amalia convert` builds a config, calls one function and prints."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from amalia_convert.cli import convert
from amalia_convert.levels import LEVELS
from amalia_edge.errors import UsageError
from amalia_edge.gguf import read_header
from amalia_edge.store import find


def test_the_table_names_the_file_and_what_to_type_next(checkpoint: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(convert, [str(checkpoint), "--to", "q8_0", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.exception
    assert (tmp_path / "Azulejo-1M-Q8_0.gguf").is_file()


def test_json_is_one_object_with_a_receipt_for_each_output(checkpoint: Path, tmp_path: Path) -> None:
    words = [str(checkpoint), "--to", "Q8_0, F16", "--out", str(tmp_path), "--json"]
    result = CliRunner().invoke(convert, words)
    printed = json.loads(result.stdout)
    assert (printed["schema"], printed["command"]) == (1, "convert")
    outputs = printed["result"]["outputs"]
    assert [output["level"] for output in outputs] == ["Q8_0", "F16"]
    assert all(Path(output["path"]).stat().st_size == output["nbytes"] for output in outputs)


def test_the_default_level_goes_to_the_models_folder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    CliRunner().invoke(convert, [str(checkpoint)])
    assert (tmp_path / "amalia" / "models" / "Azulejo-1M-Q4_K_M.gguf").is_file()


def test_an_unknown_level_is_our_error(checkpoint: Path) -> None:
    result = CliRunner().invoke(convert, [str(checkpoint), "--to", "Q9"])
    assert isinstance(result.exception, UsageError) and "Q4_K_M" in result.exception.advice
    misspelt = CliRunner().invoke(convert, [str(checkpoint), "--to", "Q4_KM"]).exception
    assert isinstance(misspelt, UsageError) and misspelt.advice.startswith("did you mean Q4_K_M?")


def test_levels_are_listed_with_their_bits_and_when_to_choose_them() -> None:
    printed = CliRunner().invoke(convert, ["--levels"]).stdout
    assert "the default" in printed and "--imatrix" in printed and all(level in printed for level in LEVELS)
    rows = json.loads(CliRunner().invoke(convert, ["--levels", "--json"]).stdout)["result"]["levels"]
    (default,) = [row for row in rows if row["name"] == "Q4_K_M"]
    assert 4.8 < default["bits_per_weight"] < 4.95 and not default["needs_importance"]


def test_a_dry_run_lists_every_tensor_and_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    words = [str(checkpoint), "--to", "Q8_0,F16", "--dry-run", "--out", str(tmp_path / "out")]
    printed = CliRunner().invoke(convert, words).stdout
    assert "blk.1.ffn_down.weight" in printed and "Azulejo-1M-F16.gguf" in printed and "memory" in printed
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_a_configuration_gives_nbytes_for_each_output(checkpoint: Path) -> None:
    words = [str(checkpoint / "config.json"), "--to", "Q4_K_M", "--dry-run", "--json"]
    (output,) = json.loads(CliRunner().invoke(convert, words).stdout)["result"]["outputs"]
    assert output["nbytes"] > 0 and {tensor["type"] for tensor in output["tensors"]} >= {"F32"}
    assert max(tensor["offset"] + tensor["nbytes"] for tensor in output["tensors"]) <= output["nbytes"]


def test_no_source_says_what_to_type() -> None:
    assert "amalia convert fadinho" in str(CliRunner().invoke(convert, []).exception)


def test_types_of_single_tensors_can_be_chosen(checkpoint: Path, tmp_path: Path) -> None:
    words = [str(checkpoint), "--to", "Q8_0", "--tensor-type", "ffn_up=q4_0", "--output-type", "f16", "--embedding-type",
             "q5_0", "--out", str(tmp_path)]  # fmt: skip
    assert CliRunner().invoke(convert, words).exit_code == 0
    kinds = {tensor.name: tensor.kind for tensor in read_header(tmp_path / "Azulejo-1M-Q8_0.gguf").tensors}
    assert kinds["blk.0.ffn_up.weight"] == "Q4_0" and kinds["blk.0.ffn_gate.weight"] == "Q8_0"
    assert kinds["output.weight"] == "F16" and kinds["token_embd.weight"] == "Q5_0"
    options = json.loads((tmp_path / "Azulejo-1M-Q8_0.gguf.receipt.json").read_text("utf-8"))["options"]
    assert options == {"tensor_types": ["ffn_up=q4_0"], "output_type": "f16", "embedding_type": "q5_0"}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--tensor-type", "atn_v=q6_k"], "--tensor-type atn_v=Q6_K: is found in no tensor's name"),
        (["--tensor-type", "attn_v=q6_k", "--to", "F16,BF16"], "--tensor-type: has no effect on F16, BF16"),
        (["--output-type", ""], "block type '': there is no such type"),
        (["--embedding-type", ""], "block type '': there is no such type"),
    ],
)
def test_an_option_without_effect_is_refused(checkpoint: Path, words: list[str], found: str) -> None:
    refusal = CliRunner().invoke(convert, [str(checkpoint), "--dry-run", *words]).exception
    assert isinstance(refusal, UsageError) and str(refusal).startswith(found)


def test_a_stored_model_is_called_by_name_in_what_to_type_next(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    printed = CliRunner().invoke(convert, [str(checkpoint), "--to", "Q8_0"]).stdout
    assert "amalia run Azulejo-1M:Q8_0" in printed and find("Azulejo-1M:Q8_0").is_file()
