"""libllama is asked in a child, and however that ends, we go on."""

from pathlib import Path

import pytest

from amalia_edge.errors import ModelUnsupported
from amalia_edge.load_config import LoadConfig
from amalia_edge.simulate import simulate

from .sparse import sparse_model

CONFIG = LoadConfig(context=512, gpu_layers=0)


def test_a_file_without_weights_is_simulated(tmp_path: Path) -> None:
    told = simulate(sparse_model(tmp_path, "tiny"), CONFIG)
    assert told.cache == 3 * 512 * (128 + 128) * 2
    assert told.total == told.weights + told.cache + told.output + told.compute["CPU"]


def test_a_file_that_libllama_refuses_is_an_error_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "no.gguf"
    path.write_bytes(b"GGUF nonsense")
    with pytest.raises(ModelUnsupported, match="cannot simulate"):
        simulate(path, CONFIG)


def test_a_folder_s_own_modules_do_not_hide_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sparse_model(tmp_path, "tiny")
    (tmp_path / "amalia_edge.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert simulate(path, CONFIG).weights
