"""How soon a short request gets its first token when it arrives while a long prompt is being read.

    .venv/bin/python kernels_bench/checks/short_during_long.py MODEL.gguf [--long 2000] [--rounds 5]

Wanted: within two steps, each of 250 ms at most. Prints every step's length while the long prompt is read, beside an answer
that is being written and without one.
"""

import argparse
import random
import statistics
import sys
import time

from alternate import ROOMS

sys.path[:0] = ROOMS.split(":")

from amalia_edge.engine import Engine  # noqa: E402
from amalia_edge.model import LoadConfig, Model  # noqa: E402
from amalia_edge.sampler import SamplingConfig  # noqa: E402

LONGEST_STEP_S, MOST_STEPS = 0.25, 2


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("model")
    words.add_argument("--long", type=int, default=2000)
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("-t", "--threads", type=int)
    order = words.parse_args()
    config = LoadConfig(context=order.long + 64, sequences=4, threads=order.threads)
    with Model.open(order.model, config) as model:
        results = [once(model, order.long, seed, writing=seed % 2 == 1) for seed in range(order.rounds * 2)]
    for writing in (False, True):
        mine = results[writing::2]
        steps = [step for _, _, step_s in mine for step in step_s]
        print("beside an answer:" if writing else "alone with the long prompt:")
        print(f"   steps to the first token {[count for count, _, _ in mine]}")
        print(f"   seconds to the first token {[round(seconds, 3) for _, seconds, _ in mine]}")
        late = sum(step > LONGEST_STEP_S for step in steps)
        print(
            f"   steps: median {statistics.median(steps):.3f} s, longest {max(steps):.3f} s, {late} of {len(steps)} late"
        )
    soon = all(count <= MOST_STEPS and seconds <= MOST_STEPS * LONGEST_STEP_S for count, seconds, _ in results)
    sys.exit(0 if soon else 1)


def once(model: Model, length: int, seed: int, *, writing: bool) -> tuple[int, float, list[float]]:
    """Give the steps and seconds to the short request's first token, and the length of every step."""
    draw, engine = random.Random(seed), Engine(model)
    sampling = SamplingConfig(temperature=0, ignore_end=True, limit=1000)
    if writing:
        engine.submit(ids(draw, model, 8), sampling)
    engine.submit(ids(draw, model, length), sampling)
    steps = [timed(engine) for _ in range(draw.randint(3, 8))]
    started = time.perf_counter()
    short, count = engine.submit(ids(draw, model, 12), sampling), 0
    while short.generated == 0:
        steps.append(timed(engine))
        count += 1
    seconds = time.perf_counter() - started
    engine.close()
    return count, seconds, steps[2:]  # the first two are where the engine learns how fast this machine reads


def ids(draw: random.Random, model: Model, count: int) -> list[int]:
    return [draw.randrange(model.vocabulary.size) for _ in range(count)]


def timed(engine: Engine) -> float:
    started = time.perf_counter()
    engine.step()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
