"""The engine beside llama-cpp-python's own `Llama.create_completion(stream=True)`, on the same file and library, in turns.

    .venv/bin/python kernels_bench/checks/against_llama_cpp_python.py MODEL.gguf [-n 1000] [--rounds 3]

Both write the same number of tokens greedily, text included; a token that ends the answer does not. Wanted: ≥ 50 ×.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from alternate import ROOMS, Side, compare, in_turns

WANTED = 50.0
THEIRS = """
import json, sys, time
from llama_cpp import Llama
model, count, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
llama = Llama(model, n_ctx=count + 64, n_threads=threads, verbose=False)
llama._model.token_eos = lambda: -1
import llama_cpp
llama_cpp.llama_vocab_is_eog = lambda *_: False
llama_cpp.llama_token_is_eog = lambda *_: False
started = time.perf_counter()
pieces = sum(1 for _ in llama.create_completion("o mar", max_tokens=count, temperature=0, stream=True))
print(json.dumps([{"avg_ts": pieces / (time.perf_counter() - started), "pieces": pieces}]))
"""


def ours(model: str, count: int, threads: int) -> None:
    sys.path[:0] = ROOMS.split(":")
    from amalia_edge.model import LoadConfig, Model
    from amalia_edge.sampler import SamplingConfig

    with Model.open(model, LoadConfig(context=count + 64, threads=threads)) as opened:
        ids, sampling = opened.prompt("o mar"), SamplingConfig(temperature=0, limit=count, ignore_end=True)
        opened.engine  # noqa: B018  (its context is made before the clock starts, as theirs is)
        started = time.perf_counter()
        pieces = sum(1 for _ in opened.complete(ids, sampling))
        print(json.dumps([{"avg_ts": pieces / (time.perf_counter() - started), "pieces": pieces}]))


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("model")
    words.add_argument("-n", "--generated", type=int, default=1000)
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("-t", "--threads", type=int, default=2)
    words.add_argument("--ours", action="store_true", help="be the measured process")
    order = words.parse_args()
    if order.ours:
        ours(order.model, order.generated, order.threads)
        return
    figures = (order.model, str(order.generated), str(order.threads))
    engine = Side("engine", (sys.executable, __file__, order.model, "-n", figures[1], "-t", figures[2], "--ours"))
    theirs = Side("llama-cpp-python", (sys.executable, "-c", THEIRS, *figures))
    rounds = in_turns([engine, theirs], order.rounds)
    print(f"{Path(order.model).name}: pieces {[[rows[0]['pieces'] for rows in pair] for pair in rounds]}")
    mine, other = ([pair[side][0]["avg_ts"] for pair in rounds] for side in (0, 1))
    sys.exit(0 if compare(f"{order.generated} tokens", mine, other, WANTED) else 1)


if __name__ == "__main__":
    main()
