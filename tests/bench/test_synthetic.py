"""Models without a checkpoint: the converter's geometry, random but finite, and libllama runs them."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from amalia_bench import synthetic
from amalia_bench.synthetic import LEAST_VOCABULARY, MARK, plan_synthetic, write_synthetic
from amalia_convert.levels import LEVELS
from amalia_convert.shape import headers
from amalia_edge.context import Context
from amalia_edge.errors import DoesNotFit, ModelUnsupported
from amalia_edge.gguf import read_header
from amalia_edge.load_config import LoadConfig
from amalia_edge.model import Model

from .shapes import small_shape


def logits(path: Path) -> np.ndarray:
    """Read a few tokens and give the logits after the last."""
    with Model.open(path, LoadConfig(context=32, threads=1)) as model:
        context = Context(model.pointer, 32, 1, model.config)
        try:
            context.decode([1, 300, 400, 511], 0)
            return context.row(-1, model.vocabulary.size).copy()
        finally:
            context.close()


@pytest.mark.parametrize("level", ["F32", "BF16", "Q8_0", "Q4_K_M", "Q4_0", "IQ4_XS", "IQ2_XXS"])
def test_libllama_runs_every_kind_of_level_without_a_nan(level: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, small_shape(tmp_path), level)
    found = logits(path)
    assert np.isfinite(found).all()
    assert 0.1 < found.std() < 10
    assert read_header(path).level == level


@pytest.mark.parametrize("like", ["qwen3-8b", "mistral-7b"])
def test_libllama_runs_other_families(like: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, small_shape(tmp_path, like), "Q4_K_M")
    assert np.isfinite(logits(path)).all()


def test_a_tied_model_has_no_output_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, small_shape(tmp_path, tie_word_embeddings=True), "Q8_0")
    assert "output.weight" not in {tensor.name for tensor in read_header(path).tensors}
    assert np.isfinite(logits(path)).all()


def test_biases_of_zeros_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, small_shape(tmp_path, attention_bias=True), "Q8_0")
    assert any(tensor.name.endswith(".bias") for tensor in read_header(path).tensors)
    assert np.isfinite(logits(path)).all()


@pytest.mark.parametrize("level", ["Q8_0", "Q4_K_M", "Q2_K", "IQ3_S"])
def test_the_tensors_are_those_the_converter_would_write(level: str, tmp_path: Path) -> None:
    planned = {one.name: (one.block.name, one.nbytes) for one in plan_synthetic(tmp_path / "m.gguf", "amalia-9b", level).tensors}  # fmt: skip
    assert planned == {one.name: (one.kind, one.nbytes) for one in headers("amalia-9b")[level].tensors}


def test_every_level_can_be_planned(tmp_path: Path) -> None:
    shape = small_shape(tmp_path)
    sizes = {level: plan_synthetic(tmp_path / "m.gguf", shape, level).nbytes for level in LEVELS}
    assert max(sizes, key=lambda level: sizes[level]) == "F32"


def test_the_same_bytes_come_each_time(tmp_path: Path) -> None:
    shape, digests = small_shape(tmp_path), []
    for name in ("a.gguf", "b.gguf"):
        write_synthetic(tmp_path / name, shape, "Q4_0")
        digests.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert digests[0] == digests[1]


def test_tensors_of_one_shape_differ(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, small_shape(tmp_path), "Q8_0")
    data, header = path.read_bytes(), read_header(path)
    seen = [data[one.offset : one.offset + one.nbytes] for one in header.tensors if "ffn_up" in one.name]
    assert len(set(seen)) == len(seen) == 2


def test_the_file_says_that_it_is_made_up(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, small_shape(tmp_path), "Q8_0")
    assert read_header(path).metadata[MARK] is True


def test_text_goes_through_its_vocabulary_and_back(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_synthetic(path, small_shape(tmp_path), "Q8_0")
    with Model.open(path, LoadConfig(context=32, threads=1)) as model:
        ids = model.vocabulary.encode("bom dia, ção\n")
        assert model.vocabulary.decode(ids) == "bom dia, ção\n"


def test_no_two_tokens_are_spelt_alike() -> None:
    words = [synthetic._word(number) for number in range(200_000)]
    assert len(set(words)) == len(words)


def test_a_vocabulary_without_room_for_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match=f"at least {LEAST_VOCABULARY}"):
        plan_synthetic(tmp_path / "m.gguf", small_shape(tmp_path, vocab_size=256), "Q8_0")


def test_a_full_disk_is_said_before_a_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(free=1000)
    monkeypatch.setattr("amalia_bench.synthetic.shutil.disk_usage", lambda _: full)
    heard: list[int] = []
    with pytest.raises(DoesNotFit, match=r"needs 1\.6 MB for a while, 0\.0 MB are free"):
        write_synthetic(tmp_path / "m.gguf", small_shape(tmp_path), "Q8_0", heard.append)
    assert heard == []


def test_a_stopped_writer_leaves_nothing(tmp_path: Path) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_synthetic(tmp_path / "m.gguf", small_shape(tmp_path), "Q8_0", stop)
    assert [file.name for file in tmp_path.iterdir()] == ["petite"]


def test_progress_hears_of_the_bytes_of_all_tensors(tmp_path: Path) -> None:
    heard: list[int] = []
    write_synthetic(tmp_path / "m.gguf", small_shape(tmp_path), "Q8_0", heard.append)
    assert sum(heard) == read_header(tmp_path / "m.gguf").weight_bytes
