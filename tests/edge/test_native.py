"""The gate loads the library we know, and says what to do about any other."""

import importlib.metadata
import logging

import numpy as np
import pytest

from amalia_edge import native
from amalia_edge.errors import LibraryMissing
from amalia_edge.quantizer import quantize_rows


@pytest.fixture
def fresh() -> None:
    native.library.cache_clear()


def test_without_the_library_every_call_says_amalia_setup(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> str:
        raise importlib.metadata.PackageNotFoundError

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(LibraryMissing, match="run: amalia setup"):
        native.library()


def test_another_version_is_refused_by_name(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "0.2.99")
    with pytest.raises(LibraryMissing, match=r"version 0.2.99, wanted 0.3.36"):
        native.library()


def test_a_drifted_layout_is_refused(fresh: None) -> None:
    class Drifted:
        def __getattr__(self, _name: str) -> object:
            return lambda: type("Struct", (), {"__getattr__": lambda _self, _field: 7})()

    with pytest.raises(LibraryMissing, match="layout differs"):
        native._check_layouts(Drifted())


def test_there_is_a_cpu_among_the_devices() -> None:
    assert "cpu" in {device.kind for device in native.devices()}


def test_rows_become_blocks_of_the_right_size_and_value() -> None:
    rows = np.linspace(-1, 1, 64, dtype=np.float32).reshape(2, 32)
    blocks = quantize_rows(8, rows)  # Q8_0
    assert blocks.shape == (2, 34)
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    codes = blocks[:, 2:].copy().view(np.int8).astype(np.float32)
    assert np.abs(scales * codes - rows).max() < np.abs(rows).max() / 127


def test_the_librarys_complaints_go_to_logging(caplog: pytest.LogCaptureFixture) -> None:
    native.library()
    with caplog.at_level(logging.ERROR, "amalia.native"), native.reasons() as why:
        native._on_message(4, b"llama_model_load: error\n", None)
    assert caplog.messages == ["llama_model_load: error"]
    assert why() == "llama_model_load: error"
