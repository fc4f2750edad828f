"""A source is what a person typed: a folder, a file, or fadinho; the Hub's are in test_hub_source.py."""

from pathlib import Path

import pytest

import amalia_convert.source as source_module
from amalia_convert.conversion import ConvertConfig, convert
from amalia_convert.source import Source, find_source, store_embedded
from amalia_edge.errors import ModelNotFound, UsageError
from amalia_edge.store import models_folder


def test_files_are_named_after_the_folder_and_the_level(checkpoint: Path) -> None:
    assert find_source(str(checkpoint)).file_name("Q4_K_M") == "Azulejo-1M-Q4_K_M.gguf"


@pytest.mark.parametrize(("name", "plain"), [("AMÁLIA 9B", "AM-LIA-9B"), ("..", "model"), ("a/../b", "a-..-b")])
def test_file_names_are_plain_ascii(name: str, plain: str) -> None:
    assert Source(name, Path()).file_name("F16") == f"{plain}-F16.gguf"


def test_a_folder_in_the_hub_s_cache_is_called_by_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "models--amalia-llm--AMALIA-9B-0626-DPO" / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    source = find_source(str(folder))
    assert (source.name, source.repository) == ("AMALIA-9B-0626-DPO", "amalia-llm/AMALIA-9B-0626-DPO")
    assert source.commit == "0" * 40


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        find_source(str(tmp_path / "nowhere"))


def test_a_file_is_no_source(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="is a file"):
        find_source(str(checkpoint / "tokenizer.model"))


def test_a_configuration_alone_is_a_source_to_plan_from(checkpoint: Path) -> None:
    source = find_source(str(checkpoint / "config.json"))
    assert (source.kind, source.name) == ("config", "Azulejo-1M")
    with pytest.raises(UsageError, match="--dry-run plans from it"):
        convert(ConvertConfig(str(source.path)))


def test_streaming_is_for_the_hub(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="is not on the Hub"):
        convert(ConvertConfig(str(checkpoint), stream=True))


@pytest.fixture
def embedded(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny checkpoint in fadinho's place, and an empty models folder."""
    monkeypatch.setattr(source_module, "embedded_folder", lambda: checkpoint)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return checkpoint


def test_the_embedded_checkpoint_is_converted_once(embedded: Path) -> None:
    path = store_embedded("q8_0")
    assert path == models_folder() / "fadinho-Q8_0.gguf"
    before = path.stat().st_mtime_ns
    assert store_embedded("Q8_0") == path and path.stat().st_mtime_ns == before


def test_the_embedded_checkpoint_is_converted_again_when_it_changed(embedded: Path) -> None:
    before = store_embedded("Q8_0").stat().st_ino
    with (embedded / "chat_template.jinja").open("a") as file:
        file.write("{# changed #}")
    assert store_embedded("Q8_0").stat().st_ino != before
    assert b"{# changed #}" in store_embedded("Q8_0").read_bytes()


def test_a_stored_file_without_its_receipt_is_made_again(embedded: Path) -> None:
    path = store_embedded("Q8_0")
    path.with_name(path.name + ".receipt.json").unlink()
    path.write_bytes(b"cut")
    assert store_embedded("Q8_0").read_bytes()[:4] == b"GGUF"
