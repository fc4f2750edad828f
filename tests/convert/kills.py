"""Kill a conversion fifty times at random moments, each time let the same command go on, and compare the files.

    python tests/convert/kills.py [--kills 50] [--seed 1]

Prints one line for each kill: when it struck, how far the journal says the work was, and whether the bytes are the same.
"""

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from random_checkpoint import write_random

from checkpoints import Tiny

# 200 million weights in three shards: some seconds of work, and several marks in the journal.
TINY = Tiny(hidden=1024, feed_forward=4096, layers=10, heads=16, heads_kv=4, head_dim=64, vocabulary=20_000)
LEVELS = "Q8_0,Q4_K_M"
COMMAND = [sys.executable, "-c", "from amalia_edge.cli.door import main; main()", "convert"]


def start(folder: Path, out: Path) -> "subprocess.Popen[bytes]":
    quiet = subprocess.DEVNULL
    return subprocess.Popen([*COMMAND, str(folder), "--to", LEVELS, "--out", str(out)], stdout=quiet, stderr=quiet)


def hashes(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("*.gguf"))}


def progress(out: Path) -> str:
    """Say how far the furthest journal came: its last line."""
    lines = [path.read_text().splitlines() for path in out.glob(".*.journal")] if out.exists() else []
    marks = max((len(one) - 1 for one in lines), default=0)
    return f"{marks} marks" if lines else "no journal"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--kills", type=int, default=50)
    words.add_argument("--seed", type=int, default=1)
    told = words.parse_args()
    moments = random.Random(told.seed)
    with tempfile.TemporaryDirectory() as place:
        folder, whole = Path(place) / "random", Path(place) / "whole"
        write_random(folder, TINY, shards=3)
        began = time.monotonic()
        assert start(folder, whole).wait() == 0
        length, wanted = time.monotonic() - began, hashes(whole)
        print(f"undisturbed: {length:.1f} s, {len(wanted)} files")
        same = struck = 0
        for number in range(told.kills):
            out = Path(place) / f"out-{number}"
            moment = moments.uniform(0, length)
            child = start(folder, out)
            time.sleep(moment)
            child.kill()
            struck += child.wait() < 0
            far, left = progress(out), sorted(path.name for path in out.glob("[!.]*")) if out.exists() else []
            if hashes(out) != wanted or list(out.glob(".*")):
                assert start(folder, out).wait() == 0
            equal = hashes(out) == wanted and len(list(out.iterdir())) == 2 * len(wanted)
            same += equal
            print(
                f"{number + 1:3}  at {moment:5.2f} s, {far}, {len(left)} final files: {'same' if equal else 'DIFFERENT'}"
            )
            for path in out.iterdir():
                path.unlink()
        print(f"{told.kills} kills, {struck} before the end, {same} identical")
        sys.exit(same != told.kills)


if __name__ == "__main__":
    main()
