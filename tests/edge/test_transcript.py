"""A conversation as a file: whole or absent, never over another, and read back as it was."""

import json
import os
from pathlib import Path

import pytest

from amalia_edge.chat import Message
from amalia_edge.errors import UsageError
from amalia_edge.transcript import load, save

TALK: list[Message] = [
    {"role": "system", "content": "És um teste."},
    {"role": "user", "content": "olá"},
    {"role": "assistant", "content": "Bom dia.\n\n- um"},
]


def test_json_is_read_back_as_it_was(tmp_path: Path) -> None:
    path = save(TALK, str(tmp_path / "a.json"), "Tiny")
    assert load(str(path)) == TALK
    assert json.loads(path.read_text("utf-8"))["model"] == "Tiny"


def test_markdown_has_a_heading_for_each_turn(tmp_path: Path) -> None:
    text = save(TALK, str(tmp_path / "a.md"), "Tiny").read_text("utf-8")
    assert text.startswith("# Tiny, 20")
    assert text.endswith("## System\n\nÉs um teste.\n\n## Question\n\nolá\n\n## Answer\n\nBom dia.\n\n- um\n")


def test_another_file_is_only_overwritten_when_told(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("meu")
    with pytest.raises(UsageError, match=r"/save! .*a\.md overwrites it"):
        save(TALK, str(path), "Tiny")
    assert path.read_text() == "meu"
    save(TALK, str(path), "Tiny", overwrite=True)
    assert "Bom dia" in path.read_text("utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.md").mkdir()
    with pytest.raises(UsageError, match="directory"):
        save(TALK, str(tmp_path / "a.md"), "Tiny", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.md"]


@pytest.mark.parametrize("name, said", [
    ("", "no file's name"), ("a.pdf", "neither .md nor .json"), ("a", "neither"), ("nada/a.md", "No such file"),
    ("~niguem-aqui/a.md", "home"), ("a" * 300 + ".md", "too long"), ("a\0.md", "null"),
])  # fmt: skip
def test_a_place_that_will_not_do_is_one_line(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        save(TALK, name, "Tiny")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("raw, said", [
    (b"{", "not JSON"), (b"\xff", "not JSON"), (b"[" * 100_000, "not JSON"), (b"[]", "no conversation"),
    (b'{"messages": 1}', "no conversation"), (b'{"messages": [1]}', "no conversation"),
    (b'{"messages": [{"role": "king", "content": "x"}]}', "no conversation"),
    (b'{"messages": [{"role": "user", "content": null}]}', "no conversation"),
])  # fmt: skip
def test_what_is_no_conversation_is_one_line(raw: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(UsageError, match=said):
        load(str(tmp_path / "a.json"))


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load(str(tmp_path / "nada.json"))


def test_a_link_planted_beside_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    (tmp_path / f".a.json.{os.getpid()}").symlink_to(tmp_path / "mine")
    path = save(TALK, str(tmp_path / "a.json"), "Tiny")
    assert (tmp_path / "mine").read_text() == "x"
    assert path.stat().st_mode & 0o777 == 0o600
