"""One tiny random model, written once and opened once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from amalia_edge.model import LoadConfig, Model
from models import tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf", kind="Q8_0")


@pytest.fixture(scope="session")
def model(tiny: Path) -> Iterator[Model]:
    with Model.open(tiny, LoadConfig(context=256, threads=2)) as opened:
        yield opened
