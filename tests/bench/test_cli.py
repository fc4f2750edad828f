"""`amalia bench speed` from the outside."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click import Abort, BadParameter
from click.testing import CliRunner, Result

from amalia_bench.cli.door import bench
from amalia_bench.machine import Machine
from amalia_bench.records import Row, append, read
from amalia_bench.speed import Surroundings
from amalia_bench.speed_row import speed_record
from amalia_edge.errors import BenchError, ModelNotFound, UsageError

from .conftest import IDENTITY, measurement

QUICK = ("-p", "8", "-n", "4", "-r", "2", "-t", "1")


@pytest.fixture(autouse=True)
def known_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring a machine's bandwidth takes seconds, and is tested by itself."""
    monkeypatch.setattr(
        "amalia_bench.speed_run.here", lambda *_: Surroundings(bandwidth=lambda threads: 20.0 * threads)
    )


def speed(*words: str) -> Result:
    return CliRunner().invoke(bench, ["speed", *words], catch_exceptions=False, standalone_mode=False)


def rows_of(*words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(speed(*words, "-o", "json").output)
    return found


def test_json_output_is_llama_benchs_bare_list(tiny: Path) -> None:
    rows = rows_of(str(tiny), *QUICK)
    assert [(row["n_prompt"], row["n_gen"]) for row in rows] == [(8, 0), (0, 4)]
    assert all(len(row["samples_ts"]) == len(row["samples_engine_ts"]) == 2 for row in rows)
    assert all(
        min(row["avg_ts"], row["engine_ts"], row["load_s"], row["peak_rss"], row["first_token_s"]) > 0 for row in rows
    )


def test_the_json_switch_gives_the_envelope(tiny: Path) -> None:
    told = json.loads(speed("-m", str(tiny), *QUICK, "-n", "0", "--json").output)
    assert (told["schema"], told["command"]) == (1, "bench speed")
    assert told["result"]["machine"]["cores"] >= 1
    assert [row["test"] for row in told["result"]["rows"]] == ["pp8"]
    assert told["result"]["advice"].endswith(".")


def test_settings_reach_libllama_and_the_record(tiny: Path) -> None:
    (row,) = rows_of(str(tiny), *QUICK, "-p", "0", "-ctk", "q8_0", "-b", "32", "-ub", "16", "-fa", "1")
    assert (row["type_k"], row["n_batch"], row["n_ubatch"], row["flash_attn"], row["n_threads"]) == (
        "q8_0",
        32,
        16,
        1,
        1,
    )


def test_two_models_are_measured_in_turns(tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny.read_bytes())
    rows = rows_of(str(tiny), str(other), *QUICK, "-p", "0")
    assert [Path(row["model_filename"]).name for row in rows] == [tiny.name, "other.gguf"]
    assert all(row["interleaved"] for row in rows)


def test_without_a_model_it_says_what_to_give() -> None:
    with pytest.raises(ModelNotFound, match="none given"):
        speed()


def test_a_missing_file_is_named_with_the_models_error(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"absent\.gguf"):
        speed(str(tmp_path / "absent.gguf"), *QUICK)


def test_a_count_that_is_none_is_refused(tiny: Path) -> None:
    with pytest.raises(BadParameter, match="twelve"):
        speed(str(tiny), "-p", "twelve")


def test_an_unknown_cache_type_is_refused_before_anything_is_loaded(tiny: Path) -> None:
    with pytest.raises(UsageError, match="cache_keys"):
        speed(str(tiny), *QUICK, "-ctk", "f8")


def test_lists_of_settings_give_a_row_for_each_combination(tiny: Path) -> None:
    rows = rows_of(str(tiny), *QUICK, "-n", "0", "-t", "1,2", "-d", "0,16")
    told = {(row["n_threads"], row["n_depth"]) for row in rows}
    assert told == {(threads, depth) for threads in (1, 2) for depth in (0, 16)}


def test_large_pages_are_on_or_off_or_both(tiny: Path) -> None:
    rows = rows_of(str(tiny), *QUICK, "-n", "0", "--large-pages", "on,off")
    assert [row["large_pages"] for row in rows] == [True, False]
    with pytest.raises(BadParameter, match="on, off or on,off"):
        speed(str(tiny), "--large-pages", "maybe")


def test_a_prompt_and_an_answer_together_are_one_test(tiny: Path) -> None:
    (row,) = rows_of(str(tiny), *QUICK, "-p", "0", "-n", "0", "-pg", "8,4")
    assert (row["n_prompt"], row["n_gen"], row["test"]) == (8, 4, "pp8+tg4")


def test_a_pair_of_one_is_refused(tiny: Path) -> None:
    with pytest.raises(BadParameter, match="512,128"):
        speed(str(tiny), "-pg", "512")


def test_every_measurement_is_in_the_file_of_records(tiny: Path, tmp_path: Path) -> None:
    keep = tmp_path / "run.jsonl"
    rows = rows_of(str(tiny), *QUICK, "--records", str(keep))
    assert read(keep) == rows
    assert rows[1]["read_gbps"] == 20
    assert rows[1]["roofline_share"] > 0


def test_a_file_that_cannot_be_written_is_refused_before_the_measurement(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("amalia_bench.speed_run.run_speed", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(BenchError, match="cannot be written"):
        speed(str(tiny), "--records", str(tmp_path / "file" / "run.jsonl"))


def test_an_error_is_told_beside_what_came_before_it(
    tiny: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> Iterator[Row]:
        yield speed_record(measurement(), machine, IDENTITY)
        raise BenchError("toy", "too hot", "cool it")

    monkeypatch.setattr("amalia_bench.speed_run.run_speed", failing)
    done = speed(str(tiny), "--json")
    told = json.loads(done.stdout)
    assert (len(told["result"]["rows"]), told["error"]["found"], done.return_value) == (1, "too hot", 8)


def test_resume_measures_only_what_is_missing(tiny: Path, tmp_path: Path) -> None:
    keep = tmp_path / "run.jsonl"
    (first,) = rows_of(str(tiny), *QUICK, "-n", "0", "--records", str(keep))
    done = speed(str(tiny), *QUICK, "--records", str(keep), "--resume", "--json")
    rows = json.loads(done.stdout)["result"]["rows"]
    assert rows[0] == first
    assert [row["test"] for row in read(keep)] == ["pp8", "tg4"]


def test_resume_without_a_file_says_which_option_it_needs(tiny: Path) -> None:
    with pytest.raises(UsageError, match="--records"):
        speed(str(tiny), "--resume")


def test_what_was_measured_before_ctrl_c_is_shown_and_kept(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(wanted: object, machine: Machine, *, keep: Path, **_: object) -> Iterator[Row]:
        row = speed_record(measurement(), machine, IDENTITY)
        append(keep, row)
        yield row
        raise KeyboardInterrupt

    monkeypatch.setattr("amalia_bench.speed_run.run_speed", interrupted)
    keep = tmp_path / "run.jsonl"
    done = CliRunner().invoke(bench, ["speed", str(tiny), "--records", str(keep)], standalone_mode=False)
    assert isinstance(done.exception, (KeyboardInterrupt, Abort)) or done.exit_code
    assert "tg128" in done.stdout
    assert "--resume" in done.stderr
    assert len(read(keep)) == 1


def test_the_last_line_is_a_sentence_to_act_on(tiny: Path) -> None:
    last = speed(str(tiny), *QUICK).stdout.strip().splitlines()[-1]
    assert last.startswith(tiny.stem)
    assert last.endswith(".")
