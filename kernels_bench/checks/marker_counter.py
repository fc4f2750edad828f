"""Precision and recall of the marker counter on a file of labelled sentences, with every false find and every miss.

    .venv/bin/python kernels_bench/checks/marker_counter.py kernels_bench/amalia_bench/portuguese/sentences/held-out.toml

A find is right if it lies over a label's span; each label counts once. Ends with 1 below precision 0.98 or recall 0.90.
"""

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from alternate import ROOMS

sys.path[:0] = ROOMS.split(":")

from amalia_bench.markers import count  # noqa: E402

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Limits:
    precision: float = 0.98
    recall: float = 0.90


@dataclass
class Tally:
    right: int = 0
    wrong: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    by_kind: Counter[str] = field(default_factory=Counter)

    @property
    def precision(self) -> float:
        return self.right / max(1, self.right + len(self.wrong))

    @property
    def recall(self) -> float:
        return self.right / max(1, self.right + len(self.missed))


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("sentences", type=Path)
    tally = Tally()
    sentences = tomllib.loads(words.parse_args().sentences.read_text("utf-8"))["sentence"]
    for sentence in sentences:
        judge(sentence["text"], spans(sentence["text"], sentence["brazilian"]), tally)
    for name, lines in (("wrong", tally.wrong), ("missed", tally.missed)):
        for line in lines:
            print(f"{name}: {line}")
    limits = Limits()
    print(", ".join(f"{kind} {found}" for kind, found in sorted(tally.by_kind.items())))
    print(
        f"{len(sentences)} sentences: {tally.right} right, {len(tally.wrong)} wrong, {len(tally.missed)} missed; "
        f"precision {tally.precision:.4f} (at least {limits.precision}), recall {tally.recall:.4f} (at least {limits.recall})"
    )
    sys.exit(tally.precision < limits.precision or tally.recall < limits.recall)


def spans(text: str, labels: list[str]) -> list[tuple[int, int]]:
    """Find each label in the text, the second of the same after the first."""
    found: list[tuple[int, int]] = []
    after: dict[str, int] = {}
    for label in labels:
        start = text.index(label, after.get(label, 0))
        after[label] = start + len(label)
        found.append((start, start + len(label)))
    return found


def judge(text: str, labels: list[tuple[int, int]], tally: Tally) -> None:
    """Match the markers found with the labels, and add to the tally."""
    open_labels = list(labels)
    for marker in count(text):
        over = [span for span in open_labels if marker.start < span[1] and span[0] < marker.end]
        if over:
            open_labels.remove(over[0])
            tally.right += 1
            tally.by_kind[marker.kind] += 1
        else:
            tally.wrong.append(f"{marker.text} ({marker.kind}): {text}")
    tally.missed.extend(f"{text[start:end]}: {text}" for start, end in open_labels)


if __name__ == "__main__":
    main()
