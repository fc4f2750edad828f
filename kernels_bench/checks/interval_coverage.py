"""How often a 95 % interval holds the figure it is about: of a tenth of a text's windows, the figure of the whole.

    .venv/bin/python kernels_bench/checks/interval_coverage.py BASE LEVEL [--text FILE] [--context 64] [--tenths 400]

BASE and LEVEL are GGUF files of one model (`amalia convert fadinho --to BF16,Q4_K_M`). Three ways to draw a tenth:

- without replacement, from a finite text: a tenth is nearer to its whole than to a longer text of the same sort, by
  √0.9, so that a right 95 % interval holds the whole's figure 96.1 % of the time;
- with replacement: the text stands for all texts of its sort, and a right interval holds 95 %;
- windows in a row, which are of one register: told, not judged. An interval speaks of text like the one that was read.

Windows are short, so that a tenth has enough of them. Ends with 1 where one of the first two is not 92 to 98 %.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amalia_bench.divergence import BaseLogits, Tokens, diverge
from amalia_bench.intervals import Interval, block_bootstrap, paired, proportion
from amalia_bench.passage import passage
from amalia_bench.perplexity import WindowReader, load_config
from amalia_bench.texts import Text, embedded, read_text
from amalia_edge.model import Model

WANTED = (0.92, 0.98)
Draw = Callable[[int, int], NDArray[Any]]


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("base", type=Path)
    words.add_argument("level", type=Path)
    words.add_argument("--text", type=Path)
    words.add_argument("--context", type=int, default=64)
    words.add_argument("--tenths", type=int, default=400)
    order = words.parse_args()
    text = read_text(order.text) if order.text else embedded()["pt-PT"]
    tokens = read(order.base, order.level, text, order.context)
    windows = int(tokens.window.max()) + 1
    print(f"{order.level.name} against {order.base.name}, {text.name}: {windows} windows of {order.context} tokens")
    right = [judge(tokens, way, draw, order.tenths, judged) for way, draw, judged in ways()]
    sys.exit(0 if all(right) else 1)


def ways() -> list[tuple[str, Draw, bool]]:
    random = np.random.default_rng(0)
    return [
        ("without replacement", lambda number, tenth: random.choice(number, tenth, replace=False), True),
        ("with replacement", lambda number, tenth: random.integers(number, size=tenth), True),
        ("in a row", lambda number, tenth: (random.integers(number) + np.arange(tenth)) % number, False),
    ]


def read(base: Path, level: Path, text: Text, context: int) -> Tokens:
    """Read a text with both models, side by side."""
    load, found = load_config(context), []
    with (
        Model.open(base, load) as one,
        Model.open(level, load) as other,
        WindowReader(one) as told,
        WindowReader(other) as said,
    ):
        windows = passage(one, text, context, None).windows
        for ours, theirs in zip(told.read(windows), said.read(windows), strict=True):
            found.append(diverge(BaseLogits(ours.logits), theirs, level.name))
    return Tokens.joined(found)


def judge(tokens: Tokens, way: str, draw: Draw, tenths: int, judged: bool) -> bool:
    """Print how often each figure's interval holds the whole's, and say whether that is as often as wanted."""
    number = int(tokens.window.max()) + 1
    places = [np.flatnonzero(tokens.window == window) for window in range(number)]
    held: dict[str, list[bool]] = {}
    for _ in range(tenths):
        chosen = [places[window] for window in draw(number, number // 10)]
        here, blocks = np.concatenate(chosen), np.repeat(np.arange(len(chosen)), list(map(len, chosen)))
        for name, (interval, whole) in figures(tokens, here, blocks).items():
            held.setdefault(name, []).append(interval.low <= whole <= interval.high)
    shares = {name: float(np.mean(hits)) for name, hits in held.items()}
    print(f"  {way}: " + ", ".join(f"{name} {share:.2%}" for name, share in shares.items()))
    return not judged or all(WANTED[0] <= share <= WANTED[1] for share in shares.values())


def figures(tokens: Tokens, here: NDArray[Any], blocks: NDArray[Any]) -> dict[str, tuple[Interval, float]]:
    """Give each figure's interval by some tokens, and the figure of all."""
    loss = tokens.nll - tokens.nll_base
    return {
        "mean KLD": (block_bootstrap(tokens.kld[here], blocks), float(tokens.kld.mean())),
        "delta NLL": (paired(tokens.nll[here], tokens.nll_base[here], blocks), float(loss.mean())),
        "same top": (proportion(tokens.same_top[here], blocks), float(tokens.same_top.mean())),
    }


if __name__ == "__main__":
    main()
