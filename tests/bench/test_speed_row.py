"""A speed measurement as a record with llama-bench's names."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from amalia_bench.clock import Sample
from amalia_bench.machine import Machine
from amalia_bench.records import Row
from amalia_bench.speed import Case, Weather
from amalia_bench.speed_row import key_of, make_key, speed_body, speed_record
from amalia_edge.load_config import LoadConfig

from .conftest import GENERATION, IDENTITY, measurement

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
    assert list(speed_body(measurement(), machine))[: len(LLAMA_BENCH)] == LLAMA_BENCH


def test_avg_ts_is_decode_alone_and_engine_ts_the_engine(machine: Machine) -> None:
    row = speed_body(measurement(), machine)
    assert row["samples_ts"] == [128, 64]
    assert row["avg_ts"] == 96
    assert row["stddev_ts"] == pytest.approx(45.2548)
    assert (row["engine_ts"], row["engine_stddev_ts"], row["samples_engine_ts"]) == (64, 0, [64, 64])


def test_a_record_names_no_folder(machine: Machine) -> None:
    assert speed_body(measurement(path=Path("models/toy-Q8_0.gguf")), machine)["model_filename"] == "toy-Q8_0.gguf"


def test_times_are_whole_nanoseconds(machine: Machine) -> None:
    row = speed_body(measurement(), machine)
    assert (row["avg_ns"], row["stddev_ns"]) == (1_500_000_000, 707_106_781)


def test_a_prompt_row_and_a_generation_row_are_told_apart(machine: Machine) -> None:
    prompt, generated = (speed_body(measurement(case), machine) for case in (Case(prompt=512), Case(generated=128)))
    assert (prompt["n_prompt"], prompt["n_gen"], prompt["test"]) == (512, 0, "pp512")
    assert (generated["n_prompt"], generated["n_gen"], generated["test"]) == (0, 128, "tg128")


def test_settings_are_recorded_as_llama_bench_writes_them(machine: Machine) -> None:
    row = speed_body(measurement(), machine)
    assert (row["type_k"], row["type_v"], row["flash_attn"]) == ("q8_0", "f16", 1)


def test_a_row_is_plain_json(machine: Machine) -> None:
    row = speed_record(measurement(), machine, IDENTITY)
    assert json.loads(json.dumps(row)) == row


def test_the_record_holds_file_machine_and_library_beside_the_body(machine: Machine) -> None:
    row = speed_record(measurement(), machine, IDENTITY)
    assert (row["kind"], row["model"]["sha256"], row["machine"]["cpu"]) == ("speed", "ab" * 32, "A CPU")
    assert row["test_time"] == "2026-01-02T03:04:05Z"  # when it began, not when it was written


def test_the_share_of_the_roofline_is_bytes_times_rate_over_bandwidth(machine: Machine) -> None:
    body = speed_body(measurement(weather=Weather(read_gbps=1.0)), machine)
    # 6000 bytes of weights, and 64 tokens of 32 keys in q8_0 (34 bytes) and 32 values in f16 (64 bytes)
    assert body["bytes_per_token"] == 6000 + 64 * (34 + 64)
    assert body["roofline_share"] == pytest.approx(body["bytes_per_token"] * 96 / 1e9)


@pytest.mark.parametrize("case", [Case(prompt=512), Case(512, 128)], ids=lambda case: case.name)
def test_reading_a_prompt_has_no_roofline(machine: Machine, case: Case) -> None:
    body = speed_body(measurement(case, weather=Weather(read_gbps=1.0)), machine)
    assert (body["roofline_share"], body["bytes_per_token"], body["read_gbps"]) == (None, None, 1.0)


def test_a_gpus_share_of_the_cpus_bandwidth_is_not_told(machine: Machine) -> None:
    found = measurement(weather=Weather(read_gbps=1.0))
    assert speed_body(replace(found, facts=replace(found.facts, on_gpu=True)), machine)["roofline_share"] is None


def test_an_alarm_says_throttled_whatever_the_rates_say(machine: Machine) -> None:
    body = speed_body(measurement(weather=Weather(celsius=(50.0, 90.0), alarms=("cpu0",))), machine)
    assert (body["throttled"], body["alarms"], body["temperature_c"]) == (True, ["cpu0"], [50, 90])


def test_two_repetitions_cannot_tell_whether_it_throttled(machine: Machine) -> None:
    body = speed_body(measurement(), machine)
    assert (body["throttled"], body["drift"], body["temperature_c"]) == (None, None, None)


def beside(machine: Machine, program: str) -> Row:
    found = measurement()
    turns = tuple(replace(turn, peer=Sample(128, 2_000_000_000)) for turn in found.turns)
    row: Row = speed_record(
        replace(found, turns=turns, facts=replace(found.facts, peer=f"{program} b1", peer_program=program)),
        machine,
        IDENTITY,
    )
    return row


def test_llama_bench_is_set_beside_our_bare_decode(machine: Machine) -> None:
    other = beside(machine, "llama-bench")["against"]
    assert (other["figure"], other["samples_ratio"], other["ratio"]) == ("avg_ts", [2, 1], 1.5)


def test_a_server_is_set_beside_our_engine(machine: Machine) -> None:
    other = beside(machine, "llama-server")["against"]
    assert (other["figure"], other["samples_ratio"], other["name"]) == ("engine_ts", [1, 1], "llama-server b1")


def test_a_measurement_alone_has_nobody_beside_it(machine: Machine) -> None:
    assert "against" not in speed_body(measurement(), machine)


def test_a_record_is_found_by_what_was_asked_for(machine: Machine) -> None:
    row = speed_record(measurement(), machine, IDENTITY)
    load = LoadConfig(cache_keys="q8_0", flash_attention="on")
    asked = make_key("ab" * 32, "A CPU", "", load, GENERATION, 2)
    assert key_of(row) == asked
    others = [
        make_key("00" * 32, "A CPU", "", load, GENERATION, 2),
        make_key("ab" * 32, "B CPU", "", load, GENERATION, 2),
        make_key("ab" * 32, "A CPU", "llama-bench", load, GENERATION, 2),
        make_key("ab" * 32, "A CPU", "", LoadConfig(), GENERATION, 2),
        make_key("ab" * 32, "A CPU", "", load, Case(generated=128, depth=1), 2),
        make_key("ab" * 32, "A CPU", "", load, GENERATION, 3),
    ]
    assert asked not in others
