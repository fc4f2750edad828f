"""A measurement as a row with llama-bench's names."""

import json

import pytest

from amalia_bench.machine import Machine
from amalia_bench.records import speed_row
from amalia_bench.speed import Case

from .conftest import measurement

# test::get_fields() in llama.cpp's tools/llama-bench/llama-bench.cpp, as far as they mean something here
LLAMA_BENCH = [
    "build_commit",
    "cpu_info",
    "gpu_info",
    "backends",
    "model_filename",
    "model_type",
    "model_size",
    "model_n_params",
    "n_batch",
    "n_ubatch",
    "n_threads",
    "type_k",
    "type_v",
    "n_gpu_layers",
    "flash_attn",
    "n_prompt",
    "n_gen",
    "n_depth",
    "test_time",
    "avg_ns",
    "stddev_ns",
    "avg_ts",
    "stddev_ts",
    "samples_ns",
    "samples_ts",
]


def test_llama_benchs_fields_come_first_in_its_order(machine: Machine) -> None:
    assert list(speed_row(measurement(), machine))[: len(LLAMA_BENCH)] == LLAMA_BENCH


def test_avg_ts_is_decode_alone_and_engine_ts_the_engine(machine: Machine) -> None:
    row = speed_row(measurement(), machine)
    assert row["samples_ts"] == [128, 64]
    assert row["avg_ts"] == 96
    assert row["stddev_ts"] == pytest.approx(45.2548)
    assert (row["engine_ts"], row["engine_stddev_ts"], row["samples_engine_ts"]) == (64, 0, [64, 64])


def test_times_are_whole_nanoseconds(machine: Machine) -> None:
    row = speed_row(measurement(), machine)
    assert (row["avg_ns"], row["stddev_ns"]) == (1_500_000_000, 707_106_781)


def test_a_prompt_row_and_a_generation_row_are_told_apart(machine: Machine) -> None:
    prompt, generated = (speed_row(measurement(case), machine) for case in (Case(prompt=512), Case(generated=128)))
    assert (prompt["n_prompt"], prompt["n_gen"], prompt["test"]) == (512, 0, "pp512")
    assert (generated["n_prompt"], generated["n_gen"], generated["test"]) == (0, 128, "tg128")


def test_settings_are_recorded_as_llama_bench_writes_them(machine: Machine) -> None:
    row = speed_row(measurement(), machine)
    assert (row["type_k"], row["type_v"], row["flash_attn"]) == ("q8_0", "f16", 1)


def test_a_row_is_plain_json(machine: Machine) -> None:
    row = speed_row(measurement(), machine)
    assert json.loads(json.dumps(row)) == row
