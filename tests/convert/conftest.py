"""Tiny checkpoints, converted once to every level in one pass."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from amalia_convert.conversion import ConvertConfig, convert
from amalia_convert.level_table import level_table
from amalia_convert.receipt import Receipt
from checkpoints import CHECKPOINTS, Tiny, write_checkpoint

# Any checkpoint can be converted to these; Q1_0 refuses rows that are no multiple of 128, as llama-quantize does.
PLAIN = tuple(row.name for row in level_table() if not row.needs_importance and row.name != "Q1_0")


@dataclass(frozen=True)
class Converted:
    """A checkpoint and the files it became."""

    tiny: Tiny
    folder: Path
    out: Path
    receipts: dict[str, Receipt]

    def path(self, level: str) -> Path:
        return self.out / self.receipts[level].output


@pytest.fixture(scope="session")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Converted]:
    """Convert a checkpoint by its name, when it is first asked for."""

    @cache
    def convert_once(name: str) -> Converted:
        place = tmp_path_factory.mktemp(name)
        folder = write_checkpoint(place / name, CHECKPOINTS[name])
        receipts = convert(ConvertConfig(str(folder), PLAIN, place / "out"))
        return Converted(CHECKPOINTS[name], folder, place / "out", {receipt.level: receipt for receipt in receipts})

    return convert_once


@pytest.fixture(scope="session", params=["friendly", "awkward"])
def converted(request: pytest.FixtureRequest, conversions: Callable[[str], Converted]) -> Converted:
    return conversions(request.param)


@pytest.fixture(scope="session", params=CHECKPOINTS)
def every_family(request: pytest.FixtureRequest, conversions: Callable[[str], Converted]) -> Converted:
    return conversions(request.param)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small sound checkpoint, for a test to break."""
    return write_checkpoint(tmp_path / "Azulejo-1M", Tiny(layers=2, feed_forward=64, hidden=64, heads=2, head_dim=32))
