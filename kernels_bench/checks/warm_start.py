"""How soon the first token comes when the system prompt's state lies on disk, beside reading it anew.

    .venv/bin/python kernels_bench/checks/warm_start.py MODEL.gguf

Each run is a process of its own, in turns: cold, warm, and warm after the kernel has dropped the file's pages, as after
a reboot. The clock starts when the model is loaded. Wanted: warm ≤ 0.15 × cold. Ends with 1 where it is more.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from alternate import ROOMS

WANTED = 0.15
ASKED = 24  # tokens of the user's turn, read in any case
SIDES = ("cold", "warm", "dropped")


def run(order: argparse.Namespace) -> dict[str, Any]:
    """Answer once, and give what it took from the loaded model to the first token."""
    import numpy as np

    from amalia_edge.model import LoadConfig, Model
    from amalia_edge.sampler import SamplingConfig
    from amalia_edge.state import StateStore, Warmth

    store, tokens = StateStore(order.folder, warn=sys.exit), order.tokens
    with Model.open(order.model, LoadConfig(context=order.context, threads=order.threads)) as model:
        draw = np.random.default_rng(0)
        ids = draw.integers(300, model.vocabulary.size, tokens + ASKED).tolist()
        engine, warmth = model.engine, Warmth()
        if order.side == "dropped":
            for state in store.states():
                drop(state.path)
        if order.side != "cold":
            warmth = store.warm(model, ids[:tokens])
        answer = engine.submit(ids, SamplingConfig(temperature=0, limit=8, ignore_end=True))
        for _ in engine.stream(answer):
            pass
        first_s = warmth.seconds + (answer.first_token_s or 0.0)
        return {
            "first_s": first_s, "warm_s": warmth.seconds, "restored": warmth.restored, "saved": warmth.saved,
            "nbytes": sum(state.nbytes for state in store.states()), "ids": answer.ids[-8:],
        }  # fmt: skip


def drop(path: Path) -> None:
    """Let the kernel forget a file's pages."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def in_process(side: str, order: argparse.Namespace, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, order.model, "--side", side, "--folder", str(folder)]
    command += ["--tokens", str(order.tokens), "--context", str(order.context), "--threads", str(order.threads)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ROOMS})
    if done.returncode:
        sys.exit(f"{side}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def report(what: str, ratios: list[float]) -> bool:
    """Print the ratio of each pair, and their mean with its spread."""
    mean, spread = statistics.fmean(ratios), statistics.stdev(ratios) if len(ratios) > 1 else 0.0
    print(f"{what}: {mean:.4f} ± {spread:.4f} × cold, wanted ≤ {WANTED:.2f}: {'yes' if mean <= WANTED else 'NO'}")
    print("   ratios " + " ".join(f"{ratio:.4f}" for ratio in ratios), flush=True)
    return mean <= WANTED


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("model")
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--tokens", type=int, default=1000, help="of the system prompt")
    words.add_argument("--context", type=int, default=2048)
    words.add_argument("-t", "--threads", type=int, help="[default: physical cores]")
    words.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    words.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    order = words.parse_args()
    if order.side:
        print(json.dumps(run(order)))
        return
    from amalia_edge.device import usable_cores

    order.threads = order.threads or usable_cores()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as place:
        folder = Path(place)
        first = in_process("warm", order, folder)  # the one that saves
        if not first["saved"]:
            sys.exit("nothing was saved")
        print(f"saved: {first['nbytes']:,} bytes, {first['nbytes'] / order.tokens:,.0f} for each token")
        rounds = []
        for count in range(order.rounds):
            names = SIDES if count % 2 == 0 else SIDES[::-1]
            rounds.append({side: in_process(side, order, folder) for side in names})
            print(f"round {count + 1} of {order.rounds}", file=sys.stderr, flush=True)
    for side in SIDES:
        print(f"{side}: first token after " + " ".join(f"{taken[side]['first_s']:.3f}" for taken in rounds) + " s")
    if any(taken[side]["ids"] != first["ids"] for taken in rounds for side in ("warm", "dropped")):
        sys.exit("the answer after a restored state is another one")
    if any(taken[side]["restored"] != order.tokens for taken in rounds for side in ("warm", "dropped")):
        sys.exit("a state was not restored")
    for side in SIDES[1:]:
        speeds = [first["nbytes"] / taken[side]["warm_s"] / 1e9 for taken in rounds]
        print(f"{side}: restored with " + " ".join(f"{speed:.2f}" for speed in speeds) + " GB/s, checksum included")
    good = [report(side, [taken[side]["first_s"] / taken["cold"]["first_s"] for taken in rounds]) for side in SIDES[1:]]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
