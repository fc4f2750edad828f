"""Whether the bandwidth we measure is what a plain C loop reads on this machine, in turns, each a process of its own.

    .venv/bin/python kernels_bench/checks/bandwidth_against_c.py [--threads N] [--rounds 7]

Wanted: within 10 %, in the median of the rounds' ratios. Ends with 1 where it is further off.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from alternate import ROOMS

WITHIN = 0.10
OURS = """
import json, sys
from amalia_bench.bandwidth import measure_bandwidth
found = measure_bandwidth(int(sys.argv[1]))
print(json.dumps([found.read_gbps, found.nbytes, len(found.samples_gbps)]))
"""


def compile_loop(folder: Path) -> Path:
    """Compile the C loop for this very processor."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        sys.exit("no C compiler on PATH: install gcc or clang")
    program, source = folder / "read", Path(__file__).with_name("read.c")
    subprocess.run([compiler, "-O3", "-march=native", "-pthread", "-o", program, source], check=True)
    return program


def run(words: Sequence[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": ROOMS}
    return subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout


def main() -> None:
    from amalia_bench.bandwidth import buffer_size, typical
    from amalia_edge.device import usable_cores

    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("-t", "--threads", type=int, default=usable_cores())
    words.add_argument("--rounds", type=int, default=7)
    order = words.parse_args()
    nbytes, samples = buffer_size(), 9
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        loop = str(compile_loop(Path(folder)))
        for count in range(order.rounds):
            sides = ["ours", "c"] if count % 2 == 0 else ["c", "ours"]
            figures = {}
            for side in sides:
                if side == "ours":
                    figures[side], nbytes, samples = json.loads(run([sys.executable, "-c", OURS, str(order.threads)]))
                else:
                    figures[side] = typical(
                        [float(x) for x in run([loop, str(order.threads), str(nbytes), str(samples)]).split()]
                    )
            ratios.append(figures["ours"] / figures["c"])
            print(f"{count + 1}: ours {figures['ours']:.2f}, C {figures['c']:.2f} GB/s, {ratios[-1]:.3f} ×", flush=True)
    ratio = statistics.median(ratios)
    good = abs(ratio - 1) <= WITHIN
    print(
        f"{order.threads} threads, {nbytes / 1e9:.2f} GB: {ratio:.3f} ×, wanted 1 ± {WITHIN:.2f}: {'yes' if good else 'NO'}"
    )
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
