"""`amalia convert` builds a config, calls one function and prints."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from amalia_convert.cli import convert
from amalia_edge.errors import UsageError


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
