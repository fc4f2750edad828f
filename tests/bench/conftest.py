"""A measurement as it might have been, a machine it might have been made on, and a tiny model to make real ones with."""

from pathlib import Path
from typing import Any

import pytest

from amalia_bench.clock import Sample
from amalia_bench.identity import Identity
from amalia_bench.machine import Library, Machine
from amalia_bench.speed import Case, Facts, Measurement, Turn
from amalia_edge.gguf import Header, TensorInfo
from amalia_edge.model import LoadConfig
from models import tiny_model

LIBRARY = Library("llama-cpp-python 0.3.36", ("AVX2", "AMX_INT8"), ("CPU (Xeon)",), ("CPU",), "zig 0.16.0")


def header(path: Path = Path("models/toy-Q8_0.gguf")) -> Header:
    """A Llama of one layer: 2000 bytes of embedding, 2000 of output, 4000 in the layer; 64 numbers kept for a token."""
    tensors = {"token_embd.weight": 2000, "output.weight": 2000, "blk.0.attn_q.weight": 4000}
    numbers = {"block_count": 1, "embedding_length": 64, "attention.head_count": 2, "attention.head_count_kv": 1}
    metadata = {"general.architecture": "llama", "general.name": "toy", "general.file_type": 7}
    return Header(
        path=path,
        version=3,
        metadata=metadata | {f"llama.{key}": number for key, number in numbers.items()},
        tensors=tuple(TensorInfo(name, (32, 50), "Q8_0", 0, nbytes) for name, nbytes in tensors.items()),
        data_offset=0,
        file_size=9000,
    )


def facts(path: Path = Path("models/toy-Q8_0.gguf")) -> Facts:
    return Facts(
        path=path,
        description="llama ?B Q8_0",
        header=header(path),
        threads=2,
        load_s=0.25,
        peak_rss=120_000_000,
        library=LIBRARY,
    )


IDENTITY = Identity("toy-Q8_0.gguf", "toy", "Q8_0", "llama", 9000, 4800, "ab" * 32, "cd" * 32, "ef" * 32)
GENERATION = Case(generated=128)


def measurement(case: Case = GENERATION, path: Path = Path("models/toy-Q8_0.gguf"), **more: Any) -> Measurement:
    """Two repetitions: decode took 1 s, then 2 s; the engine 2 s each time."""
    count = case.tokens
    engine = Sample(count, 2_000_000_000)
    return Measurement(
        facts=facts(path),
        case=case,
        turns=(
            Turn(Sample(count, 1_000_000_000), engine, 30_000_000),
            Turn(Sample(count, 2_000_000_000), engine, 50_000_000),
        ),
        load=LoadConfig(cache_keys="q8_0", flash_attention="on"),
        interleaved=False,
        started="2026-01-02T03:04:05Z",
        **more,
    )


@pytest.fixture
def machine() -> Machine:
    return Machine("A CPU", "x86_64", 2, 4, 16_000_000_000, 8_000_000_000, "Debian 12", "3.11.2", (), "")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("bench") / "tiny-Q8_0.gguf", kind="Q8_0")
