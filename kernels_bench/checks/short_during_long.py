"""How soon a short request gets its first token when it arrives while a long prompt is being read.

    .venv/bin/python kernels_bench/checks/short_during_long.py MODEL.gguf [--long 2000] [--rounds 5]

Wanted: within two steps, each of 250 ms at most; one that is under way when it comes ends as soon as it can. Beside an
answer that is being written, and without one.
"""

import argparse
import queue
import random
import statistics
import sys
import threading
import time
from typing import NamedTuple

from alternate import ROOMS

sys.path[:0] = ROOMS.split(":")

from amalia_edge.engine import Engine  # noqa: E402
from amalia_edge.model import LoadConfig, Model  # noqa: E402
from amalia_edge.sampler import SamplingConfig  # noqa: E402

LONGEST_STEP_S, MOST_STEPS = 0.25, 2


class Arrival(NamedTuple):
    """When a short request came and what followed, in seconds."""

    before: list[float]  # the steps until it was heard of
    heard_s: float
    after: list[float]  # the steps to its first token
    all_s: float


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("model")
    words.add_argument("--long", type=int, default=2000)
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("-t", "--threads", type=int)
    order = words.parse_args()
    config = LoadConfig(context=order.long + 64, sequences=4, threads=order.threads)
    with Model.open(order.model, config) as model:
        arrivals = [once(model, order.long, seed, writing=seed % 2 == 1) for seed in range(order.rounds * 2)]
    for writing in (False, True):
        mine = arrivals[writing::2]
        print("beside an answer:" if writing else "alone with the long prompt:")
        print(f"   steps before: {spread([step for arrival in mine for step in arrival.before])}")
        print(f"   from its coming to the end of the step under way: {spread([arrival.heard_s for arrival in mine])}")
        print(f"   steps to its first token: {[len(arrival.after) for arrival in mine]}")
        print(f"   each of these steps: {spread([step for arrival in mine for step in arrival.after])}")
        print(f"   from its coming to its first token: {spread([arrival.all_s for arrival in mine])}")
    soon = all(len(arrival.after) <= MOST_STEPS and max(arrival.after) <= LONGEST_STEP_S for arrival in arrivals)
    sys.exit(0 if soon else 1)


def spread(seconds: list[float]) -> str:
    late = sum(one > LONGEST_STEP_S for one in seconds)
    return f"median {statistics.median(seconds):.3f} s, longest {max(seconds):.3f} s, {late} of {len(seconds)} above 250 ms"


def once(model: Model, length: int, seed: int, *, writing: bool) -> Arrival:
    """Read a long prompt, and have a short one come from another thread at any moment, as a server's does."""
    inbox: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    draw, engine = random.Random(seed), Engine(model, somebody_waits=lambda: not inbox.empty())
    sampling = SamplingConfig(temperature=0, ignore_end=True, limit=1000)
    if writing:
        engine.submit(ids(draw, model, 8), sampling)
    long = engine.submit(ids(draw, model, length), sampling)
    steps = [timed(engine) for _ in range(draw.randint(4, 8))]
    came_s, request = time.perf_counter() + draw.uniform(0, 2), ids(draw, model, 12)
    timer = threading.Timer(came_s - time.perf_counter(), inbox.put, (request,))
    timer.start()
    while inbox.empty() and long.generated == 0:
        steps.append(timed(engine))
    timer.join()
    submitted_s = time.perf_counter()
    short, after = engine.submit(inbox.get(), sampling), []
    while short.generated == 0:
        after.append(timed(engine))
    ended_s = time.perf_counter()
    engine.close()
    return Arrival(steps, submitted_s - came_s, after, ended_s - came_s)


def ids(draw: random.Random, model: Model, count: int) -> list[int]:
    return [draw.randrange(model.vocabulary.size) for _ in range(count)]


def timed(engine: Engine) -> float:
    started = time.perf_counter()
    engine.step()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
