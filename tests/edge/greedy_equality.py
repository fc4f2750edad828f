"""Fifty prompts, greedily: the engine's ids beside those of a plain libllama loop that reads the same chunks.

    python tests/edge/greedy_equality.py [MODEL] [--prompts 50] [--tokens 48]

Alone, beside seven others, and after the first half of each prompt was restored from disk: equal. With other
chunks, the first token that differs is one where the two best lay within 0.05. Ends with 1 where that does not hold.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amalia_edge.context import Context
from amalia_edge.engine import Engine
from amalia_edge.model import LoadConfig, Model
from amalia_edge.sampler import SamplingConfig
from amalia_edge.state_file import read_state, write_state
from amalia_edge.store import find

WORDS = [
    "o",
    "mar",
    "a",
    "terra",
    "um",
    "barco",
    "na",
    "praia",
    "de",
    "Lisboa",
    "quando",
    "era",
    "menina",
    "dizia",
    "que",
    "ia",
    "ver",
    "as",
    "gaivotas",
    "e",
    "o",
    "farol",
    "porque",
    "ninguém",
    "sabe",
    "onde",
    "fica",
    "a",
    "ilha",
    "nem",
    "quem",
    "lá",
    "mora",
    "há",
    "muito",
    "tempo",
]
NARROW = 0.05


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("model", nargs="?", default="fadinho")
    words.add_argument("--prompts", type=int, default=50)
    words.add_argument("--tokens", type=int, default=48)
    order = words.parse_args()
    path = find(order.model)
    sampling = SamplingConfig(temperature=0, limit=order.tokens, ignore_end=True)
    one, eight = (LoadConfig(context=512, sequences=count, micro_batch=64) for count in (1, 8))
    with Model.open(path, one) as model, Model.open(path, eight) as many:
        prompts = [prompt(model, seed) for seed in range(order.prompts)]
        plain = [plain_loop(model, ids, order.tokens, chunks(0, len(ids), 64))[0] for ids in prompts]
        failures = [
            told("alone", [alone(model.engine, ids, sampling) for ids in prompts], plain),
            told("beside seven others", *in_eights(many, prompts, sampling)),
            restored(model, prompts, sampling),
            other_chunks(model, prompts, plain, order.tokens),
        ]
    sys.exit(1 if any(failures) else 0)


def prompt(model: Model, seed: int) -> list[int]:
    draw = random.Random(seed)
    return model.prompt(" ".join(draw.choices(WORDS, k=draw.randint(2, 30))))[:200]


def chunks(start: int, end: int, size: int) -> list[int]:
    """Give the borders of the chunks that the tokens from `start` to `end` are read in."""
    return [*range(start, end, size), end]


def plain_loop(model: Model, ids: list[int], count: int, borders: Sequence[int]) -> tuple[list[int], list[float]]:
    """Decode with libllama's own functions and numpy's argmax; give the ids, and how far apart the two best lay."""
    context, made, margins = Context(model.pointer, 512, model.threads, LoadConfig(micro_batch=64)), [], []
    for start, end in pairwise(borders):
        context.decode(ids[start:end], start)
    for place in range(len(ids), len(ids) + count):
        row: NDArray[np.float32] = context.row(-1, model.vocabulary.size)
        second, best = np.partition(row, -2)[-2:]
        made.append(int(row.argmax()))
        margins.append(float(best - second))
        context.decode(made[-1:], place)
    context.close()
    return made, margins


def alone(engine: Engine, ids: list[int], sampling: SamplingConfig) -> list[int | None]:
    engine._rewind(engine._slots[0], 0)  # or what the prompt before had in common would move the chunks
    return [piece.token for piece in engine.stream(engine.submit(ids, sampling))]


def in_eights(
    model: Model, prompts: list[list[int]], sampling: SamplingConfig
) -> tuple[list[list[int]], list[list[int]]]:
    """Give what eight at once say, and the plain loop after each prompt was read in the chunks it was read in there."""
    found, wanted = [], []
    for start in range(0, len(prompts), 8):
        engine = Engine(model, somebody_waits=lambda: False)
        sequences = [engine.submit(ids, sampling) for ids in prompts[start : start + 8]]
        borders = [{0} for _ in sequences]
        while engine.active:
            engine.step()
            for sequence, passed in zip(sequences, borders, strict=True):
                passed.add(min(sequence.decoded, sequence.prompt_tokens))
        engine.close()
        for sequence, passed in zip(sequences, borders, strict=True):
            ids = sequence.ids[: sequence.prompt_tokens]
            found.append(sequence.ids[sequence.prompt_tokens :])
            wanted.append(plain_loop(model, ids, sequence.generated, sorted(passed))[0])
    return found, wanted


def restored(model: Model, prompts: list[list[int]], sampling: SamplingConfig) -> int:
    """Save the memory of half a prompt, restore it into another engine, and go on there."""
    wanted, found = [], []
    first, second = Engine(model), Engine(model)
    for ids in prompts:
        half = len(ids) // 2
        for engine in (first, second):
            engine._rewind(engine._slots[0], 0)
        list(first.stream(first.submit(ids[:half], SamplingConfig(limit=0))))
        data = first.saved(ids[:half])
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "prompt.state"
            if data is None or not write_state(file, b"key", ids[:half], data):
                sys.exit("the memory was not saved")
            if not second.restore(ids[:half], read_state(file, b"key", ids[:half])):
                sys.exit("the memory was not restored")
        sequence = second.submit(ids, sampling)
        found.append([piece.token for piece in second.stream(sequence)])
        if sequence.reused != half:
            sys.exit(f"{sequence.reused} tokens reused, {half} restored")
        borders = [*chunks(0, half, 64), *chunks(half, len(ids), 64)[1:]]
        wanted.append(plain_loop(model, ids, sampling.limit or 0, borders)[0])
    first.close()
    second.close()
    return told("after restoring half of the prompt", found, wanted)


def other_chunks(model: Model, prompts: list[list[int]], plain: list[list[int]], count: int) -> int:
    """Read in chunks of seven; give how many answers differ first where the two best were not near each other."""
    differ, wide = 0, 0
    for ids, wanted in zip(prompts, plain, strict=True):
        made, margins = plain_loop(model, ids, count, chunks(0, len(ids), 7))
        place = next((place for place, pair in enumerate(zip(made, wanted, strict=True)) if pair[0] != pair[1]), None)
        if place is not None:
            differ += 1
            wide += margins[place] >= NARROW
    print(
        f"other chunks: {differ} of {len(prompts)} differ, {wide} of them where the two best were {NARROW} apart or more"
    )
    return wide


def told(what: str, found: Sequence[Sequence[int | None]], wanted: Sequence[Sequence[int]]) -> int:
    unequal = sum(list(one) != list(other) for one, other in zip(found, wanted, strict=True))
    print(f"{what}: {len(wanted) - unequal} of {len(wanted)} equal", flush=True)
    return unequal


if __name__ == "__main__":
    main()
