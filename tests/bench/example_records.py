"""Records as a run might have written them: a toy model at every level, a shape, two machines."""

import copy
import dataclasses
import functools
import hashlib
import math
from typing import Any

from amalia_bench.energy import Idle, Measurement
from amalia_bench.identity import Identity
from amalia_bench.intervals import Interval
from amalia_bench.machine import Library, Machine
from amalia_bench.margins import Margin
from amalia_bench.pairs import Pair
from amalia_bench.records import Row, record
from amalia_bench.speed import Case
from amalia_bench.variety import summarise

HERE = Machine("A CPU @ 2.0 GHz", "x86_64", 2, 4, 16_000_000_000, 8_000_000_000, "Debian 12", "3.11.2", (), "")
JETSON = Machine("Cortex-A78AE", "aarch64", 6, 6, 8_000_000_000, 5_000_000_000, "Ubuntu 22.04", "3.10.12", (),
                 "Jetson Orin Nano, L4T 36.4.7, mode 25W")  # fmt: skip
LIBRARY = Library("llama-cpp-python 0.3.36", ("AVX2", "AMX_INT8"), ("CPU (A CPU)",), ("CPU",), "zig 0.16.0")
# level: bits in a weight, mean KLD, tokens/s written
LEVELS = {
    "Q8_0": (8.5, 0.0011, 11.2), "Q6_K": (6.6, 0.0052, 13.9), "Q5_K_M": (5.7, 0.0107, 16.0), "Q4_K_M": (4.9, 0.0313, 18.8),
    "Q4_0": (4.6, 0.0719, 19.7), "Q3_K_M": (3.9, 0.0844, 20.4), "Q2_K": (3.0, 0.412, 22.9),
}  # fmt: skip
REGISTERS = ("administrative", "literary", "technical", "conversational", "news", "school")
# class: how many categorical pairs, how many gradients
CLASSES = {
    "lexicon": (8, 2), "clitics": (8, 0), "progressive": (6, 2), "object-pronouns": (6, 2), "treatment": (6, 2),
    "contractions": (6, 3), "spelling": (6, 1), "null-subject": (0, 4), "demonstratives": (0, 4), "motion": (0, 4),
}  # fmt: skip
PAIRS = [
    Pair(f"{name}-{at + 1:03}", name, "categorical" if at < sure else "gradient", "a", "b", "", "neutral", "", "")
    for name, (sure, both) in CLASSES.items()
    for at in range(sure + both)
]
WINDOWS = 40


def identity(level: str = "Q4_K_M", name: str = "Toy 9B", parameters: int = 9_152_319_488) -> Identity:
    bits = {"BF16": 16.0}.get(level) or LEVELS.get(level, (4.0,))[0]
    stem = name.replace(" ", "-")
    return Identity(f"{stem}-{level}.gguf", name, level, "llama", int(parameters * bits / 8), parameters,
                    hashlib.sha256(f"{name} {level}".encode()).hexdigest(), "a" * 64, "b" * 64)  # fmt: skip


def row(kind: str, body: dict[str, Any], level: str | None = "Q4_K_M", machine: Machine = HERE, library: Library = LIBRARY, name: str = "Toy 9B") -> Row:  # fmt: skip
    return record(
        kind, {"test_time": "2026-01-02T03:04:05Z"} | body, machine, library, identity(level, name) if level else None
    )


def speed_body(tps: float = 18.8, prompt: int = 0, generated: int = 128, **more: Any) -> dict[str, Any]:
    tokens = prompt or generated
    samples = [tps * share for share in (0.99, 1.0, 1.01)]
    return {
        "build_commit": LIBRARY.version, "cpu_info": HERE.cpu, "gpu_info": "", "backends": "CPU", "model_filename": "toy.gguf",
        "model_type": "llama 9B", "n_batch": 2048, "n_ubatch": 512, "n_threads": 2, "type_k": "f16", "type_v": "f16",
        "n_gpu_layers": -1, "flash_attn": -1, "large_pages": True, "n_prompt": prompt, "n_gen": generated, "n_depth": 0,
        "avg_ns": tokens / tps * 1e9, "stddev_ns": 1e6, "avg_ts": tps, "stddev_ts": tps * 0.01,
        "samples_ns": [tokens / one * 1e9 for one in samples], "samples_ts": samples, "test": f"pp{prompt}" if prompt else f"tg{generated}",
        "engine_ts": tps * 0.98, "engine_stddev_ts": tps * 0.01, "samples_engine_ts": [one * 0.98 for one in samples],
        "first_token_s": 0.4, "first_token_stddev_s": 0.01, "load_s": 2.5, "peak_rss": 6_100_000_000, "interleaved": True,
        "roofline_share": None if prompt else 0.82, "read_gbps": 28.5, "bytes_per_token": None if prompt else 5.3e9, "throttled": False,
        "in_cache": None if prompt else False, "alarms": [], "drift": 0.99, "temperature_c": [61.0, 66.5],
    } | more  # fmt: skip


def quality_body(kld: float = 0.0313, text: str = "pt-PT", **more: Any) -> dict[str, Any]:
    error, ratio = kld * 0.03, 1 + kld * 1.1
    lost, same = math.log(ratio), 1 - math.sqrt(kld) * 0.35
    uneven = [1 + 0.1 * math.sin(at) for at in range(WINDOWS)]  # some windows are harder than others
    return {
        "base": dataclasses.asdict(identity("BF16")), "against": "BF16",
        "text": text, "text_sha256": (text.encode().hex() + "0" * 64)[:64], "tokens_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "context": 512, "windows": WINDOWS, "windows_of_text": WINDOWS, "tokens": 10_240, "quick": False, "cut_off": 0,
        "ppl": 7.1 * ratio, "ppl_stderr": 0.09, "ppl_base": 7.1, "ppl_base_stderr": 0.088,
        "ppl_ratio": ratio, "ppl_ratio_stderr": error / 2, "ppl_ratio_ci95": [ratio - error, ratio + error],
        "delta_nll": lost, "delta_nll_stderr": error / 2, "delta_nll_ci95": [lost - error, lost + error],
        "mean_kld": kld, "kld_stderr": error / 2, "kld_ci95": [kld - error, kld + error], "median_kld": kld * 0.3,
        "kld_percentiles": {"90": kld * 2.4, "95": kld * 4.1, "99": kld * 12, "99.9": kld * 45}, "max_kld": kld * 160,
        "mean_dp": -kld * 0.05, "mean_dp_stderr": error / 9, "mean_dp_ci95": [-kld * 0.05 - error / 4, -kld * 0.05 + error / 4],
        "rms_dp": math.sqrt(kld) * 0.2, "rms_dp_stderr": error / 9, "rms_dp_ci95": [math.sqrt(kld) * 0.19, math.sqrt(kld) * 0.21],
        "same_top": same, "same_top_stderr": 0.005, "same_top_ci95": [same - 0.01, min(1.0, same + 0.01)],
        "window_kld": [kld * one for one in uneven], "window_delta_nll": [lost * one for one in uneven],
    } | more  # fmt: skip


@functools.cache
def _summary(kld: float) -> dict[str, Any]:
    """Score a level that drifts by its KLD, each class and pair otherwise."""
    base, level = {}, {}
    for at, pair in enumerate(PAIRS):
        place = list(CLASSES).index(pair.group)
        base[pair.id] = 6.0 - 0.6 * place + 3 * math.sin(at)
        level[pair.id] = base[pair.id] - kld * (0.4 + 0.2 * (place % 4)) * (1 + 0.5 * math.cos(at))
    margins, others = ([Margin(nats, nats / 40) for nats in side.values()] for side in (level, base))
    return {
        **summarise(PAIRS, margins, others),
        "gradient_pairs": sorted(pair.id for pair in PAIRS if pair.strength == "gradient"),
        "margins": {pair.id: list(margin) for pair, margin in zip(PAIRS, margins, strict=True)},
    }


def variety_body(kld: float = 0.0313, prompt: str = "default", **more: Any) -> dict[str, Any]:
    return copy.deepcopy(_summary(kld)) | {
        "prompt": prompt, "system": "És um assistente." if prompt == "default" else None, "turn": "Uma frase, por favor." if prompt == "default" else None,
        "pairs_sha256": "d" * 64, "against": "BF16", "base": dataclasses.asdict(identity("BF16")),
        "generated": {
            "answers": 60, "words": 5100, "markers": 9, "per_1000_words": 1.8, "per_1000_words_ci95": [0.8, 3.1], "by_class": {"lexicon": 6, "clitics": 3},
            "found": {"ônibus": 6, "me diga": 3}, "questions_sha256": "9" * 64, "sampling": "greedy", "limit": 160,
        } if prompt == "default" else None,
    } | more  # fmt: skip


def energy_body(watts: float = 14.0, prompt: int = 0, **more: Any) -> dict[str, Any]:
    """Give what energy.py measures, and the settings that the command writes beside it."""
    seconds, tokens, idle = 120.0, 1080, Idle(4.1, 0.05, 45.0)
    net = (watts - idle.watts) * seconds / tokens
    trace: list[list[float | None]] = [
        [t, 4.0 + watts * min(1, t / 20) + math.sin(t) * 0.4, 45 + 22 * (1 - math.exp(-t / 90))]
        for t in range(0, 300, 2)
    ]
    measured = Measurement(
        Case(prompt) if prompt else Case(generated=128), "rails", "the module's rails (VDD_IN); neither the carrier board nor the power supply",
        watts * seconds, seconds, tokens, idle, Interval(net, net * 0.98, net * 1.02, net * 0.01), trace, [], (), True,
    )  # fmt: skip
    settings = {"seconds_wanted": 120.0, "idle_s": 20.0, "warm_up_s": 20.0, "threads": 6, "gpu_layers": -1}
    return measured.body() | settings | more


def kernel_body(kind: str, operation: str, gflops: float, intensity: float, **more: Any) -> dict[str, Any]:
    gbps = gflops / intensity
    return {
        "device": "CPU", "buffer": "AMX", "type": kind, "operation": operation, "rows": 4096, "columns": 4096, "batch": 512 if operation == "mat_mat" else 1,
        "ns": 1_000_000, "samples_ns": [1_000_000, 1_010_000, 990_000], "gbps": gbps, "gflops": gflops, "bandwidth_share": gbps / 28.5, "peak_share": gflops / 900,
        "error": 1e-4, "error_limit": 5e-4, "matrices": ["attn_q"], "threads": 2, "working_set": 2_000_000_000,
        "read_gbps": 28.5, "peak_gflops": 900.0, "peak_type": "BF16",
    } | more  # fmt: skip


def tasks_body(right: int = 149, **more: Any) -> dict[str, Any]:
    """Give the accuracy of a choice test of 240 questions, of which the base knew 151."""
    share, delta = right / 240, (right - 151) / 240
    return {
        "file": "exames.jsonl", "file_sha256": "e" * 64, "task": "choice", "prompt": "question", "chat_template": False, "system": None,
        "context": 2048, "gpu_layers": -1, "against": "BF16", "base": {"sha256": identity("BF16").sha256, "file": "Toy-9B-BF16.gguf", "level": "BF16"},
        "items": 240, "left_out": 0, "chance": 0.25, "accuracy": share, "accuracy_ci95": [share - 0.06, share + 0.06], "base_accuracy": 151 / 240,
        "delta": delta, "delta_ci95": [delta - 0.02, delta + 0.02], "agreement": 0.97, "complete": True,
        "answers": [[at < right, at < right, -1.0] for at in range(240)],
    } | more  # fmt: skip


def everything() -> list[Row]:
    """Give a whole run: speed, kernels, quality, variety, tasks and energy of a toy model, and a shape with a prediction."""
    rows = [
        row("bandwidth", {"threads": 2, "read_gbps": 28.5, "samples_gbps": [28.1, 28.5, 28.4], "nbytes": 1 << 32}, None)
    ]
    for level, (_, kld, tps) in LEVELS.items():
        rows += [row("speed", speed_body(220 - 5 * tps, 512, 0), level), row("speed", speed_body(tps), level)]
        for text, worse in (
            ("pt-PT", 1.0),
            ("en", 0.7),
            *((f"pt-PT/{name}", 0.8 + place * 0.1) for place, name in enumerate(REGISTERS)),
        ):
            rows.append(row("quality", quality_body(kld * worse, text), level))
        rows += [row("variety", variety_body(kld, prompt), level) for prompt in ("bare", "default")]
    for place, kind in enumerate(("Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16")):
        bits = (4.5, 4.5, 5.5, 6.6, 8.5, 16)[place]
        rows.append(row("kernels", kernel_body(kind, "mat_vec", (24 - 3 * place) * 16 / bits / 3.4, 16 / bits), None))
        rows.append(row("kernels", kernel_body(kind, "mat_mat", 700 - 90 * place, 512 * 8 / bits), None))
    rows += [
        row("kernels", kernel_body("Q4_K", "quantize", 1, 1) | {"gflops": None, "peak_share": None, "gbps": 0.4}, None),
        row("tasks", tasks_body()),
        row("energy", energy_body(), machine=JETSON), row("energy", energy_body(19.0, alarms=[[3.5, "over-current"]]), "Q8_0", machine=JETSON),
    ]  # fmt: skip
    for level in ("Q4_K_M", "Q8_0"):
        bytes_at = {"2048": 6.2e9, "8192": 7.3e9, "32768": 11.4e9}
        shape = {
            "shape": "amalia-9b",
            "level": level,
            "synthetic": True,
            "memory": bytes_at,
            "fits": {"Q4_K_M": {"context": 32768, "bytes": 11.4e9}, "Q8_0": {"context": 8192, "bytes": 11.5e9}},
        }
        rows.append(row("shape", speed_body(4.6 if level == "Q4_K_M" else 2.7) | shape, level, name="amalia-9b"))
    rows.append(
        row(
            "shape",
            {
                "shape": "amalia-9b",
                "level": "Q4_K_M",
                "prediction": True,
                "device": "Jetson Orin Nano",
                "read_gbps": 68.0,
                "efficiency": 0.7,
                "engine_ts": 9.1,
            },
            None,
        )
    )
    return rows
