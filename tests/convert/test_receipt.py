"""A receipt says what a file was made of; older formats are read, newer ones refused."""

import json
from pathlib import Path

import pytest

from amalia_convert.receipt import FORMAT, Receipt, is_current, read_receipt, receipt_path, write_receipt
from amalia_edge.errors import ModelCorrupt, ModelUnsupported

RECEIPT = Receipt(
    output="a.gguf", level="Q8_0", source="a", repository=None, files={"config.json": "00"}, sha256="11", nbytes=3,
    parameters=8, bits_per_weight=8.5, seconds=1.5, peak_memory=10**8, versions={"gguf": "0.19"},
)  # fmt: skip


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "a.gguf").write_bytes(b"abc")
    write_receipt(tmp_path / "a.gguf", RECEIPT)
    return tmp_path / "a.gguf"


def rewrite(output: Path, **changes: object) -> None:
    table = json.loads(receipt_path(output).read_text("utf-8")) | changes
    receipt_path(output).write_text(json.dumps(table), "utf-8")


def test_a_receipt_lies_beside_its_file_and_reads_back(output: Path) -> None:
    assert receipt_path(output).name == "a.gguf.receipt.json"
    assert read_receipt(output) == RECEIPT


def test_a_newer_format_is_named_and_refused(output: Path) -> None:
    rewrite(output, format=FORMAT + 1)
    with pytest.raises(ModelUnsupported, match=f"format {FORMAT + 1}, we know {FORMAT}"):
        read_receipt(output)


def test_a_field_we_do_not_know_is_passed_over(output: Path) -> None:
    rewrite(output, colour="blue")
    assert read_receipt(output) == RECEIPT


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', "[" * 100_000])
def test_what_is_no_receipt_is_refused(output: Path, text: str) -> None:
    receipt_path(output).write_text(text, "utf-8")
    with pytest.raises(ModelCorrupt, match="is not a receipt"):
        read_receipt(output)


def test_a_file_is_current_when_sources_and_size_agree(output: Path) -> None:
    assert is_current(output, {"config.json": "00"})
    assert not is_current(output, {"config.json": "01"})
    output.write_bytes(b"ab")
    assert not is_current(output, {"config.json": "00"})
