"""The history of questions: private, bounded, whole messages, and never a reason to fail."""

import json
from pathlib import Path

import pytest

from amalia_edge.history import KEPT, LONGEST, History, history_file


def test_what_was_asked_comes_back_whole_and_in_order(tmp_path: Path) -> None:
    history = History(tmp_path / "chat_history")
    asked = ["olá", "duas\nlinhas", 'as "aspas" e \\', "sep\u2028ara\x85do"]
    for text in asked:
        history.add(text)
    assert History(tmp_path / "chat_history").load() == asked


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "amalia" / "chat_history"
    path.parent.mkdir()
    path.write_text("")
    path.chmod(0o644)
    History(path).add("segredo")
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_last_thousand_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "chat_history"
    path.write_text("".join(f"{json.dumps(str(number))}\n" for number in range(KEPT + 5)))
    assert History(path).load()[0] == "5"
    assert len(path.read_text().splitlines()) == KEPT
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_no_entry_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "chat_history"
    path.write_bytes(b'"um"\n\xff\xfe\n{"a": 1}\n\nlixo\n"dois"\n')
    assert History(path).load() == ["um", "dois"]


def test_a_document_is_not_kept(tmp_path: Path) -> None:
    history = History(tmp_path / "chat_history")
    history.add("a" * (LONGEST + 1))
    assert history.load() == []


def test_a_place_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    history = History(tmp_path / "file" / "chat_history")
    history.add("olá")
    assert history.load() == []


def test_it_lives_where_xdg_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() == tmp_path / "amalia" / "chat_history"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert history_file() == Path.home() / ".local" / "state" / "amalia" / "chat_history"


@pytest.mark.parametrize("line", ['"a\\u0000b"', '"\\ud800"', "[" * 100_000])
def test_a_line_no_terminal_can_hold_is_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "history"
    path.write_text(f'{line}\n"boa"\n')
    assert History(path).load() == ["boa"]
