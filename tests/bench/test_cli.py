"""`amalia bench speed` from the outside."""

import json
from pathlib import Path
from typing import Any

import pytest
from click import BadParameter
from click.testing import CliRunner, Result

from amalia_bench.cli import bench
from amalia_edge.errors import ModelNotFound, UsageError

QUICK = ("-p", "8", "-n", "4", "-r", "2", "-t", "1")


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
