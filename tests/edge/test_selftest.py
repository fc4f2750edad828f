"""The self-test's model is a real GGUF, and however its child ends, that is told."""

import sys
from pathlib import Path

import pytest
from gguf import GGUFReader

from amalia_edge.selftest import SelfTest, run_child, self_test, tiny_model


def child(code: str) -> SelfTest:
    return run_child([sys.executable, "-c", code])


def test_the_tiny_model_is_the_same_bytes_each_time() -> None:
    assert tiny_model() == tiny_model()


def test_the_tiny_model_holds_the_block_types_people_use(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    file.write_bytes(tiny_model())
    assert {tensor.tensor_type.name for tensor in GGUFReader(file).tensors} == {"F32", "Q8_0", "Q4_0", "Q4_K", "Q6_K"}


def test_the_library_here_passes() -> None:
    result = self_test()
    assert result.ok, result
    assert "CPU" in result.detail


def test_a_child_that_dies_is_named_by_its_signal_and_blames_the_build() -> None:
    result = child("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (result.ok, result.signal, result.blames_build) == (False, "SIGSEGV", True)
    assert "died of SIGSEGV" in str(result)


def test_an_illegal_instruction_is_told_apart() -> None:
    assert child("import os, signal; os.kill(os.getpid(), signal.SIGILL)").signal == "SIGILL"


def test_a_child_that_computes_wrongly_blames_the_build() -> None:
    result = child("""print('{"ok": false, "detail": "the logits are not finite"}')""")
    assert result.blames_build and "not finite" in str(result)


def test_a_missing_package_does_not_blame_the_build() -> None:
    result = child("import amalia_of_nowhere")
    assert not result.ok and not result.blames_build and "amalia_of_nowhere" in result.detail


@pytest.mark.parametrize("printed", ["", "hello", "[]", '{"ok": true}'])
def test_a_child_that_answers_nonsense_has_failed(printed: str) -> None:
    assert not child(f"print({printed!r})").ok
