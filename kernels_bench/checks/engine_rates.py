"""What the engine gives on one model, as a process of its own: one side of the checks beside it.

    .venv/bin/python kernels_bench/checks/engine_rates.py MODEL.gguf -p 512 -n 128 [--parallel 8] [--threads 2]

Prints rows as llama-bench does, text included: `greedy`, the `top-k 40` chain of the defaults, and `penalties`, that
chain behind repetition penalties. `--parallel` sequences begin together, each with a prompt of its own, in an engine that
hears of later ones as a server's does.
"""

import argparse
import json
import queue
import random
import statistics
import sys
import time
from dataclasses import replace
from typing import Any

from alternate import ROOMS

sys.path[:0] = ROOMS.split(":")

from amalia_edge.engine import Engine  # noqa: E402
from amalia_edge.model import LoadConfig, Model  # noqa: E402
from amalia_edge.sampler import SamplingConfig  # noqa: E402

GREEDY = SamplingConfig(temperature=0, ignore_end=True)
TOP_K = SamplingConfig(temperature=0.8, top_k=40, seed=1, ignore_end=True)
CHAINS = {
    "greedy": GREEDY,
    "top-k 40": TOP_K,
    "penalties": replace(TOP_K, repeat_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1),
}


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("model")
    words.add_argument("-p", "--prompt", type=int, default=512)
    words.add_argument("-n", "--generated", type=int, default=128)
    words.add_argument("-r", "--repetitions", type=int, default=3)
    words.add_argument("--parallel", type=int, default=1)
    words.add_argument("-t", "--threads", type=int)
    words.add_argument("--chains", nargs="+", default=["greedy", "top-k 40"], choices=CHAINS)
    order = words.parse_args()
    size = order.prompt + order.generated + 8
    config = LoadConfig(context=-(-size // 256) * 256, threads=order.threads, sequences=order.parallel)
    with Model.open(order.model, config) as model:
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        engine = Engine(model, somebody_waits=lambda: not inbox.empty())
        rows = [row for chain in order.chains for row in measure(model, engine, order, chain)]
        engine.close()
    print(json.dumps(rows))


def measure(model: Model, engine: Engine, order: argparse.Namespace, chain: str) -> list[dict[str, Any]]:
    run(engine, [list(range(5, 5 + order.prompt))], replace(CHAINS[chain], limit=4))  # warms up, as llama-bench does
    draw = random.Random(order.prompt)
    prompts = [[draw.randrange(model.vocabulary.size) for _ in range(order.prompt)] for _ in range(order.parallel)]
    turns = alone if order.parallel == 1 else together
    return [
        {"chain": chain, "what": name, "avg_ts": statistics.fmean(rates), "samples_ts": rates}
        for name, rates in turns(engine, order, prompts, CHAINS[chain]).items()
    ]


def alone(
    engine: Engine, order: argparse.Namespace, prompts: list[list[int]], sampling: SamplingConfig
) -> dict[str, list[float]]:
    """Measure one sequence as llama-bench does: prompts first, then, warmed up, generation after one token."""
    rates: dict[str, list[float]] = {}
    tests = ("prompt", order.prompt, 1, order.prompt), ("generation", 1, order.generated, order.generated)
    for name, read, written, counted in tests:
        limited = replace(sampling, limit=written)
        forget(engine)
        run(engine, [prompts[0][:read]], replace(sampling, limit=1))
        for _ in range(order.repetitions):
            forget(engine)
            rates.setdefault(name, []).append(counted / run(engine, [prompts[0][:read]], limited))
    return rates


def together(
    engine: Engine, order: argparse.Namespace, prompts: list[list[int]], sampling: SamplingConfig
) -> dict[str, list[float]]:
    """Measure several: prompts and answers as they come, then the prompts one by one, and generation."""
    rates: dict[str, list[float]] = {"whole": [], "prompt": [], "generation": []}
    limited = replace(sampling, limit=order.generated)
    read, written = order.parallel * order.prompt, order.parallel * order.generated
    for _ in range(order.repetitions):
        forget(engine)
        rates["whole"].append((read + written) / run(engine, prompts, limited))
        forget(engine)
        rates["prompt"].append(read / sum(run(engine, [ids], replace(sampling, limit=0)) for ids in prompts))
        rates["generation"].append(written / run(engine, [[*ids, 7] for ids in prompts], limited))  # in one batch
    return rates


def forget(engine: Engine) -> None:
    for slot in engine._slots:
        engine._rewind(slot, 0)


def run(engine: Engine, prompts: list[list[int]], sampling: SamplingConfig) -> float:
    """Submit all, step to the end, joining the texts as a user would; give the seconds."""
    started = time.perf_counter()
    for ids in prompts:
        engine.submit(ids, sampling)
    text: list[str] = []
    while engine.active:
        text += [piece.text for piece in engine.step()]
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
