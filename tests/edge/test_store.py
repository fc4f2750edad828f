"""A name becomes a file, or an error that says what there is."""

import fcntl
import json
from pathlib import Path

import pytest

from amalia_edge import hub
from amalia_edge.errors import ModelNotFound, UsageError
from amalia_edge.store import converted_models, find, find_model, models, models_folder, remove

DPO = "AMALIA-9B-0626-DPO"
COMMIT = "c" * 40


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a person's home with nothing in it, whatever this machine holds."""
    for name in ("HOME", "XDG_DATA_HOME", "HF_HUB_CACHE", "OLLAMA_MODELS"):
        monkeypatch.setenv(name, str(tmp_path / "home" / name.lower()))
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def stored(home: Path) -> Path:
    models_folder().mkdir(parents=True)
    for name in (f"{DPO}-Q4_K_M", f"{DPO}-Q8_0", "Minerva-7B-Q8_0", "Minerva-7B.imatrix"):
        (models_folder() / f"{name}.gguf").write_text(name)
    return models_folder()


@pytest.fixture
def others(home: Path) -> None:
    """Lay a model into the Hub's cache, one into Ollama's folder, one into LM Studio's."""
    hub = home / f"hf_hub_cache/models--unsloth--Qwen3-8B-GGUF/snapshots/{COMMIT}"
    studio = home / "home/.lmstudio/models/pub/repo"
    tags, blobs = home / "ollama_models/manifests/registry.ollama.ai/library/llama3.2", home / "ollama_models/blobs"
    for folder in (hub, studio, tags, blobs):
        folder.mkdir(parents=True)
    (hub / "Qwen3-8B-UD-Q4_K_XL.gguf").write_text("hub")
    (studio / "m-Q8_0.gguf").write_text("studio")
    (blobs / f"sha256-{'a' * 64}").write_text("ollama")
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{'a' * 64}"}
    for tag in ("latest", "1b"):
        (tags / tag).write_text(json.dumps({"config": {}, "layers": [layer]}))


def test_a_path_is_itself(home: Path) -> None:
    Path("x.gguf").touch()
    assert find("x.gguf") == Path("x.gguf")
    assert find(str(Path("x.gguf").absolute())) == Path("x.gguf").absolute()


@pytest.mark.parametrize(("name", "stem"), [
    (f"{DPO}:Q8_0", f"{DPO}-Q8_0"), (f"{DPO}:q8_0".lower(), f"{DPO}-Q8_0"), (f"{DPO}-Q8_0", f"{DPO}-Q8_0"),
    (DPO, f"{DPO}-Q4_K_M"), ("minerva", "Minerva-7B-Q8_0"), ("Minerva-7B", "Minerva-7B-Q8_0"), (f"{DPO}:Q8", f"{DPO}-Q8_0"),
])  # fmt: skip
def test_a_stored_name_or_a_unique_beginning_is_found(stored: Path, name: str, stem: str) -> None:
    assert find(name) == stored / f"{stem}.gguf"


@pytest.mark.parametrize(("name", "content"), [
    ("unsloth/Qwen3-8B-GGUF:UD-Q4_K_XL", "hub"), ("unsloth/qwen3-8b-gguf:q4_k_xl", "hub"), ("qwen3-8b", "hub"),
    ("Qwen3-8B-GGUF", "hub"), ("unsloth/Qwen3-8B-GGUF", "hub"), ("https://hf.co/unsloth/Qwen3-8B-GGUF:UD-Q4_K_XL", "hub"),
    (f"unsloth/Qwen3-8B-GGUF@{COMMIT}", "hub"), ("unsloth/Qwen3-8B-GGUF@cccccccc:UD-Q4_K_XL", "hub"),
    ("ollama/llama3.2:1b", "ollama"), ("ollama/llama3.2", "ollama"), ("OLLAMA/Llama3.2:1B", "ollama"),
    ("lmstudio/pub/repo/m-Q8_0", "studio"), ("lmstudio/pub", "studio"),
])  # fmt: skip
def test_what_other_tools_hold_is_found_where_it_lies(others: None, name: str, content: str) -> None:
    assert find(name).read_text() == content


def test_a_folder_here_that_is_called_like_its_maker_does_not_hide_a_stored_model(others: None) -> None:
    Path("unsloth").mkdir()
    assert find("unsloth/Qwen3-8B-GGUF:UD-Q4_K_XL").read_text() == "hub"


def test_a_name_that_may_be_a_misspelt_path_says_how_the_hub_s_is_written(home: Path) -> None:
    Path("org").mkdir()
    with pytest.raises(ModelNotFound, match=r"org/other: no such file; .*or hf\.co/org/other"):
        find("org/other")


def test_without_a_home_it_is_said_what_is_missing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a container run as a number
    for asked in (models_folder, hub.cache_folder):
        with pytest.raises(UsageError, match="HOME: not set"):
            asked()


def test_every_model_is_listed(stored: Path, others: None) -> None:
    assert [model.name for model in models()] == [
        f"{DPO}:Q4_K_M", f"{DPO}:Q8_0", "Minerva-7B:Q8_0", "unsloth/Qwen3-8B-GGUF:UD-Q4_K_XL", "ollama/llama3.2:1b",
        "ollama/llama3.2:latest", "lmstudio/pub/repo/m-Q8_0",
    ]  # fmt: skip


def test_every_listed_name_finds_its_model(stored: Path, others: None) -> None:
    for model in models():
        assert find(model.name) == model.files[0]


def test_our_own_comes_before_another_tools_of_the_same_name(stored: Path, others: None) -> None:
    (stored / "Qwen3-8B-UD-Q4_K_XL.gguf").write_text("ours")
    assert find("Qwen3-8B").read_text() == "ours"


def test_a_checkpoint_folder_of_the_same_name_does_not_hide_the_model_made_of_it(stored: Path) -> None:
    Path("Minerva-7B").mkdir()
    assert find("Minerva-7B") == stored / "Minerva-7B-Q8_0.gguf"


def test_a_folder_of_parts_is_its_first_part(home: Path) -> None:
    Path("split").mkdir()
    for number in (2, 1):
        Path(f"split/m-0000{number}-of-00002.gguf").touch()
    assert find("split") == find("./split") == Path("split/m-00001-of-00002.gguf")


def test_a_folder_of_several_models_lists_them(home: Path) -> None:
    Path("several").mkdir()
    for level in ("Q4_K_M", "Q8_0"):
        Path(f"several/m-{level}.gguf").touch()
    with pytest.raises(UsageError, match=r"several models: m-Q4_K_M\.gguf, m-Q8_0\.gguf; give one of these files"):
        find("several")


def test_an_ambiguous_name_lists_the_candidates(stored: Path) -> None:
    with pytest.raises(UsageError, match=f"several models: {DPO}:Q4_K_M, {DPO}:Q8_0; give the whole name"):
        find("amalia")


@pytest.mark.parametrize(("name", "message"), [
    ("gervasio", "gervasio: no such file, stored model or source; amalia models lists what is here"),
    ("minerwa-7b", "did you mean Minerva-7B"), ("AMALIA-9B-0626-DOP:Q4_K_M", f"did you mean {DPO}:Q4_K_M"),
    (f"{DPO}:Q2_K", f"did you mean {DPO}"), ("fadino", "did you mean fadinho"),
    ("unsloth/Qwen3-8B-GGUV", "did you mean unsloth/Qwen3-8B-GGUF"), ("ollama/lama3.2", "did you mean ollama/llama3.2"),
    ("org/other:Q8_0", "no such file, and no such model in the Hub's cache; amalia pull org/other:Q8_0 brings it from the Hub"),
])  # fmt: skip
def test_an_unknown_name_says_which_may_have_been_meant(stored: Path, others: None, name: str, message: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        find(name)
    assert message in str(caught.value)


@pytest.mark.parametrize(("name", "message"), [
    ("modelos/amalia.gguf", r"no such file; did you mean models\?"), ("./models/amalja.gguf", r"did you mean models/amalia.gguf"),
    ("models/amalja", "no such file"), ("nothing.gguf", "no such file; give a GGUF"), ("/no/such/folder", "no such file"),
])  # fmt: skip
def test_a_misspelt_path_is_not_taken_for_a_name_on_the_hub(home: Path, name: str, message: str) -> None:
    Path("models").mkdir()
    Path("models/amalia.gguf").touch()
    with pytest.raises(ModelNotFound, match=message) as caught:
        find(name)
    assert "Hub" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~nobody-at-all/x", "", ":", "/", "\x1b[2J", "a/" * 300])
def test_a_name_that_can_be_none_is_not_found(home: Path, name: str) -> None:
    try:
        assert find(name) == Path("/")
    except ModelNotFound as error:
        assert str(error).isprintable()


def test_offline_what_is_missing_says_what_would_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFound, match="HF_HUB_OFFLINE is set; unset it, then amalia pull org/other:Q8_0"):
        find("org/other:Q8_0")


def test_a_broken_model_is_not_run_and_says_why(stored: Path) -> None:
    (stored / "X-Q8_0-00001-of-00002.gguf").touch()
    with pytest.raises(ModelNotFound, match="X:Q8_0: 1 of 2 parts are here"):
        find("X:Q8_0")


def test_a_stopped_download_does_not_stand_in_the_way_of_what_is_there(home: Path, others: None) -> None:
    blobs = home / "hf_hub_cache/models--unsloth--Qwen3-8B-GGUF/blobs"
    blobs.mkdir()
    (blobs / "0123456789.amalia.incomplete").touch()
    assert find("unsloth/Qwen3-8B-GGUF").read_text() == "hub"


@pytest.mark.parametrize(("name", "error"), [("minerva", ModelNotFound), (DPO, UsageError)])
def test_what_can_not_be_undone_wants_the_whole_name(stored: Path, name: str, error: type[Exception]) -> None:
    assert find_model(name, models())
    with pytest.raises(error, match=r"did you mean Minerva|several models"):
        find_model(name, models(), whole=True)


def test_removing_takes_all_that_belongs_to_a_model_and_counts_its_bytes(stored: Path) -> None:
    name = f"{DPO}-Q8_0.gguf"
    for other in (f"{name}.receipt.json", f".{name}.partial", f".{name}.journal"):
        (stored / other).write_bytes(bytes(100))
    model = find_model(f"{DPO}:Q8_0", models())
    assert remove(model) == 300 + len(f"{DPO}-Q8_0")
    assert [path.name for path in stored.glob("*Q8_0*")] == ["Minerva-7B-Q8_0.gguf"]
    assert find(DPO).name == f"{DPO}-Q4_K_M.gguf"


def test_a_stopped_conversion_is_listed_and_can_be_removed(home: Path) -> None:
    models_folder().mkdir(parents=True)
    (models_folder() / ".X-Q8_0.gguf.partial").write_bytes(bytes(100))
    (models_folder() / ".X-Q8_0.gguf.journal").write_bytes(bytes(10))
    (model,) = converted_models()
    assert (model.name, model.nbytes, model.fault) == ("X:Q8_0", 100, "a conversion that was stopped, or goes on now")
    assert remove(model) == 110
    assert list(models_folder().iterdir()) == []


def test_what_is_being_converted_is_not_removed(stored: Path) -> None:
    with (stored / f".{DPO}-Q8_0.gguf.journal").open("wb") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="is being converted now"):
            remove(find_model(f"{DPO}:Q8_0", models()))
    assert find(f"{DPO}:Q8_0").is_file()


@pytest.mark.parametrize(("name", "message"), [
    ("ollama/llama3.2:1b", "belongs to Ollama; ollama rm llama3.2:1b"), ("lmstudio/pub/repo/m-Q8_0", "belongs to LM Studio"),
])  # fmt: skip
def test_what_other_tools_hold_is_not_removed(others: None, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        remove(find_model(name, models()))
    assert find(name).is_file()
