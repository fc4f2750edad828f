"""The texts: enough of them, the same in both languages, none that fadinho was trained on; and users' own."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from amalia_bench import texts
from amalia_bench.texts import LANGUAGES, REGISTERS, embedded, read_text
from amalia_edge.errors import UsageError

TRAINING = Path(__file__).parents[2] / "convert/fadinho"
SHARED = 8  # words in a row that no two texts have in common by chance


def paragraphs(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n\n") if part.strip()]


def sequences(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return set(zip(*(words[start:] for start in range(SHARED)), strict=False))


def test_there_are_sixty_kilobytes_of_european_portuguese_in_six_registers() -> None:
    assert len(REGISTERS) == len(set(REGISTERS)) == 6
    assert len(embedded()["pt-PT"].text.encode()) >= 60_000


def test_no_register_is_a_small_part_of_the_whole() -> None:
    found = embedded()
    assert all(len(found[f"pt-PT/{register}"].text.encode()) >= 8_000 for register in REGISTERS)


@pytest.mark.parametrize("register", REGISTERS)
def test_a_register_has_as_many_paragraphs_in_english(register: str) -> None:
    found = embedded()
    assert len(paragraphs(found[f"pt-PT/{register}"].text)) == len(paragraphs(found[f"en/{register}"].text))


def test_no_paragraph_is_there_twice() -> None:
    every = [part for language in LANGUAGES for part in paragraphs(embedded()[language].text)]
    assert sorted(every) == sorted(set(every))


def test_the_whole_is_its_registers_in_their_order_with_blank_lines_between() -> None:
    found = embedded()
    assert found["en"].text == "\n\n".join(found[f"en/{register}"].text for register in REGISTERS)


def test_a_text_is_known_by_the_hash_of_its_bytes() -> None:
    text = embedded()["pt-PT/news"]
    assert text.sha256 == hashlib.sha256(text.text.encode()).hexdigest()


def test_no_two_texts_have_the_same_hash() -> None:
    assert len({text.sha256 for text in embedded().values()}) == len(embedded()) == 14


def test_nothing_in_the_texts_is_what_fadinho_was_trained_on() -> None:
    prose = [path.read_text("utf-8") for path in sorted(TRAINING.glob("texts/*.txt"))]
    talk = [
        line for path in sorted(TRAINING.glob("dialogues/*.jsonl")) for line in path.read_text("utf-8").splitlines()
    ]
    spoken = [value for line in talk for value in strings(json.loads(line))]
    assert prose
    assert spoken
    trained: set[tuple[str, ...]] = set().union(*map(sequences, prose + spoken))
    assert not sequences(embedded()["pt-PT"].text) & trained


def strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in strings(part)]


def test_a_users_text_loses_one_newline_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_bytes("  Olá,\r\nmundo.\n\n".encode())
    assert read_text(tmp_path / "own.txt").text == "  Olá,\r\nmundo.\n"


def test_a_users_text_is_named_after_its_file(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("Olá.")
    assert read_text(tmp_path / "own.txt").name == "own.txt"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "own.txt: no text in it"),
        (b" \n\n", "own.txt: no text in it"),
        ("Só amanhã".encode("latin-1"), "own.txt: byte 1: not UTF-8"),
        ("Só amanhã".encode("utf-16"), "own.txt: byte 0: not UTF-8"),
        (b"x" * 101, "own.txt: more than 0 MiB"),
    ],
)
def test_a_text_that_cannot_be_used_is_one_clear_line(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "MOST", 100)
    (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_text(tmp_path / "own.txt")


def test_a_folder_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a folder; give a text file"):
        read_text(tmp_path)


def test_a_text_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.txt: No such file"):
        read_text(tmp_path / "gone.txt")


def test_an_endless_device_is_not_read() -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("no such device here")
    with pytest.raises(UsageError, match="zero: not a file"):
        read_text(Path("/dev/zero"))
