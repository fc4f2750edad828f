"""How near the engine, with sampling and text, comes to llama-bench's bare decoding on the same ggml, in turns.

    .venv/bin/python kernels_bench/checks/against_llama_bench.py FOLDER MODEL.gguf

FOLDER holds llama-bench and its libllama, built from the sources llama-cpp-python ships, with libggml-* replaced by those of
the product (.venv/lib/python*/site-packages/llama_cpp/lib): on another ggml the ratio means nothing, so this is checked.
Wanted: decode alone within 3 %, under llama-bench's own conditions, without large pages; the engine, as people use it, 128
tokens ≥ 0.80 ×, 1000 tokens ≥ 0.90 ×. Ends with 1 where a figure misses.
"""

import argparse
import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

from alternate import Rows, Side, amalia, compare, in_turns, pick

WANTED = {128: 0.80, 1000: 0.90}
SAME = 0.03  # so near must our own decode figure come to llama-bench's, above or below: both do the same
ALIKE, THEIRS, OURS = range(3)  # the sides: ours in small pages as llama-bench's, llama-bench, ours


def check_same_ggml(folder: Path) -> None:
    """Refuse a folder whose ggml is not the product's."""
    from amalia_edge.native import library_folder

    for ours in sorted(library_folder().glob("libggml*.so*")):
        theirs = folder / ours.name
        if not theirs.is_file() or _digest(theirs) != _digest(ours):
            sys.exit(f"{theirs}: not the product's; copy {ours} there")
    # What was built elsewhere carries the path of its own libraries inside, and would take those.
    linked = subprocess.run(
        ["ldd", folder / "llama-bench"],
        capture_output=True,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(folder)},
    )
    strangers = [line.strip() for line in linked.stdout.splitlines() if "libggml" in line and f"{folder}/" not in line]
    if linked.returncode or strangers:
        sys.exit(f"{folder / 'llama-bench'}: takes other libraries: {strangers or linked.stderr}")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("folder", type=Path)
    words.add_argument("model")
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("-r", "--repetitions", type=int, default=3, help="within each run")
    words.add_argument("-n", "--generated", type=int, nargs="+", default=list(WANTED))
    words.add_argument("-p", "--prompt", type=int, default=512)
    words.add_argument("-t", "--threads", type=int, help="[default: physical cores]")
    order = words.parse_args()
    order.folder = order.folder.resolve()
    check_same_ggml(order.folder)
    from amalia_edge.device import usable_cores

    threads = str(order.threads or usable_cores())
    enough = []
    for count in order.generated:
        common = ["-p", str(order.prompt), "-n", str(count), "-r", str(order.repetitions), "-t", threads]
        theirs = Side(
            "llama-bench", (str(order.folder / "llama-bench"), "-m", order.model, *common, "-o", "json"), order.folder
        )
        alike, ours = (amalia(sys.executable, [order.model, *common, "--large-pages", word]) for word in ("off", "on"))
        rounds = in_turns([alike, theirs, ours], order.rounds)
        if count == order.generated[0]:
            row = rounds[0][0][0]
            print(f"{row['cpu_info']}, {threads} threads, {row['build_commit']} {row['compiler']}: {row['features']}")
            enough.append(_same("prompt, decode alone", rounds, (order.prompt, 0)))
        enough.append(_same(f"{count} tokens, decode alone", rounds, (0, count)))
        _compare(f"{count} tokens, decode alone in large pages", rounds, OURS, (0, count), "avg_ts", 1 - SAME)
        enough.append(
            _compare(f"{count} tokens, engine with text", rounds, OURS, (0, count), "engine_ts", WANTED.get(count, 0.8))
        )
    sys.exit(0 if all(enough) else 1)


def _same(what: str, rounds: list[list[Rows]], case: tuple[int, int]) -> bool:
    return _compare(what, rounds, ALIKE, case, "avg_ts", 1 - SAME, 1 + SAME)


def _compare(
    what: str,
    rounds: list[list[Rows]],
    side: int,
    case: tuple[int, int],
    figure: str,
    least: float,
    most: float = math.inf,
) -> bool:
    ours = [pick(rows[side], *case)[figure] for rows in rounds]
    theirs = [pick(rows[THEIRS], *case)["avg_ts"] for rows in rounds]
    return compare(what, ours, theirs, least, most)


if __name__ == "__main__":
    main()
