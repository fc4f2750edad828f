"""A name becomes a file, or an error that says what there is."""

from pathlib import Path

import pytest

from amalia_edge.errors import ModelNotFound, UsageError
from amalia_edge.store import find, models_folder


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    models_folder().mkdir(parents=True)
    for name in ("AMALIA-9B-0626-DPO-Q4_K_M", "AMALIA-9B-0626-DPO-Q8_0", "Minerva-7B-Q8_0"):
        (models_folder() / f"{name}.gguf").touch()
    return models_folder()


def test_a_path_is_itself(tmp_path: Path) -> None:
    assert find(str(tmp_path / "x.gguf")) == tmp_path / "x.gguf"


@pytest.mark.parametrize(("name", "stem"), [
    ("AMALIA-9B-0626-DPO:Q8_0", "AMALIA-9B-0626-DPO-Q8_0"), ("amalia-9b-0626-dpo:q8_0", "AMALIA-9B-0626-DPO-Q8_0"),
    ("AMALIA-9B-0626-DPO", "AMALIA-9B-0626-DPO-Q4_K_M"), ("minerva", "Minerva-7B-Q8_0"),
])  # fmt: skip
def test_a_stored_name_or_a_unique_beginning_is_found(stored: Path, name: str, stem: str) -> None:
    assert find(name) == stored / f"{stem}.gguf"


def test_a_checkpoint_folder_of_the_same_name_does_not_hide_the_model_made_of_it(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Minerva-7B").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("Minerva-7B") == stored / "Minerva-7B-Q8_0.gguf"


def test_an_ambiguous_name_lists_the_candidates(stored: Path) -> None:
    with pytest.raises(UsageError, match="AMALIA-9B-0626-DPO-Q4_K_M, AMALIA-9B-0626-DPO-Q8_0"):
        find("amalia")


def test_an_unknown_name_is_not_found(stored: Path) -> None:
    with pytest.raises(ModelNotFound, match="gervasio"):
        find("gervasio")
