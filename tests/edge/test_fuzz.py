"""No header that gets past us may crash libllama: ten thousand mutants, and `make fuzz` makes more."""

import random
from pathlib import Path

import pytest

from amalia_edge.gguf import read_header

from .header_fuzz import Child, base_models, fuzz
from .header_mutants import mutant, take_apart


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(base_models(tmp_path_factory.mktemp("bases")))


def test_every_architecture_is_loaded_and_decoded(bases: list[Path]) -> None:
    with Child("decode") as child:
        assert {base.stem: child.tell(read_header(base).path) for base in bases} == {
            base.stem: "decoded" for base in bases
        }


def test_learned_positions_end_a_context(bases: list[Path]) -> None:
    longest = {base.stem: read_header(base).longest_context for base in bases}
    assert {name for name, context in longest.items() if context} == {"gpt2", "mpt", "starcoder"}
    assert longest["gpt2"] == 256


def test_ten_thousand_mutants_are_refused_or_decoded(bases: list[Path], tmp_path: Path) -> None:
    outcome = fuzz(bases, 10_000, 2026, tmp_path)
    assert not outcome.failures
    assert outcome.counts.total() == 10_000 and outcome.counts["decoded"] > 1000  # else nothing was tried


def test_other_shapes_are_filled_and_decoded(bases: list[Path], tmp_path: Path) -> None:
    llama = [base for base in bases if base.stem == "llama"]
    outcome = fuzz(llama, 60, 5, tmp_path, reshape=True)
    assert not outcome.failures
    assert outcome.counts["decoded"] > 5


def test_a_file_put_together_again_is_the_same(bases: list[Path]) -> None:
    for base in bases:
        file = take_apart(base.read_bytes())
        assert file.header() + file.data == base.read_bytes()


def test_a_crash_is_noticed_and_the_next_file_decoded(bases: list[Path], tmp_path: Path) -> None:
    llama = next(base for base in bases if base.stem == "llama")
    file = take_apart(llama.read_bytes())
    next(key for key in file.keys if key.name == b"llama.block_count").value = 600
    (tmp_path / "a.gguf").write_bytes(file.header() + file.data)
    with Child("decode") as child:
        assert child.tell(tmp_path / "a.gguf").startswith("FAILED: crashed")
        assert child.tell(llama) == "decoded"


def test_the_same_number_makes_the_same_mutant(bases: list[Path]) -> None:
    file = take_apart(bases[0].read_bytes())
    assert mutant(file, random.Random("2026-7")) == mutant(file, random.Random("2026-7"))
