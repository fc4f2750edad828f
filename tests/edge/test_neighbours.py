"""What Ollama and LM Studio hold is found, read only there, and what is wrong with it is said."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from amalia_edge.neighbours import LARGEST_MANIFEST, neighbours
from amalia_edge.stored_model import StoredModel

WEIGHTS, CONFIG, ADAPTER = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def ollama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "ollama"
    monkeypatch.setenv("OLLAMA_MODELS", str(root))
    monkeypatch.setenv("HOME", str(tmp_path))
    (root / "blobs").mkdir(parents=True)
    (root / "blobs" / f"sha256-{WEIGHTS}").write_bytes(b"GGUF" + bytes(96))
    (root / "blobs" / f"sha256-{CONFIG}").write_text(json.dumps({"model_format": "gguf", "file_type": "Q4_K_M"}))
    return root


def layer(kind: str, digest: str) -> dict[str, Any]:
    return {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": 100}


def manifest(*layers: dict[str, Any], config: str = f"sha256:{CONFIG}") -> str:
    head = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": config, "size": 40}
    return json.dumps({"schemaVersion": 2, "config": head, "layers": list(layers)})


def write(root: Path, content: str, name: str = "registry.ollama.ai/library/llama3.2/1b") -> Path:
    path = root / "manifests" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def only() -> StoredModel:
    (model,) = neighbours()
    return model


def test_a_machine_without_them_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "none"))
    assert neighbours() == []


def test_without_a_home_only_what_is_told_of_is_found(ollama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(ollama, manifest(layer("model", f"sha256:{WEIGHTS}")))
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a container run as a number
    assert only().fault == ""
    monkeypatch.setenv("OLLAMA_MODELS", "~/x")
    assert neighbours() == []


def test_ollamas_model_is_its_blob(ollama: Path) -> None:
    write(ollama, manifest(layer("template", f"sha256:{CONFIG}"), layer("model", f"sha256:{WEIGHTS}")))
    model = only()
    assert (model.name, model.level, model.nbytes, model.fault) == ("ollama/llama3.2:1b", "Q4_K_M", 100, "")
    assert model.files == (ollama / "blobs" / f"sha256-{WEIGHTS}",)


@pytest.mark.parametrize(("place", "name"), [
    ("registry.ollama.ai/library/gemma3/latest", "ollama/gemma3:latest"),
    ("registry.ollama.ai/jobautomation/OpenEuroLLM-Portuguese/latest", "ollama/jobautomation/OpenEuroLLM-Portuguese:latest"),
    ("hf.co/user/repo-GGUF/Q4_K_M", "ollama/hf.co/user/repo-GGUF:Q4_K_M"),
])  # fmt: skip
def test_ollamas_names_are_its_own_behind_a_prefix(ollama: Path, place: str, name: str) -> None:
    write(ollama, manifest(layer("model", f"sha256:{WEIGHTS}")), place)
    assert only().name == name


@pytest.mark.parametrize("digest", [
    "../../../../etc/passwd", "sha256:../../../../etc/passwd", f"sha256:{WEIGHTS}/../x", f"sha256-{WEIGHTS}", "", WEIGHTS,
    f"sha256:{WEIGHTS.upper()}", f"sha256:{WEIGHTS}\n", "sha256:" + "a" * 63, "/etc/passwd",
])  # fmt: skip
def test_a_digest_is_never_a_path(ollama: Path, digest: str) -> None:
    write(ollama, manifest(layer("model", digest)))
    assert (only().files, only().fault) == ((), "its manifest names no digest")


def test_a_blob_that_leads_out_of_the_folder_is_not_followed(ollama: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    blob = ollama / "blobs" / f"sha256-{'d' * 64}"
    blob.symlink_to(tmp_path / "secret")
    write(ollama, manifest(layer("model", f"sha256:{'d' * 64}")))
    assert only().files == () and "leads out of" in only().fault


def test_a_manifest_that_leads_out_of_the_folder_is_not_read(ollama: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text(manifest(layer("model", f"sha256:{WEIGHTS}")))
    path = write(ollama, "")
    path.unlink()
    path.symlink_to(tmp_path / "outside")
    assert only().files == () and "leads out of" in only().fault


def test_a_manifest_that_leads_to_another_file_of_the_folder_is(ollama: Path) -> None:
    (ollama / "blobs/sha256-manifest").write_text(manifest(layer("model", f"sha256:{WEIGHTS}")))
    path = write(ollama, "")
    path.unlink()
    path.symlink_to(ollama / "blobs/sha256-manifest")
    assert only().fault == ""


@pytest.mark.parametrize("content", [
    "", "{", "[]", "null", "7", "[" * 100_000, '{"layers": 7}', '{"layers": [7]}', '{"layers": null}', '{"config": {}}', "\xff",
    '{"config": {"digest": 7}, "layers": [{"digest": {}, "mediaType": "application/vnd.ollama.image.model"}]}',
    manifest(), manifest(layer("tensor", f"sha256:{WEIGHTS}")), manifest(layer("model", f"sha256:{'e' * 64}")),
    manifest(layer("model", f"sha256:{WEIGHTS}"), layer("adapter", f"sha256:{ADAPTER}")),
    manifest(layer("model", f"sha256:{WEIGHTS}"), layer("model", f"sha256:{WEIGHTS}")),
    manifest(layer("model", f"sha256:{WEIGHTS}")) + " " * LARGEST_MANIFEST,
])  # fmt: skip
def test_a_broken_manifest_is_a_line_with_its_reason(ollama: Path, content: str) -> None:
    write(ollama, content)
    write(ollama, manifest(layer("model", f"sha256:{WEIGHTS}")), "registry.ollama.ai/library/good/latest")
    good, broken = neighbours()
    assert (good.fault, broken.files) == ("", ())
    assert broken.fault and broken.fault.isprintable()


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path)])
def test_a_manifest_that_is_no_file_is_not_waited_for(ollama: Path, make: Any) -> None:
    path = write(ollama, "")
    path.unlink()
    make(path)
    assert only().files == () and only().fault


LEAVES = some.none() | some.booleans() | some.integers() | some.text(max_size=5) | some.sampled_from(
    [f"sha256:{WEIGHTS}", f"sha256:{CONFIG}", "sha256:../x", "application/vnd.ollama.image.model"])  # fmt: skip
NAMES = some.sampled_from(["config", "layers", "mediaType", "digest", "file_type"])
TABLES = some.recursive(
    LEAVES, lambda inner: some.lists(inner, max_size=3) | some.dictionaries(NAMES, inner, max_size=4)
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=TABLES, blob=TABLES)
def test_any_manifest_is_one_line(ollama: Path, table: Any, blob: Any) -> None:
    write(ollama, json.dumps(table))
    (ollama / "blobs" / f"sha256-{CONFIG}").write_text(json.dumps(blob))
    assert all(path.resolve().is_relative_to(ollama / "blobs") for path in only().files)


def test_a_huge_manifest_is_not_read(ollama: Path) -> None:
    os.truncate(
        write(ollama, manifest(layer("model", f"sha256:{WEIGHTS}"))), 1 << 42
    )  # a sparse file: it takes no room
    assert only().fault == "its manifest is none"


def test_a_level_is_missing_where_nothing_tells_it(ollama: Path) -> None:
    write(ollama, manifest(layer("model", f"sha256:{WEIGHTS}"), config="sha256:no"))
    assert (only().level, only().fault) == ("", "")


def test_lm_studios_models_are_their_files(ollama: Path, tmp_path: Path) -> None:
    folder = tmp_path / ".lmstudio/models/lmstudio-community/Qwen3-GGUF"
    folder.mkdir(parents=True)
    for name in ("Qwen3-Q4_K_M.gguf", "mmproj-Qwen3-F16.gguf", "README.md"):
        (folder / name).write_bytes(bytes(10))
    model = only()
    assert (model.name, model.level) == ("lmstudio/lmstudio-community/Qwen3-GGUF/Qwen3-Q4_K_M", "Q4_K_M")
    assert (model.files, model.nbytes) == ((folder / "Qwen3-Q4_K_M.gguf",), 10)


def test_lm_studios_settings_may_name_another_folder(ollama: Path, tmp_path: Path) -> None:
    (tmp_path / "big/pub/repo").mkdir(parents=True)
    (tmp_path / "big/pub/repo/m-Q8_0.gguf").write_bytes(bytes(10))
    (tmp_path / ".lmstudio").mkdir()
    (tmp_path / ".lmstudio/settings.json").write_text(json.dumps({"downloadsFolder": str(tmp_path / "big")}))
    assert only().name == "lmstudio/pub/repo/m-Q8_0"


@pytest.mark.parametrize("settings", ["", "{", "[]", "[" * 100_000, '{"downloadsFolder": 7}', '{"downloadsFolder": "\\u0000"}', '{"downloadsFolder": "models"}'])  # fmt: skip
def test_settings_that_make_no_sense_are_as_if_not_there(
    ollama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: str
) -> None:
    (tmp_path / "here/models/pub/repo").mkdir(parents=True)
    (tmp_path / "here/models/pub/repo/m-Q8_0.gguf").touch()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / ".lmstudio").mkdir()
    (tmp_path / ".lmstudio/settings.json").write_text(settings)
    assert neighbours() == []


def test_a_link_of_lm_studio_without_its_file_is_a_line_with_its_reason(ollama: Path, tmp_path: Path) -> None:
    folder = tmp_path / ".lmstudio/models/pub/repo"
    folder.mkdir(parents=True)
    (folder / "m-Q8_0.gguf").symlink_to(tmp_path / "gone")
    assert only().fault == "No such file or directory"


def test_nothing_is_written_there(ollama: Path, tmp_path: Path) -> None:
    write(ollama, manifest(layer("model", f"sha256:{WEIGHTS}")))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    neighbours()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
