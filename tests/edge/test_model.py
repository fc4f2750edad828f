"""A model is opened with settings that are checked, and closed whatever happens."""

from pathlib import Path

import gguf
import pytest

from amalia_edge import native
from amalia_edge.errors import ModelCorrupt, ModelNotFound, ModelUnsupported, UsageError
from amalia_edge.model import LoadConfig, Model
from amalia_edge.sampler import SamplingConfig
from amalia_edge.selftest import tiny_model as tiny_model_without_vocabulary
from models import tiny_model


def test_the_six_line_example_of_the_readme_works(tiny: Path) -> None:
    with Model.open(tiny) as model:
        messages = [{"role": "user", "content": "Olá!"}]
        text = "".join(piece.text for piece in model.chat(messages, SamplingConfig(limit=8, temperature=0)))  # type: ignore[arg-type]
        assert text == "".join(piece.text for piece in model.chat(messages, SamplingConfig(limit=8, temperature=0)))  # type: ignore[arg-type]
    assert model.pointer is None


def test_the_default_context_is_what_the_model_was_trained_for_up_to_8192(tmp_path: Path) -> None:
    for trained, wanted in ((512, 512), (8192, 8192), (32768, 8192)):
        with Model.open(tiny_model(tmp_path / f"{trained}.gguf", context=trained)) as model:
            assert model.context == wanted


def test_a_wished_context_wins(tiny: Path) -> None:
    with Model.open(tiny, LoadConfig(context=77)) as model:
        assert model.context == 77


def test_loading_tells_how_far_it_is(tiny: Path) -> None:
    heard: list[float] = []
    with Model.open(tiny, progress=heard.append):
        assert heard == sorted(heard)
        assert heard[-1] == 1.0


def test_the_makers_sampling_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = gguf.GGUFWriter.add_name

    def with_temperature(writer: gguf.GGUFWriter, name: str) -> None:
        plain(writer, name)
        writer.add_float32("general.sampling.temp", 0.25)

    monkeypatch.setattr(gguf.GGUFWriter, "add_name", with_temperature)
    with Model.open(tiny_model(tmp_path / "x.gguf")) as model:
        assert model.sampling == SamplingConfig(temperature=0.25)


@pytest.mark.parametrize("wrong", [
    {"context": 0}, {"context": 1 << 32}, {"threads": -1}, {"threads": 1000}, {"batch": 0}, {"cache_keys": "q3_x"}, {"flash_attention": "maybe"},
])  # fmt: skip
def test_a_setting_that_makes_no_sense_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        LoadConfig(**wrong)  # type: ignore[arg-type]


def test_ctrl_c_while_loading_ends_the_loading(tiny: Path, capfd: pytest.CaptureFixture[str]) -> None:
    heard: list[float] = []

    def interrupted(share: float) -> None:
        heard.append(share)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Model.open(tiny, progress=interrupted)
    assert len(heard) == 1  # libllama was told to stop, and did
    assert capfd.readouterr().err == ""


def test_ctrl_c_in_the_middle_of_a_log_line_is_not_lost(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_level: int, _text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(native.log, "log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Model.open(tiny)


def test_sampling_that_makes_no_sense_in_a_file_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = gguf.GGUFWriter.add_name

    def with_nonsense(writer: gguf.GGUFWriter, name: str) -> None:
        plain(writer, name)
        writer.add_float32("general.sampling.temp", -1)
        writer.add_float32("general.sampling.top_k", 20)

    monkeypatch.setattr(gguf.GGUFWriter, "add_name", with_nonsense)
    with Model.open(tiny_model(tmp_path / "x.gguf")) as model:
        assert model.sampling == SamplingConfig(top_k=20)
        assert isinstance(model.sampling.top_k, int)


@pytest.mark.parametrize("cache", ["f16", "q8_0", "q4_0"])
def test_each_cache_type_runs(tiny: Path, cache: str) -> None:
    with Model.open(tiny, LoadConfig(context=64, cache_keys=cache, cache_values=cache, flash_attention="on")) as model:
        assert len(list(model.complete(model.prompt("o mar"), SamplingConfig(temperature=0, limit=3)))) >= 1


def test_a_model_without_a_vocabulary_is_unsupported(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(tiny_model_without_vocabulary())
    with pytest.raises(ModelUnsupported, match="no vocabulary"):
        Model.open(path)


def test_a_missing_file_is_not_found() -> None:
    with pytest.raises(ModelNotFound):
        Model.open("nada.gguf")


def test_a_good_header_without_the_tensors_libllama_wants_is_corrupt_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "empty.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelCorrupt, match=r"libllama refuses it: .*context_length"):
        Model.open(path)
