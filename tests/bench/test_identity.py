"""Which file was measured."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.errors import LiveError

from amalia_bench import identity
from amalia_bench.identity import identify
from amalia_edge.console import Bar
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


class Seen(Bar):
    """A bar that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__(None)
        self.bars: list[tuple[str, float]] = []
        self.amount = 0.0

    @contextlib.contextmanager
    def show(self, description: str, total: float) -> Iterator[Bar]:
        self.bars.append((description, total))
        yield self

    def advance(self, amount: float) -> None:
        self.amount += amount


def test_it_is_shown_how_far_a_large_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny_model(tmp_path / "tiny.gguf"), Seen()
    size = model.stat().st_size
    monkeypatch.setattr(identity, "progress", seen.show)
    monkeypatch.setattr(identity, "LARGE", size)
    identify(model)
    assert (seen.bars, seen.amount) == ([("hashing", size)], size)


def test_no_bar_flickers_for_a_small_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen()
    monkeypatch.setattr(identity, "progress", seen.show)
    identify(tiny_model(tmp_path / "tiny.gguf"))
    assert seen.bars == []


def test_below_another_bar_it_is_hashed_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crowded(_description: str, _total: float) -> contextlib.AbstractContextManager[Bar]:
        raise LiveError("Only one live display may be active at once")

    model = tiny_model(tmp_path / "tiny.gguf")
    monkeypatch.setattr(identity, "progress", crowded)
    monkeypatch.setattr(identity, "LARGE", 0)
    assert identify(model).sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
