"""`amalia bench quality` from the outside."""

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from amalia_bench import quality as measurement
from amalia_bench.cli.quality import quality
from amalia_bench.quality import QualityConfig
from amalia_edge.errors import BenchError, ModelNotFound, UsageError
from bench.windows import text_file
from models import tiny_model


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "130")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("cli")
    models = [tiny_model(folder / f"tiny-{kind}.gguf", kind=kind) for kind in ("F32", "Q8_0")]
    text_file(folder, 40)
    return [*map(str, models), "--text", str(folder / "fado.txt"), "-c", "64", "-t", "1"]


def run(*words: str) -> Result:
    return CliRunner().invoke(quality, words, catch_exceptions=False, standalone_mode=False)


def rows_of(*words: str) -> list[dict[str, Any]]:
    told = json.loads(run(*words, "--json").stdout)
    assert (told["schema"], told["command"]) == (1, "bench quality")
    found: list[dict[str, Any]] = told["result"]["rows"]
    return found


def test_json_has_the_promised_keys(words: list[str]) -> None:
    (row,) = rows_of(*words)
    promised = {
        "ppl", "ppl_stderr", "ppl_base", "ppl_base_stderr", "ppl_ratio", "ppl_ratio_ci95", "delta_nll", "delta_nll_ci95",
        "mean_kld", "kld_stderr", "kld_ci95", "median_kld", "kld_percentiles", "max_kld", "mean_dp", "rms_dp", "same_top",
        "same_top_ci95", "base", "against", "text", "text_sha256", "context", "windows", "tokens", "quick",
    }  # fmt: skip
    assert promised <= row.keys()
    assert (row["kind"], row["model"]["level"], row["against"]) == ("quality", "Q8_0", "F32")


def test_the_table_ends_in_what_to_do(words: list[str]) -> None:
    done = run(*words)
    assert "Against F32 (tiny-F32.gguf)" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("Take Q8_0")


def test_it_is_said_before_the_start_what_will_be_read_and_written(words: list[str], tmp_path: Path) -> None:
    told = run(*words, "--logits", str(tmp_path / "base.logits")).stderr
    assert "10 windows of fado.txt, 64 tokens each, by 2 models; 0.2 MB of disk" in told.replace("\n", " ")
    assert re.search(r"0\.2 MB of disk .* after the first window\.\s+About \d+ s\.", told)


def test_records_are_kept_and_not_measured_again(words: list[str], tmp_path: Path) -> None:
    records = str(tmp_path / "records.jsonl")
    first = rows_of(*words, "--records", records)
    assert [json.loads(line) for line in Path(records).read_text("utf-8").splitlines()] == first
    assert rows_of(*words, "--records", records, "--resume") == first
    assert len(Path(records).read_text("utf-8").splitlines()) == 1


def test_what_was_measured_before_has_its_part_in_table_and_advice(words: list[str], tmp_path: Path) -> None:
    records, other = str(tmp_path / "records.jsonl"), tiny_model(tmp_path / "tiny-F16.gguf", kind="F16")
    run(*words, "--records", records)
    told = run(words[0], str(other), *words[1:], "--records", records, "--resume").stdout
    assert re.search(r"^ F16 .*^ Q8_0 ", told, re.DOTALL | re.MULTILINE)
    assert told.rstrip().splitlines()[-1].startswith("Take Q8_0")


def test_records_in_an_impossible_place_end_it_before_it_begins(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(measurement, "identify", None)
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match=r"below\.jsonl: cannot be written"):
        run(*words, "--records", str(tmp_path / "file" / "below.jsonl"))
    with pytest.raises(click.BadParameter, match="is a directory"):
        run(*words, "--records", str(tmp_path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_where_the_disk_is_full_the_figures_are_shown(words: list[str]) -> None:
    done = CliRunner().invoke(quality, [*words, "--records", "/dev/full"], standalone_mode=False)
    assert isinstance(done.exception, BenchError)
    assert "Take Q8_0" in done.stdout


def test_what_an_interrupt_leaves_on_the_disk_is_told(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(measurement, "_fit_together", lambda *_: False)
        patch.setattr(measurement, "diverge", stopped)
        told = run(*words).stderr.replace("\n", " ")
        assert f"0.2 MB of the base's log-probabilities stay in {tmp_path / 'cache/amalia/logits'}" in told
        assert "stay in" not in run(*words, "--logits", str(tmp_path / "base.logits")).stderr
        patch.undo()
    monkeypatch.setattr(measurement, "_fit_together", lambda *_: False)
    assert "stay in" not in run(*words).stderr


def test_help_says_how_the_logits_of_several_texts_are_named() -> None:
    assert "base.pt-PT.logits" in run("--help").stdout


def test_ctrl_c_keeps_what_was_measured(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = measurement.diverge

    def stopped(base: Any, rows: Any, where: str) -> Any:
        if rows.window == 4:
            raise KeyboardInterrupt
        return real(base, rows, where)

    monkeypatch.setattr(measurement, "diverge", stopped)
    done = run(*words, "--records", str(tmp_path / "records.jsonl"))
    assert done.return_value == 130
    assert "4 of 10 windows" in done.stdout
    assert "goes on with --resume" in done.stderr
    (kept,) = map(json.loads, (tmp_path / "records.jsonl").read_text("utf-8").splitlines())
    assert (kept["windows"], kept["quick"]) == (4, True)


def test_what_was_measured_before_a_failure_is_told(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = measurement.diverge, list[int]()

    def failing(base: Any, rows: Any, where: str) -> Any:
        seen.append(rows.window)
        if seen.count(4) == 2:  # in the second text
            raise BenchError(where, "window 5: logits that are infinite or no number", "convert it again")
        return real(base, rows, where)

    monkeypatch.setattr(measurement, "diverge", failing)
    done = run(*words, "--text", "en/news", "--json")
    told = json.loads(done.stdout)
    assert done.return_value == BenchError.exit_code
    assert [row["text"] for row in told["result"]["rows"]] == ["fado.txt"]
    assert told["error"]["found"].startswith("window 5")


def test_a_logits_file_stands_for_the_base(words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "base.logits"
    (beside,) = rows_of(*words, "--logits", str(file))
    (row,) = rows_of(str(file), words[1], "-t", "1")
    assert row["ppl"] == beside["ppl"]
    assert row["base"]["logits_file"] == "base.logits"


def test_one_of_our_texts_is_named(words: list[str]) -> None:
    (row,) = rows_of(*words[:2], "--text", "en/news", *words[4:], "--quick")
    assert (row["text"], row["quick"], row["windows"]) == ("en/news", True, QualityConfig.quick_windows)


def test_a_text_that_is_nowhere_is_refused_with_what_there_is(words: list[str]) -> None:
    with pytest.raises(UsageError, match="no file pt-BR; give a text file, or one of pt-PT, pt-PT/administrative"):
        run(*words[:2], "--text", "pt-BR")


def test_without_a_level_it_says_what_to_give(words: list[str]) -> None:
    with pytest.raises(ModelNotFound, match="LEVEL: none given"):
        run(words[0])


def test_resume_wants_to_know_of_what(words: list[str]) -> None:
    with pytest.raises(UsageError, match="--resume: no --records FILE"):
        run(*words, "--resume")
