"""Levels are measured against their base on the same tokens, side by side or through a file, and nothing else is."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from amalia_bench.logits_file import LogitsFile
from amalia_bench.quality import Estimate, Measured, QualityConfig, Watch, Wish, measure_quality
from amalia_bench.texts import Text
from amalia_edge.errors import BenchError, NotComparable, UsageError
from bench.windows import text_file
from models import tiny_model

SMALL = QualityConfig(context=64, threads=1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "amalia" / "logits"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("quality")
    for kind in ("F32", "F16", "Q8_0"):
        tiny_model(found / f"tiny-{kind}.gguf", kind=kind)
    return found


@pytest.fixture
def base(folder: Path) -> Path:
    return folder / "tiny-F32.gguf"


@pytest.fixture
def level(folder: Path) -> Path:
    return folder / "tiny-Q8_0.gguf"


@pytest.fixture(scope="module")
def text(folder: Path) -> Text:
    return text_file(folder, 40)


def bodies(found: Iterator[Measured]) -> list[dict[str, Any]]:
    return [measured.body for measured in found]


def fresh(found: Iterator[Measured]) -> list[Measured]:
    return [measured for measured in found if measured.fresh]


def test_each_level_has_a_figure_on_each_text(base: Path, folder: Path, text: Text) -> None:
    texts = [text, dataclasses.replace(text, name="again", sha256="00")]
    found = list(measure_quality(Wish(base, [folder / "tiny-F16.gguf", folder / "tiny-Q8_0.gguf"], texts), SMALL))
    assert [(one.level.level, one.body["text"]) for one in found] == [
        ("F16", "fado.txt"), ("Q8_0", "fado.txt"), ("F16", "again"), ("Q8_0", "again"),
    ]  # fmt: skip
    assert found[0].body["mean_kld"] < found[1].body["mean_kld"]
    assert all(one.body["against"] == "F32" and not one.body["quick"] for one in found)


def test_a_model_against_itself_side_by_side(base: Path, text: Text) -> None:
    (found,) = bodies(measure_quality(Wish(base, [base], [text]), SMALL))
    assert (found["mean_kld"], found["max_kld"], found["same_top"], found["ppl_ratio"]) == (0, 0, 1, 1)


def test_a_model_against_itself_through_a_file(base: Path, text: Text, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, logits=tmp_path / "base.logits")
    (found,) = bodies(measure_quality(Wish(base, [base], [text]), config))
    assert abs(found["mean_kld"]) < 1e-6
    assert found["same_top"] >= 0.999


def test_through_a_file_it_is_as_side_by_side(base: Path, level: Path, text: Text, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, logits=tmp_path / "base.logits")
    (beside,) = bodies(measure_quality(Wish(base, [level], [text]), SMALL))
    (through,) = bodies(measure_quality(Wish(base, [level], [text]), config))
    (against,) = bodies(measure_quality(Wish(tmp_path / "base.logits", [level], [text]), QualityConfig(threads=1)))
    for found in (through, against):
        assert found["ppl"] == beside["ppl"]
        assert found["mean_kld"] == pytest.approx(beside["mean_kld"], rel=0.01)
        assert found["same_top"] == pytest.approx(beside["same_top"], abs=0.002)
        assert found["tokens_sha256"] == beside["tokens_sha256"]
    assert against["base"]["logits_file"] == against["against"] == "base.logits"


def test_what_does_not_fit_together_goes_through_the_cache_and_leaves_nothing(
    base: Path, level: Path, text: Text, cache: Path
) -> None:
    told: list[Estimate] = []
    found = bodies(measure_quality(Wish(base, [level], [text]), SMALL, 1000, Watch(told.append)))
    assert len(found) == 1
    assert [file.parent for file in told[0].files] == [cache]
    assert list(cache.iterdir()) == []


def test_kept_logits_are_used_again(base: Path, level: Path, text: Text, cache: Path) -> None:
    config, told = dataclasses.replace(SMALL, keep_logits=True), list[Estimate]()
    list(measure_quality(Wish(base, [level], [text]), config, None, Watch(told.append)))
    (file,) = cache.iterdir()
    assert told[0].file_bytes == file.stat().st_size
    told.clear()
    list(measure_quality(Wish(base, [level], [text]), config, None, Watch(told.append)))
    assert told[0].file_bytes == 0


def test_each_text_has_a_logits_file_of_its_own(base: Path, level: Path, text: Text, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, logits=tmp_path / "base.logits")
    texts = [text, dataclasses.replace(text, name="en/news")]
    list(measure_quality(Wish(base, [level], texts), config))
    assert sorted(path.name for path in tmp_path.glob("*.logits")) == ["base.en-news.logits", "base.fado.txt.logits"]


def test_a_cut_file_is_continued(base: Path, level: Path, text: Text, tmp_path: Path) -> None:
    path = tmp_path / "base.logits"
    config = dataclasses.replace(SMALL, logits=path)
    whole = bodies(measure_quality(Wish(base, [level], [text]), config))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert bodies(measure_quality(Wish(base, [level], [text]), config)) == whole
    assert path.read_bytes() == content


def test_a_file_of_another_level_is_not_taken_for_the_bases(
    base: Path, level: Path, text: Text, tmp_path: Path
) -> None:
    config = dataclasses.replace(SMALL, logits=tmp_path / "base.logits")
    list(measure_quality(Wish(level, [level], [text]), config))
    with pytest.raises(NotComparable, match=r"base\.logits: not made by tiny-F32\.gguf: their first windows differ"):
        list(measure_quality(Wish(base, [level], [text]), config))


def test_another_vocabulary_is_not_comparable(base: Path, text: Text, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other.gguf", pieces=("sa",))
    with pytest.raises(NotComparable, match=r"other\.gguf: its vocabulary is not that of tiny-F32\.gguf"):
        list(measure_quality(Wish(base, [other], [text]), SMALL))


def test_another_template_is_not_comparable(base: Path, text: Text, tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "other.gguf", template="{{ messages }}")
    with pytest.raises(NotComparable, match="its chat template is not that of"):
        list(measure_quality(Wish(base, [other], [text]), SMALL))


def test_a_logits_file_of_another_vocabulary_is_refused(base: Path, text: Text, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, logits=tmp_path / "base.logits")
    list(measure_quality(Wish(base, [base], [text]), config))
    other = tiny_model(tmp_path / "other.gguf", pieces=("sa",))
    with pytest.raises(NotComparable, match=r"in its vocabulary, other\.gguf has"):
        list(measure_quality(Wish(tmp_path / "base.logits", [other]), QualityConfig(threads=1)))


def test_a_logits_file_brings_its_context(base: Path, level: Path, text: Text, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, logits=tmp_path / "base.logits")
    list(measure_quality(Wish(base, [base], [text]), config))
    (found,) = bodies(measure_quality(Wish(tmp_path / "base.logits", [level]), QualityConfig(threads=1)))
    assert found["context"] == 64
    with pytest.raises(NotComparable, match="windows of 64 tokens, not 128"):
        list(measure_quality(Wish(tmp_path / "base.logits", [level]), QualityConfig(context=128, threads=1)))


def test_quick_reads_a_first_part_and_says_so(base: Path, level: Path, text: Text) -> None:
    config = dataclasses.replace(SMALL, quick=True, quick_windows=3)
    (quick,) = bodies(measure_quality(Wish(base, [level], [text]), config))
    (whole,) = bodies(measure_quality(Wish(base, [level], [text]), SMALL))
    assert (quick["windows"], quick["quick"], quick["tokens"]) == (3, True, 3 * 31)
    assert quick["windows_of_text"] == whole["windows"] > 3

    def width(body: dict[str, Any]) -> float:
        return float(body["kld_ci95"][1] - body["kld_ci95"][0])

    assert width(quick) > width(whole)


def test_a_text_too_small_is_refused_with_what_is_needed(base: Path, level: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"fado\.txt: \d+ tokens, at least 1024 needed"):
        list(measure_quality(Wish(base, [level], [text_file(tmp_path, 20)]), QualityConfig(threads=1)))


def test_two_texts_of_one_name_are_refused(base: Path, level: Path, text: Text) -> None:
    with pytest.raises(UsageError, match=r"two of the name fado\.txt"):
        list(measure_quality(Wish(base, [level], [text, text]), SMALL))


def rows(found: Sequence[Measured]) -> list[dict[str, Any]]:
    return [{"kind": "quality", "model": dataclasses.asdict(one.level), **one.body} for one in found]


def test_what_is_known_is_left_out(base: Path, level: Path, folder: Path, text: Text) -> None:
    known = rows(list(measure_quality(Wish(base, [level], [text]), SMALL)))
    found = list(measure_quality(Wish(base, [level, folder / "tiny-F16.gguf"], [text], known), SMALL))
    assert [(one.level.level, one.fresh) for one in found] == [("Q8_0", False), ("F16", True)]
    assert found[0].body == known[0]


def test_of_a_logits_file_too_what_is_known_is_given_and_not_measured(
    base: Path, level: Path, text: Text, tmp_path: Path
) -> None:
    list(measure_quality(Wish(base, [level], [text]), dataclasses.replace(SMALL, logits=tmp_path / "base.logits")))
    wish = Wish(tmp_path / "base.logits", [level])
    known = rows(list(measure_quality(wish, QualityConfig(threads=1))))
    (found,) = measure_quality(dataclasses.replace(wish, known=known), QualityConfig(threads=1))
    assert (found.fresh, found.body) == (False, known[0])


def test_of_two_known_figures_the_one_of_more_windows_is_given(base: Path, level: Path, text: Text) -> None:
    quick = dataclasses.replace(SMALL, quick=True, quick_windows=3)
    whole = rows(list(measure_quality(Wish(base, [level], [text]), SMALL)))
    known = whole + rows(list(measure_quality(Wish(base, [level], [text]), quick)))
    assert bodies(measure_quality(Wish(base, [level], [text], known), quick)) == whole


def test_what_is_known_of_one_text_does_not_move_the_other_ones_logits(
    base: Path, level: Path, text: Text, tmp_path: Path
) -> None:
    config, told = dataclasses.replace(SMALL, logits=tmp_path / "base.logits"), list[Estimate]()
    texts = [text, dataclasses.replace(text, name="again", sha256="00")]
    known = rows(list(measure_quality(Wish(base, [level], texts), config)))[:1]
    list(measure_quality(Wish(base, [level], texts, known), config, None, Watch(told.append)))
    assert told[0].file_bytes == 0
    assert sorted(path.name for path in tmp_path.glob("*.logits")) == ["base.again.logits", "base.fado.txt.logits"]


def test_what_an_interrupt_left_in_the_cache_goes_once_all_is_measured(
    base: Path, level: Path, text: Text, cache: Path, tmp_path: Path
) -> None:
    other = dataclasses.replace(text_file(tmp_path, 50), name="other")
    wish = Wish(base, [level], [text, other])
    stopped = measure_quality(wish, SMALL, 1000)
    known = rows([next(stopped)])
    del stopped
    assert len(list(cache.iterdir())) == 2
    assert len(fresh(measure_quality(dataclasses.replace(wish, known=known), SMALL, 1000))) == 1
    assert list(cache.iterdir()) == []


def test_a_first_part_is_not_the_whole(base: Path, level: Path, text: Text) -> None:
    quick = dataclasses.replace(SMALL, quick=True, quick_windows=3)
    known = rows(list(measure_quality(Wish(base, [level], [text]), quick)))
    assert len(fresh(measure_quality(Wish(base, [level], [text], known), SMALL))) == 1
    assert fresh(measure_quality(Wish(base, [level], [text], known), quick)) == []


def test_what_is_known_of_another_base_or_text_is_measured(base: Path, level: Path, folder: Path, text: Text) -> None:
    known = rows(list(measure_quality(Wish(folder / "tiny-F16.gguf", [level], [text]), SMALL)))
    assert len(fresh(measure_quality(Wish(base, [level], [text], known), SMALL))) == 1
    known = rows(list(measure_quality(Wish(base, [level], [text]), SMALL)))
    changed = dataclasses.replace(text, sha256="another")
    assert len(fresh(measure_quality(Wish(base, [level], [changed], known), SMALL))) == 1


@pytest.mark.parametrize("available", [None, 1000])
def test_what_was_read_before_ctrl_c_is_told(base: Path, level: Path, text: Text, available: int | None) -> None:
    calls = 0

    def interrupt(_share: float) -> None:
        nonlocal calls
        calls += 1
        if calls == (5 if available is None else 15):  # side by side, or when the level reads against the file
            raise KeyboardInterrupt

    found = list[Measured]()
    with pytest.raises(KeyboardInterrupt):
        for one in measure_quality(Wish(base, [level], [text]), SMALL, available, Watch(advance=interrupt)):
            found.append(one)
    (partial,) = found
    assert partial.body["quick"]
    assert 2 <= partial.body["windows"] < partial.body["windows_of_text"]


def test_time_is_told_after_the_first_window_and_progress_ends_at_one(base: Path, level: Path, text: Text) -> None:
    told, shares = list[Estimate](), list[float]()
    list(measure_quality(Wish(base, [level], [text]), SMALL, None, Watch(told.append, shares.append)))
    assert [estimate.seconds is None for estimate in told] == [True, False]
    assert told[1].seconds is not None
    assert told[1].seconds > 0
    assert sum(shares) == pytest.approx(1)


def test_a_disk_too_small_is_refused_before_the_start(
    base: Path, level: Path, text: Text, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: type("Usage", (), {"free": 10})())
    config = dataclasses.replace(SMALL, logits=tmp_path / "base.logits")
    with pytest.raises(BenchError, match=r"needed for the base's log-probabilities, 0\.0 MB free"):
        list(measure_quality(Wish(base, [level], [text]), config))
    assert not (tmp_path / "base.logits").exists()


def test_the_file_is_one_that_others_read(base: Path, level: Path, text: Text, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, logits=tmp_path / "base.logits")
    list(measure_quality(Wish(base, [level], [text]), config))
    with LogitsFile(tmp_path / "base.logits") as file:
        file.require_whole()
        assert file.layout.context == 64
