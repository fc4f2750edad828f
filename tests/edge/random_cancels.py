"""A thousand requests with random cancels: every slot is free again, and memory does not grow.

    python tests/edge/random_cancels.py [MODEL] [--requests 1000]

Requests have prompts of random lengths, are cancelled while waiting, reading or writing, from inside and by the flag
others set, or run to their end. Ends with 1 if a slot is not free, or if the resident memory after the last hundred
requests is more than 2 % above that after the first two hundred.
"""

import argparse
import gc
import random
import sys
from pathlib import Path

from amalia_edge.engine import Engine, Sequence
from amalia_edge.model import LoadConfig, Model
from amalia_edge.sampler import SamplingConfig
from amalia_edge.store import find

MOST_GROWTH, WARM = 0.02, 200


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("model", nargs="?", default="fadinho")
    words.add_argument("--requests", type=int, default=1000)
    order = words.parse_args()
    with Model.open(find(order.model), LoadConfig(context=512, sequences=8)) as model:
        engine = Engine(model, queue=8)
        draw, running, ends, sizes = random.Random(1), list[Sequence](), dict[str, int](), list[int]()
        started = 0
        while started < order.requests or engine.active:
            while started < order.requests and engine.active < 16 and draw.random() < 0.7:
                running.append(engine.submit(prompt(draw, model), sampling(draw)))
                started += 1
                if started % 100 == 0:
                    gc.collect()
                    sizes.append(resident())
            if running and draw.random() < 0.3:
                chosen = draw.choice(running)
                if draw.random() < 0.5:
                    engine.cancel(chosen)
                else:
                    chosen.unwanted = True
            engine.step()
            for sequence in [sequence for sequence in running if sequence.finish]:
                running.remove(sequence)
                ends[str(sequence.finish)] = ends.get(str(sequence.finish), 0) + 1
        leaked = sum(slot.sequence is not None for slot in engine._slots)
    warm, last = sizes[WARM // 100 - 1], sizes[-1]
    print(f"{started} requests: {ends}; {leaked} slots leaked")
    print(f"resident, MB: {[round(size / 1e6, 1) for size in sizes]}; {last / warm - 1:+.2%} since request {WARM}")
    sys.exit(1 if leaked or last > warm * (1 + MOST_GROWTH) else 0)


def prompt(draw: random.Random, model: Model) -> list[int]:
    return [draw.randrange(model.vocabulary.size) for _ in range(draw.randint(1, 300))]


def sampling(draw: random.Random) -> SamplingConfig:
    penalty = draw.choice([1.0, 1.1])
    return SamplingConfig(limit=draw.randint(1, 40), seed=draw.randrange(1000), repeat_penalty=penalty, stop=("zz",))


def resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * 4096


if __name__ == "__main__":
    main()
