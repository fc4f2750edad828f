"""Whether `amalia bench quality` finds what llama-perplexity finds on the same ggml, and reads what it writes.

    .venv/bin/python kernels_bench/checks/against_llama_perplexity.py FOLDER BASE.gguf LEVEL.gguf [--text FILE]

FOLDER holds llama-bench and llama-perplexity as `against_llama_bench.py` wants them. Wanted: perplexity within 0.1 %, mean KLD
within 1 % or 1e-6, same top within 0.1 points, also where either reads the other's logits file; a model against itself
has a KLD below 1e-6 and the same top always; through the file, which rounds, the same top in 99.9 %. Ends with 1 where
it is otherwise.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from against_llama_bench import check_same_ggml

PERPLEXITY, DIVERGENCE, DIVERGENCE_FLOOR, TOP = 0.001, 0.01, 1e-6, 0.001  # relative, relative, nats, share
FIGURES = {
    "ppl": (r"Mean PPL\(Q\) +: +([\d.]+)", 1.0),
    "ppl_base": (r"Mean PPL\(base\) +: +([\d.]+)", 1.0),
    "mean_kld": (r"Mean +KLD: +(-?[\d.]+)", 1.0),
    "median_kld": (r"Median +KLD: +(-?[\d.]+)", 1.0),
    "max_kld": (r"Maximum KLD: +(-?[\d.]+)", 1.0),
    "rms_dp": (r"RMS Δp +: +([\d.]+)", 0.01),
    "same_top": (r"Same top p: +([\d.]+)", 0.01),
}


@dataclass(frozen=True)
class Peer:
    """llama-perplexity on one text."""

    folder: Path
    text: Path
    context: int
    threads: int

    def run(self, model: Path, *words: str) -> str:
        command = [str(self.folder / "llama-perplexity"), "-m", str(model), "-f", str(self.text), "--no-escape"]
        done = subprocess.run(
            [*command, "-c", str(self.context), "-t", str(self.threads), *words],
            capture_output=True,
            text=True,
            env={**os.environ, "LD_LIBRARY_PATH": str(self.folder)},
        )
        if done.returncode:
            sys.exit(f"llama-perplexity: exit code {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout + done.stderr

    def compare(self, level: Path, logits: Path) -> dict[str, float]:
        """Give its figures for a level against a logits file."""
        told = self.run(level, "--kl-divergence-base", str(logits), "--kl-divergence")
        figures = {}
        for name, (pattern, unit) in FIGURES.items():
            found = re.search(pattern, told)
            if found is None:
                sys.exit(f"llama-perplexity told no {name}:\n{told[-2000:]}")
            figures[name] = float(found[1]) * unit
        return figures


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("folder", type=Path)
    words.add_argument("base", type=Path)
    words.add_argument("level", type=Path)
    words.add_argument("--text", type=Path, help="[default: our Portuguese text]")
    words.add_argument("-c", "--context", type=int, default=512)
    words.add_argument("-t", "--threads", type=int, help="[default: physical cores]")
    order = words.parse_args()
    order.folder = order.folder.resolve()
    check_same_ggml(order.folder)
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(0 if all(check(order, Path(scratch))) else 1)


def check(order: argparse.Namespace, scratch: Path) -> list[bool]:
    from amalia_bench.texts import embedded, read_text
    from amalia_edge.device import usable_cores

    threads, path = order.threads or usable_cores(), scratch / "text.txt"
    text = read_text(order.text) if order.text else embedded()["pt-PT"]
    path.write_bytes(text.text.encode() + b"\n")  # which is dropped again
    peer, ours, theirs = (
        Peer(order.folder, path, order.context, threads),
        scratch / "ours.logits",
        scratch / "theirs.logits",
    )

    def measured(base: Path, level: Path, logits: Path | None = None) -> Mapping[str, Any]:
        from amalia_bench.quality import QualityConfig, Wish, measure_quality

        config = QualityConfig(context=order.context, logits=logits, threads=threads)
        (found,) = measure_quality(Wish(base, [level], [read_text(path)]), config)
        return found.body

    told = peer.run(order.base, "--kl-divergence-base", str(theirs))
    final = re.search(r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)", told)
    if final is None:
        sys.exit(f"llama-perplexity told no perplexity:\n{told[-2000:]}")
    reference = peer.compare(order.level, theirs)
    in_memory = measured(order.base, order.level)
    print(f"{in_memory['windows']} windows of {order.context} tokens; {order.base.name} → {order.level.name}")
    enough = [near("perplexity of the base, in memory", in_memory["ppl_base"], float(final[1]), PERPLEXITY)]
    enough += [near("its standard error", in_memory["ppl_base_stderr"], float(final[2]), DIVERGENCE)]
    enough += agree("in memory", in_memory, reference)
    enough += agree("our file, read by us", measured(order.base, order.level, ours), reference)
    enough += agree("their file, read by us", measured(theirs, order.level), reference)
    enough += agree("our file, read by them", peer.compare(order.level, ours), reference)
    print(f"   files: {different(ours, theirs)} of {theirs.stat().st_size} bytes differ")
    for where, itself, most, least in (
        ("in memory", measured(order.base, order.base), DIVERGENCE_FLOOR, 1.0),
        ("through their file", measured(theirs, order.base), float("inf"), 0.999),
    ):
        fine = abs(itself["mean_kld"]) < most and itself["same_top"] >= least
        print(
            f"itself, {where}: KLD {itself['mean_kld']:.2e}, same top {itself['same_top']:.3%}: {'yes' if fine else 'NO'}"
        )
        enough.append(fine)
    return enough


def agree(where: str, ours: Mapping[str, float], theirs: Mapping[str, float]) -> list[bool]:
    """Compare what is promised, and print the rest beside it."""
    enough = [
        near(f"perplexity, {where}", ours["ppl"], theirs["ppl"], PERPLEXITY),
        near(f"mean KLD, {where}", ours["mean_kld"], theirs["mean_kld"], DIVERGENCE, DIVERGENCE_FLOOR),
        near(f"same top, {where}", ours["same_top"], theirs["same_top"], 0.0, TOP),
    ]
    rest = ("ppl_base", "median_kld", "max_kld", "rms_dp")
    print("   " + ", ".join(f"{name} {ours[name]:.6f} / {theirs[name]:.6f}" for name in rest), flush=True)
    return enough


def near(what: str, ours: float, theirs: float, share: float, least: float = 0.0) -> bool:
    fine = abs(ours - theirs) <= max(abs(theirs) * share, least) * (1 + 1e-9)
    print(f"{what}: {ours:.6f}, theirs {theirs:.6f}: {'yes' if fine else 'NO'}")
    return fine


def different(ours: Path, theirs: Path) -> int:
    """Count the bytes in which two files differ."""
    import numpy as np

    one, other = np.fromfile(ours, np.uint8), np.fromfile(theirs, np.uint8)
    same = min(len(one), len(other))
    return int((one[:same] != other[:same]).sum()) + abs(len(one) - len(other))


if __name__ == "__main__":
    main()
