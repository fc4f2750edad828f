"""A text becomes the windows that base and levels read, and no others."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from amalia_bench.logits_file import Layout, LogitsFile
from amalia_bench.passage import passage, passage_of_file, require_same_ids
from amalia_bench.texts import Text, embedded
from amalia_edge.errors import BenchError, NotComparable, UsageError
from amalia_edge.model import LoadConfig, Model
from bench.windows import text_file, write_windows
from models import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with Model.open(
        tiny_model(tmp_path_factory.mktemp("passage") / "tiny.gguf"), LoadConfig(context=64, threads=1)
    ) as opened:
        yield opened


@pytest.fixture
def text(tmp_path: Path) -> Text:
    return text_file(tmp_path)


def made_of(model: Model, text: Text, path: Path, windows: int | None = None) -> LogitsFile:
    held = passage(model, text, 64, windows).windows
    return LogitsFile(write_windows(path, Layout(64, model.vocabulary.size, held)))


def test_the_text_is_read_as_it_is_after_bos(model: Model, text: Text) -> None:
    ids = passage(model, text, 64, None).windows.ravel().tolist()
    assert ids == [model.vocabulary.begin, *model.vocabulary.encode(text.text)][: len(ids)]


def test_no_system_prompt_and_no_template_come_before(model: Model, text: Text) -> None:
    ids = passage(model, text, 64, None).windows.ravel().tolist()
    assert text.text.startswith(model.vocabulary.decode(ids).strip())


def test_a_first_part_knows_how_much_there_is(model: Model, text: Text) -> None:
    whole, part = passage(model, text, 64, None), passage(model, text, 64, 3)
    assert (len(part.windows), part.windows_of_text) == (3, len(whole.windows))
    assert part.rows == 3 * 31


def test_a_level_that_splits_the_text_otherwise_is_refused(model: Model, text: Text, tmp_path: Path) -> None:
    read = passage(model, text, 64, None)
    require_same_ids(model, [text], [read], None)
    other = Model.open(tiny_model(tmp_path / "other.gguf", pieces=("sa",)), LoadConfig(context=64, threads=1))
    with other, pytest.raises(NotComparable, match=r"other\.gguf: its tokens of fado\.txt are not the base's"):
        require_same_ids(other, [text], [read], None)


def test_a_files_text_is_the_one_that_was_named(model: Model, text: Text, tmp_path: Path) -> None:
    with made_of(model, text, tmp_path / "base.logits") as file:
        read = passage_of_file(model, file, [text], None)
    assert (read.name, read.sha256, len(read.windows)) == ("fado.txt", text.sha256, read.windows_of_text)


def test_a_first_part_of_a_files_text_is_that(model: Model, text: Text, tmp_path: Path) -> None:
    with made_of(model, text, tmp_path / "base.logits") as file:
        assert [len(passage_of_file(model, file, texts, 3).windows) for texts in ([text], [])] == [3, 3]


def test_another_text_than_the_files_is_refused(model: Model, text: Text, tmp_path: Path) -> None:
    file = made_of(model, text, tmp_path / "base.logits")
    with file, pytest.raises(NotComparable, match="made of another text than en"):
        passage_of_file(model, file, [embedded()["en"]], None)


def test_one_of_our_texts_is_recognised_by_its_tokens(model: Model, tmp_path: Path) -> None:
    ours = embedded()["en/news"]
    with made_of(model, ours, tmp_path / "base.logits", 4) as file:
        read = passage_of_file(model, file, [], None)
    assert (read.name, read.sha256, len(read.windows)) == ("en/news", ours.sha256, 4)
    assert read.windows_of_text > 4


def test_a_text_that_is_not_at_hand_is_its_tokens(model: Model, text: Text, tmp_path: Path) -> None:
    with made_of(model, text, tmp_path / "base.logits") as file:
        read = passage_of_file(model, file, [], 2)
        assert np.array_equal(read.windows, file.layout.tokens[:2])
    assert (read.name, read.sha256) == ("base.logits", None)


def test_a_file_is_of_one_text(model: Model, text: Text, tmp_path: Path) -> None:
    with made_of(model, text, tmp_path / "base.logits") as file, pytest.raises(UsageError, match="made of one"):
        passage_of_file(model, file, [text, text], None)


def test_a_file_of_one_window_is_too_small(model: Model, text: Text, tmp_path: Path) -> None:
    file = made_of(model, text, tmp_path / "base.logits", 1)
    with file, pytest.raises(BenchError, match="one window in it; make it of at least 128 tokens"):
        passage_of_file(model, file, [], None)
