"""A measurement as it might have been, a machine it might have been made on, and a tiny model to make real ones with."""

from pathlib import Path

import pytest

from amalia_bench.clock import Sample, Timing
from amalia_bench.machine import Library, Machine
from amalia_bench.speed import Case, Facts, Measurement
from amalia_edge.model import LoadConfig
from models import tiny_model

LIBRARY = Library("llama-cpp-python 0.3.36", ("AVX2", "AMX_INT8"), ("CPU (Xeon)",), ("CPU",), "zig 0.16.0")


def facts(path: Path = Path("models/toy-Q8_0.gguf")) -> Facts:
    return Facts(
        path=path,
        description="llama ?B Q8_0",
        name="toy",
        level="Q8_0",
        nbytes=8_500_000,
        parameters=7_900_000,
        threads=2,
        batch=512,
        load_s=0.25,
        peak_rss=120_000_000,
        library=LIBRARY,
    )


GENERATION = Case(generated=128)


def measurement(case: Case = GENERATION, path: Path = Path("models/toy-Q8_0.gguf")) -> Measurement:
    """Two repetitions: decode took 1 s, then 2 s; the engine 2 s each time."""
    count = case.tokens
    return Measurement(
        facts=facts(path),
        case=case,
        decode=Timing((Sample(count, 1_000_000_000), Sample(count, 2_000_000_000))),
        engine=Timing((Sample(count, 2_000_000_000),) * 2),
        first_token=Timing((Sample(1, 30_000_000), Sample(1, 50_000_000))),
        load=LoadConfig(cache_keys="q8_0", flash_attention="on"),
        interleaved=False,
        started="2026-01-02T03:04:05Z",
    )


@pytest.fixture
def machine() -> Machine:
    return Machine("A CPU", "x86_64", 2, 4, 16_000_000_000, 8_000_000_000, "Debian 12", "3.11.2", (), "")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("bench") / "tiny-Q8_0.gguf", kind="Q8_0")
