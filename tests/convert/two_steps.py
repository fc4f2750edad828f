"""Time our one pass against llama.cpp's two steps on the same checkpoint, in turns, and give ratios and peak memory.

    python tests/convert/random_checkpoint.py CHECKPOINT
    python tests/convert/two_steps.py CHECKPOINT --converter convert_hf_to_gguf.py --python PYTHON_WITH_TORCH \\
        --quantize llama-quantize [--rounds 3] [--out FOLDER]

Two steps: convert_hf_to_gguf.py to bf16, then llama-quantize for each level. The 16-bit file is made once a round and
counted for each level alone, and once for all of them together.
"""

import argparse
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

LEVELS = ("Q4_0", "Q8_0", "Q4_K_M")
OURS = (sys.executable, "-c", "from amalia_edge.cli.door import main; main()", "convert")


def timed(command: list[str], log: Path) -> tuple[float, int]:
    """Run a command; give its seconds and its peak of resident memory, mapped pages counted, in bytes."""
    began = time.monotonic()
    with log.open("ab") as file:
        child = os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, file.fileno(), 1), (os.POSIX_SPAWN_DUP2, file.fileno(), 2)],
        )
        _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit(f"{command} failed; see {log}")
    return time.monotonic() - began, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("checkpoint", type=Path)
    words.add_argument("--converter", required=True)
    words.add_argument("--python", required=True, help="a Python with torch, transformers and gguf")
    words.add_argument("--quantize", required=True)
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--threads", default=str(os.cpu_count()))
    words.add_argument("--out", type=Path, default=Path("two-steps"))
    told = words.parse_args()
    out, log = told.out, told.out.with_suffix(".log")
    ratios: dict[str, list[float]] = {}
    peaks: dict[str, int] = {}

    def run(name: str, *command: str) -> float:
        seconds, peak = timed(list(map(str, command)), log)
        peaks[name] = max(peaks.get(name, 0), peak)
        print(f"{name:18} {seconds:7.1f} s  {peak / 1e6:6.0f} MB", flush=True)
        return seconds

    for _ in range(told.rounds):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        precise = out / "two-bf16.gguf"
        first = run(
            "two: bf16", told.python, told.converter, told.checkpoint, "--outtype", "bf16", "--outfile", precise
        )
        theirs = {}
        for level in LEVELS:
            quantized = out / f"two-{level}.gguf"
            theirs[level] = run(f"two: {level}", told.quantize, precise, quantized, level, told.threads)
            quantized.unlink()
            alone = run(f"ours: {level}", *OURS, told.checkpoint, "--to", level, "--out", out / level)
            ratios.setdefault(level, []).append((first + theirs[level]) / alone)
            left = {path.suffix for path in (out / level).iterdir()}
            assert left == {".gguf", ".json"}, left
        together = run("ours: all three", *OURS, told.checkpoint, "--to", ",".join(LEVELS), "--out", out / "all")
        ratios.setdefault("all three", []).append((first + sum(theirs.values())) / together)
    print()
    for name, values in ratios.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"two steps ÷ ours, {name:10} {statistics.mean(values):6.2f} ± {spread:.2f}   ({len(values)} rounds)")
    print(f"peak memory: ours {max(peak for name, peak in peaks.items() if name.startswith('ours')) / 1e6:.0f} MB")
    shutil.rmtree(out)


if __name__ == "__main__":
    main()
