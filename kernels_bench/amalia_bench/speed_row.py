"""A speed measurement as a record's body: llama-bench's own field names first, then ours; and as a key, to find it again."""

from collections.abc import Mapping
from typing import Any

from amalia_bench.cache import last_level_caches
from amalia_bench.identity import Identity
from amalia_bench.machine import Machine
from amalia_bench.records import Row, record
from amalia_bench.roofline import bytes_per_token, share
from amalia_bench.speed import Case, Measurement
from amalia_edge import native
from amalia_edge.decision import VERSION
from amalia_edge.load_config import LoadConfig

Key = tuple[Any, ...]


def speed_record(measurement: Measurement, machine: Machine, model: Identity) -> Row:
    """Lay a measurement out as a record of kind `speed`."""
    return record("speed", speed_body(measurement, machine), machine, measurement.facts.library, model)


def speed_body(measurement: Measurement, machine: Machine) -> dict[str, Any]:
    """Lay it out as llama-bench's JSON has it, `avg_ts` being decode alone; ours follow."""
    facts, load, decode = measurement.facts, measurement.load, measurement.decode
    theirs = {
        "build_commit": facts.library.version,
        "cpu_info": machine.cpu,
        "gpu_info": ", ".join(machine.gpus),
        "backends": ",".join(facts.library.backends),
        "model_filename": facts.path.name,  # records are shown to others
        "model_type": facts.description,
        "model_size": facts.header.weight_bytes,
        "model_n_params": facts.header.parameters,
        **_settings(load, measurement.case, facts.threads),
        "test_time": measurement.started,
        "avg_ns": round(decode.mean_ns),
        "stddev_ns": round(decode.stdev_ns),
        "avg_ts": decode.mean_tps,
        "stddev_ts": decode.stdev_tps,
        "samples_ns": decode.samples_ns,
        "samples_ts": decode.samples_tps,
    }
    return theirs | _ours(measurement) | _limit(measurement) | _beside(measurement)


def _settings(load: LoadConfig, case: Case, threads: int) -> dict[str, Any]:
    """Say how it was run, in llama-bench's words and order."""
    return {
        "n_batch": load.batch,
        "n_ubatch": load.micro_batch,
        "n_threads": threads,
        "type_k": load.cache_keys,
        "type_v": load.cache_values,
        "n_gpu_layers": load.gpu_layers,
        "flash_attn": native.FLASH_ATTENTION[load.flash_attention],
        "n_prompt": case.prompt,
        "n_gen": case.generated,
        "n_depth": case.depth,
    }


def _ours(measurement: Measurement) -> dict[str, Any]:
    facts, engine, weather = measurement.facts, measurement.engine, measurement.weather
    slowed = measurement.decode.slowed
    return {
        "model_name": facts.name,
        "model_level": facts.level,
        "test": measurement.case.name,
        "large_pages": measurement.load.large_pages,  # llama-bench asks for none
        "engine_ts": engine.mean_tps,
        "engine_stddev_ts": engine.stdev_tps,
        "samples_engine_ts": engine.samples_tps,
        "first_token_s": measurement.first_token.mean_ns / 1e9,
        "first_token_stddev_s": measurement.first_token.stdev_ns / 1e9,
        "load_s": facts.load_s,
        "peak_rss": facts.peak_rss,
        "interleaved": measurement.interleaved,
        "features": " ".join(facts.library.features),
        "compiler": facts.library.compiler,
        "throttled": True if weather.alarms else slowed,
        "alarms": list(weather.alarms),
        "drift": measurement.decode.drift,
        "temperature_c": list(weather.celsius) or None,
    }


def _limit(measurement: Measurement) -> dict[str, Any]:
    """Give the share of the roofline, where writing alone was measured and the CPU did it all."""
    facts, load, case, gbps = measurement.facts, measurement.load, measurement.case, measurement.weather.read_gbps
    nbytes = bytes_per_token(facts.header, case.middle, load.cache_keys, load.cache_values)
    known = gbps is not None and not case.prompt and not facts.on_gpu
    return {
        "read_gbps": gbps,
        "bytes_per_token": nbytes if case.generated and not case.prompt else None,
        "roofline_share": share(nbytes, measurement.decode.mean_tps, gbps) if known and gbps else None,
        "in_cache": nbytes <= last_level_caches() if known else None,  # then memory is no limit, and the share no share
    }


def _beside(measurement: Measurement) -> dict[str, Any]:
    """Set another program's rate beside ours: the mean of the ratios of each pair, and their spread."""
    peer = measurement.peer
    if peer is None:
        return {}
    facts = measurement.facts
    figure = (
        "avg_ts" if facts.peer_program == "llama-bench" else "engine_ts"
    )  # servers sample and write text, as our engine does
    ours = measurement.decode if figure == "avg_ts" else measurement.engine
    ratio = ours.over(peer)
    return {
        "against": {
            "name": facts.peer,
            "program": facts.peer_program,
            "figure": figure,
            "avg_ts": peer.mean_tps,
            "stddev_ts": peer.stdev_tps,
            "samples_ts": peer.samples_tps,
            "ratio": ratio.mean,
            "ratio_stddev": ratio.stdev,
            "samples_ratio": list(ratio.values),
        }
    }


def make_key(sha256: str, cpu: str, program: str, load: LoadConfig, case: Case, threads: int) -> Key:
    """Give what makes two measurements the same: file, machine, library, other program, settings and test."""
    settings = (*_settings(load, case, threads).values(), load.large_pages)
    return (sha256, cpu, f"llama-cpp-python {VERSION}", program, *settings)


def key_of(row: Mapping[str, Any]) -> Key:
    """Give a record's key."""
    place = (row["model"]["sha256"], row["cpu_info"], row["build_commit"], row.get("against", {}).get("program", ""))
    return (*place, *(row.get(name) for name in (*_settings(LoadConfig(), Case(), 1), "large_pages")))
