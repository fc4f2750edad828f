"""How near the engine comes to llama.cpp's own tools on the same ggml, sampling and text included; in turns.

    .venv/bin/python kernels_bench/checks/engine_against_llama.py FOLDER MODEL.gguf [--small] [--rounds 5]

FOLDER holds llama-bench and llama-batched-bench as `against_llama_bench.py` wants them. One sequence against llama-bench
(its tests decode only), then eight and, with `--most 32`, more at once against llama-batched-bench with the same prompts
and the same layout of keys and values. `--small` asks what a small model must reach. Ends with 1 where it is less.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from against_llama_bench import check_same_ggml
from alternate import Rows, Side, compare, in_turns

WANTED = {"greedy generation": 0.98, "top-k 40 generation": 0.97, "greedy prompt": 0.97, "eight at once": 0.95}
WANTED_SMALL = {"greedy generation": 0.88, "top-k 40 generation": 0.0, "greedy prompt": 0.0, "eight at once": 0.0}
RATES = Path(__file__).with_name("engine_rates.py")


class BatchedBench(Side):
    """llama-batched-bench, whose lines are of its own kind."""

    def run(self) -> Rows:
        done = subprocess.run(
            self.command, capture_output=True, text=True, env={"LD_LIBRARY_PATH": str(self.libraries), "PATH": "/bin"}
        )
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or not lines:
            sys.exit(f"{self.name}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        return [json.loads(line) for line in lines]


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("folder", type=Path)
    words.add_argument("model")
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("-r", "--repetitions", type=int, default=2, help="within each run")
    words.add_argument("-n", "--generated", type=int, default=128)
    words.add_argument("--small", action="store_true")
    words.add_argument("--most", type=int, default=8, help="sequences at once")
    words.add_argument("-t", "--threads", type=int, help="[default: physical cores]")
    order = words.parse_args()
    order.folder = order.folder.resolve()
    check_same_ggml(order.folder)
    from amalia_edge.device import usable_cores

    order.threads = order.threads or usable_cores()
    wanted = WANTED_SMALL if order.small else WANTED
    enough = one_sequence(order, wanted)
    for count in sorted({8, order.most}):
        enough += many_sequences(order, wanted, count)
    sys.exit(0 if all(enough) else 1)


def one_sequence(order: argparse.Namespace, wanted: dict[str, float]) -> list[bool]:
    common = ["-p", "512", "-n", str(order.generated), "-r", str(order.repetitions), "-t", str(order.threads)]
    theirs = Side(
        "llama-bench", (str(order.folder / "llama-bench"), "-m", order.model, *common, "-o", "json"), order.folder
    )
    rounds = in_turns([rates(order.model, common), theirs], order.rounds)
    enough = []
    for what, chain, case in (
        ("generation", "greedy", (0, order.generated)),
        ("generation", "top-k 40", (0, order.generated)),
        ("prompt", "greedy", (512, 0)),
    ):
        ours = [row["avg_ts"] for rows in rounds for row in rows[0] if (row["chain"], row["what"]) == (chain, what)]
        bench = [row["avg_ts"] for rows in rounds for row in rows[1] if (row["n_prompt"], row["n_gen"]) == case]
        enough.append(compare(f"{chain} {what}", ours, bench, wanted[f"{chain} {what}"]))
    return enough


def many_sequences(order: argparse.Namespace, wanted: dict[str, float], count: int) -> list[bool]:
    prompt, room = 128, -(-(128 + order.generated + 8) // 256) * 256 * count
    common = ["-p", str(prompt), "-n", str(order.generated), "-r", "1", "-t", str(order.threads)]
    shape = ["-npp", str(prompt), "-ntg", str(order.generated), "-npl", str(count), "-c", str(room), "-b", "2048"]
    threads = ["-ub", "512", "-no-kvu", "-t", str(order.threads), "--output-format", "jsonl"]
    theirs = BatchedBench(
        "llama-batched-bench",
        (str(order.folder / "llama-batched-bench"), "-m", order.model, *shape, *threads),
        order.folder,
    )
    many = [*common, "--parallel", str(count), "--chains", "top-k 40", "penalties"]
    rounds = in_turns([rates(order.model, many), theirs], order.rounds)
    enough = []
    for chain in ("top-k 40", "penalties"):
        for what, theirs_name in (("generation", "speed_tg"), ("whole", "speed")):
            ours = [row["avg_ts"] for rows in rounds for row in rows[0] if (row["chain"], row["what"]) == (chain, what)]
            bench: list[Any] = [rows[1][0][theirs_name] for rows in rounds]
            asked = wanted["eight at once"] if (count, chain) == (8, "top-k 40") else 0.0
            enough.append(compare(f"{count} at once, {chain}, {what}", ours, bench, asked))
    return enough


def rates(model: str, words: list[str]) -> Side:
    return Side("engine", (sys.executable, str(RATES), model, *words))


if __name__ == "__main__":
    main()
