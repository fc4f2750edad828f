"""Tiny checkpoints, converted once to every level in one pass."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from amalia_convert.conversion import ConvertConfig, convert
from amalia_convert.levels import LEVELS
from amalia_convert.receipt import Receipt
from checkpoints import AWKWARD, FRIENDLY, Tiny, write_checkpoint


@dataclass(frozen=True)
class Converted:
    """A checkpoint and the files it became."""

    tiny: Tiny
    folder: Path
    out: Path
    receipts: dict[str, Receipt]

    def path(self, level: str) -> Path:
        return self.out / self.receipts[level].output


@pytest.fixture(scope="session", params=["friendly", "awkward"])
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    tiny = {"friendly": FRIENDLY, "awkward": AWKWARD}[request.param]
    place = tmp_path_factory.mktemp(request.param)
    folder = write_checkpoint(place / request.param, tiny)
    receipts = convert(ConvertConfig(str(folder), tuple(LEVELS), place / "out"))
    return Converted(tiny, folder, place / "out", {receipt.level: receipt for receipt in receipts})


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small sound checkpoint, for a test to break."""
    return write_checkpoint(tmp_path / "Azulejo-1M", Tiny(layers=2, feed_forward=64, hidden=64, heads=2, head_dim=32))
