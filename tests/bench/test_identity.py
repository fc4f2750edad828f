"""Which file was measured."""

import hashlib
import json
from pathlib import Path

import pytest

from amalia_bench.identity import identify
from models import tiny_model


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "amalia" / "hashes.json"


def test_the_hash_is_that_of_the_whole_file(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.gguf")
    assert identify(model).sha256 == hashlib.sha256(model.read_bytes()).hexdigest()


def test_a_file_that_changed_is_hashed_again(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.gguf")
    before = identify(model)
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    after = identify(model)
    assert before.sha256 != after.sha256
    assert before.vocabulary_sha256 == after.vocabulary_sha256


def test_a_known_hash_is_not_taken_again(tmp_path: Path, own_cache: Path) -> None:
    model = tiny_model(tmp_path / "tiny.gguf")
    identify(model)
    own_cache.write_text(json.dumps(dict.fromkeys(json.loads(own_cache.read_text()), "known")))
    assert identify(model).sha256 == "known"


@pytest.mark.parametrize("garbage", ["", "[1]", "{", '{"a": 1}', "null"])
def test_a_spoilt_memory_of_hashes_is_written_anew(tmp_path: Path, own_cache: Path, garbage: str) -> None:
    model = tiny_model(tmp_path / "tiny.gguf")
    own_cache.parent.mkdir(parents=True)
    own_cache.write_text(garbage)
    assert identify(model).sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert "known" not in own_cache.read_text()
