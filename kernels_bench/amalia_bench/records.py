"""A measurement as a row: llama-bench's own field names first, then ours."""

from typing import Any

from amalia_bench.machine import Machine
from amalia_bench.speed import Measurement
from amalia_edge import __version__, native

FORMAT = 1  # of a row's own fields
SAMPLES = ("samples_ns", "samples_ts", "samples_engine_ts")  # lists: not in CSV, as in llama-bench


def speed_row(measurement: Measurement, machine: Machine) -> dict[str, Any]:
    """Lay a speed measurement out as llama-bench's JSON has it, `avg_ts` being decode alone; ours follow."""
    facts, load, case = measurement.facts, measurement.load, measurement.case
    decode, engine = measurement.decode, measurement.engine
    theirs = {
        "build_commit": facts.library.version,
        "cpu_info": machine.cpu,
        "gpu_info": ", ".join(machine.gpus),
        "backends": ",".join(facts.library.backends),
        "model_filename": str(facts.path),
        "model_type": facts.description,
        "model_size": facts.nbytes,
        "model_n_params": facts.parameters,
        "n_batch": load.batch,
        "n_ubatch": load.micro_batch,
        "n_threads": facts.threads,
        "type_k": load.cache_keys,
        "type_v": load.cache_values,
        "n_gpu_layers": load.gpu_layers,
        "flash_attn": native.FLASH_ATTENTION[load.flash_attention],
        "n_prompt": case.prompt,
        "n_gen": case.generated,
        "n_depth": 0,
        "test_time": measurement.started,
        "avg_ns": round(decode.mean_ns),
        "stddev_ns": round(decode.stdev_ns),
        "avg_ts": decode.mean_tps,
        "stddev_ts": decode.stdev_tps,
        "samples_ns": decode.samples_ns,
        "samples_ts": decode.samples_tps,
    }
    ours = {
        "amalia_format": FORMAT,
        "amalia_version": __version__,
        "model_name": facts.name,
        "model_level": facts.level,
        "test": case.name,
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
    }
    return {**theirs, **ours}
