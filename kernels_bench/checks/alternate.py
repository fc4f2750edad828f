"""Two sides measured in turns, A B A B, each run a process of its own; what counts is the ratio within a pair.

A side is a command that prints llama-bench's rows as JSON: llama-bench itself, or `amalia bench speed -o json`.
"""

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ROOMS = os.pathsep.join(str(ROOT / room) for room in ("edge", "convert", "kernels_bench"))
sys.path[:0] = ROOMS.split(os.pathsep)  # the checks run from a checkout, installed or not
BENCH = "from amalia_bench.cli.door import bench; bench()"

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Side:
    name: str
    command: tuple[str, ...]
    libraries: Path | None = None  # where the dynamic linker is to look first

    def run(self) -> Rows:
        """Run once and give the rows; a side that fails ends the check with its last words."""
        environment = {**os.environ, "PYTHONPATH": ROOMS}
        if self.libraries:
            environment["LD_LIBRARY_PATH"] = str(self.libraries)
        done = subprocess.run(self.command, capture_output=True, text=True, env=environment)
        if done.returncode:
            sys.exit(f"{self.name}: exit code {done.returncode}\n{done.stderr[-2000:]}")
        rows: Rows = json.loads(done.stdout)
        return rows


def amalia(python: str, words: Sequence[str], name: str = "amalia") -> Side:
    """Give `amalia bench speed` as the interpreter `python` runs it, with this checkout's code."""
    return Side(name, (python, "-c", BENCH, "speed", *words, "-o", "json"))


def in_turns(sides: Sequence[Side], rounds: int) -> list[list[Rows]]:
    """Run all sides `rounds` times in turns; each second round begins with the other one, since a warm machine slows."""
    results: list[list[Rows]] = []
    for count in range(rounds):
        order = list(enumerate(sides))
        taken = {index: side.run() for index, side in (order if count % 2 == 0 else order[::-1])}
        results.append([taken[index] for index in range(len(sides))])
        print(f"round {count + 1} of {rounds}", file=sys.stderr, flush=True)
    return results


def pick(rows: Rows, prompt: int, generated: int) -> Mapping[str, Any]:
    return next(row for row in rows if (row["n_prompt"], row["n_gen"]) == (prompt, generated))


def compare(what: str, ours: Sequence[float], theirs: Sequence[float], least: float, most: float = math.inf) -> bool:
    """Print every sample of both sides, and the ratio of each pair with its spread; say whether the mean is enough."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(ratios)
    stdev = statistics.stdev(ratios) if len(ratios) > 1 else 0.0
    enough, wanted = least <= mean <= most, f"≥ {least:.2f}" if most == math.inf else f"{least:.2f} to {most:.2f}"
    print(f"{what}: {mean:.3f} ± {stdev:.3f} ×, wanted {wanted}: {'yes' if enough else 'NO'}")
    print("   ours   " + " ".join(f"{value:.2f}" for value in ours))
    print("   theirs " + " ".join(f"{value:.2f}" for value in theirs))
    print("   ratios " + " ".join(f"{value:.3f}" for value in ratios), flush=True)
    return enough
