"""What lies in the Hub's cache is listed as it may be named, and removed without taking what others need."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from amalia_edge.errors import HubError
from amalia_edge.hub_cache import cached_models, remove_cached
from amalia_edge.stored_model import StoredModel

OLD, NEW = "a" * 40, "b" * 40
Put = Callable[[str, str, str], Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def put(cache: Path) -> Put:
    """Lay a file into the cache as the Hub's client does: a commit's link to its content."""

    def put(commit: str, name: str, content: str, repository: str = "org--azulejo-GGUF") -> Path:
        storage = cache / f"models--{repository}"
        pointer, blob = storage / "snapshots" / commit / name, storage / "blobs" / f"sha-of-{content}"
        for folder in (pointer.parent, blob.parent, storage / "refs"):
            folder.mkdir(parents=True, exist_ok=True)
        blob.write_text(content)
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
        (storage / "refs" / "main").write_text(commit)
        return pointer

    return put


def names() -> list[str]:
    return [model.name for model in cached_models()]


def named(name: str) -> StoredModel:
    return next(model for model in cached_models() if model.name == name)


def test_no_cache_holds_nothing(cache: Path) -> None:
    assert cached_models() == []


def test_a_level_is_part_of_the_name(put: Put) -> None:
    path = put(NEW, "Azulejo-9B-Q4_K_M.gguf", "weights")
    (model,) = cached_models()
    assert (model.name, model.level, model.nbytes) == ("org/azulejo-GGUF:Q4_K_M", "Q4_K_M", 7)
    assert model.files == (path,)
    assert {"azulejo-GGUF", "Azulejo-9B", "org/azulejo-GGUF@main"} <= set(model.keys)


def test_two_files_of_one_level_are_named_by_file(put: Put) -> None:
    put(NEW, "a-Q4_K_M.gguf", "a")
    put(NEW, "b-Q4_K_M.gguf", "b")
    assert names() == ["org/azulejo-GGUF:a-Q4_K_M.gguf", "org/azulejo-GGUF:b-Q4_K_M.gguf"]


def test_the_main_branch_has_the_plain_name_and_an_older_commit_its_own(put: Put) -> None:
    put(OLD, "m-Q4_K_M.gguf", "old")
    put(NEW, "m-Q4_K_M.gguf", "new")
    assert names() == ["org/azulejo-GGUF:Q4_K_M", "org/azulejo-GGUF@aaaaaaaa:Q4_K_M"]
    assert named("org/azulejo-GGUF:Q4_K_M").files[0].parent.name == NEW


def test_what_only_an_older_commit_has_keeps_the_plain_name(put: Put) -> None:
    put(OLD, "m-Q4_K_M.gguf", "old")
    put(NEW, "m-Q8_0.gguf", "new")
    assert names() == ["org/azulejo-GGUF:Q8_0", "org/azulejo-GGUF:Q4_K_M"]


def test_a_link_whose_content_is_gone_is_a_line_with_its_reason(put: Put) -> None:
    put(NEW, "m-Q4_K_M.gguf", "weights").resolve().unlink()
    assert [model.fault for model in cached_models()] == ["its content is gone from the Hub's cache"]


def test_missing_parts_are_counted(put: Put) -> None:
    put(NEW, "m-Q4_K_M-00002-of-00003.gguf", "weights")
    assert "1 of 3 parts are here" in named("org/azulejo-GGUF:Q4_K_M").fault


def test_a_stopped_download_is_listed_and_can_be_removed(put: Put) -> None:
    blob = put(NEW, "m-Q8_0.gguf", "weights").resolve()
    blob.with_name("0123456789.amalia.incomplete").write_bytes(bytes(1000))
    model = named("org/azulejo-GGUF:01234567.incomplete")
    assert "stopped" in model.fault
    assert remove_cached(model) == 1000
    assert names() == ["org/azulejo-GGUF:Q8_0"]


def test_a_download_that_goes_on_now_is_not_removed(put: Put) -> None:
    blob = put(NEW, "m-Q8_0.gguf", "weights").resolve()
    partial = blob.with_name("0123456789.amalia.incomplete")
    with partial.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(HubError, match="is being fetched now"):
            remove_cached(named("org/azulejo-GGUF:01234567.incomplete"))
    assert partial.exists()


def test_checkpoints_and_other_folders_are_no_ggufs(put: Put, cache: Path) -> None:
    put(NEW, "model.safetensors", "weights")
    (cache / "datasets--org--x").mkdir()
    (cache / "version.txt").write_text("1")
    assert cached_models() == []


def test_removing_frees_the_content_and_the_empty_folders(put: Put, cache: Path) -> None:
    path = put(NEW, "Q4_K_M/m-Q4_K_M.gguf", "weights")
    assert remove_cached(named("org/azulejo-GGUF:Q4_K_M")) == 7
    assert not [path for path in cache.rglob("*") if path.is_file() and path.name != "main"]
    assert not path.parent.parent.exists()


def test_other_levels_stay(put: Put) -> None:
    put(NEW, "m-Q4_K_M.gguf", "four")
    other = put(NEW, "m-Q8_0.gguf", "eight")
    remove_cached(named("org/azulejo-GGUF:Q4_K_M"))
    assert other.read_text() == "eight"


def test_content_that_another_commit_needs_stays(put: Put) -> None:
    old = put(OLD, "m-Q4_K_M.gguf", "same")
    put(NEW, "m-Q4_K_M.gguf", "same")
    assert remove_cached(named("org/azulejo-GGUF:Q4_K_M")) == 0
    assert old.read_text() == "same"
    assert remove_cached(named("org/azulejo-GGUF:Q4_K_M")) == 4


def test_content_that_repositories_share_goes_with_the_last(put: Put, cache: Path) -> None:
    shared = cache / "blobs/ab/shared"
    shared.parent.mkdir(parents=True)
    shared.write_text("weights")
    for repository in ("org--one", "org--two"):
        blob = put(NEW, "m-Q4_K_M.gguf", "weights", repository).resolve()
        blob.unlink()
        blob.symlink_to(os.path.relpath(shared, blob.parent))
    assert remove_cached(named("org/one:Q4_K_M")) == 0
    assert shared.exists()
    assert remove_cached(named("org/two:Q4_K_M")) == 7
    assert not shared.exists()


def test_what_a_person_linked_into_the_cache_stays_theirs(put: Put, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_text("mine")
    pointer = put(NEW, "m-Q4_K_M.gguf", "weights")
    pointer.unlink()
    pointer.symlink_to(mine)
    assert remove_cached(named("org/azulejo-GGUF:Q4_K_M")) == 0
    assert mine.exists() and not pointer.is_symlink()
