"""`amalia pull`, `models` and `rm`, as they are typed."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from amalia_edge import hub
from amalia_edge.cli.door import run_door
from amalia_edge.store import models_folder
from hub_server import HubServer, monkeypatch_environment
from models import tiny_model

NAME = "org/azulejo-GGUF"

Amalia = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "azulejo-Q8_0.gguf", kind="Q8_0")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> Iterator[HubServer]:
    folder = tmp_path / "repositories" / NAME
    folder.mkdir(parents=True)
    (folder / model.name).symlink_to(model)
    with HubServer(tmp_path / "repositories") as server:
        monkeypatch_environment(monkeypatch, server, tmp_path / "home")
        monkeypatch.setattr(hub, "PAUSES_S", (0.0, 0.0, 0.0))
        for variable in ("XDG_DATA_HOME", "HOME", "OLLAMA_MODELS"):
            monkeypatch.setenv(variable, str(tmp_path / "person"))
        yield server


@pytest.fixture
def amalia(server: HubServer, capsys: pytest.CaptureFixture[str]) -> Amalia:
    def amalia(*words: str) -> tuple[int, str, str]:
        code = run_door(list(words))
        told = capsys.readouterr()
        return code, told.out, told.err

    return amalia


def result(output: str) -> Any:
    return json.loads(output)["result"]


def test_pull_says_what_it_brought_and_what_to_type_next(amalia: Amalia, model: Path) -> None:
    code, out, err = amalia("pull", f"{NAME}:q8_0")
    assert (code, err) == (0, "")
    assert f"{NAME}:Q8_0: 1.4 MB, SHA-256 as the Hub has it; 1.4 MB fetched" in out
    assert f"  amalia run {NAME}:Q8_0 " in out
    assert "it was here already" in amalia("pull", f"{NAME}:q8_0")[1]


def test_pull_answers_a_machine_with_one_object(amalia: Amalia, server: HubServer, model: Path) -> None:
    told = result(amalia("pull", NAME, "--json")[1])
    assert (told["name"], told["level"], told["commit"]) == (f"{NAME}:Q8_0", "Q8_0", server.commit(NAME))
    assert (told["nbytes"], told["fetched"]) == (model.stat().st_size,) * 2
    assert Path(told["files"][0]).read_bytes() == model.read_bytes()


def test_a_revision_may_be_an_option(amalia: Amalia, server: HubServer) -> None:
    server.revisions.add("v1")
    assert f"{NAME}@v1:Q8_0" in amalia("pull", NAME, "--revision", "v1")[1]


def test_what_is_no_name_on_the_hub_is_a_wrong_use(amalia: Amalia) -> None:
    code, _, err = amalia("pull", "azulejo")
    assert (code, err) == (2, "amalia: azulejo: is no name of anything on the Hub; for instance user/repo:Q4_K_M\n")


def test_offline_is_an_option_too(amalia: Amalia, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # so that it is put back
    code, _, err = amalia("pull", NAME, "--offline")
    assert (code, server.requests) == (7, [])
    assert "HF_HUB_OFFLINE is set" in err


def test_models_are_listed_in_columns_whatever_the_width(amalia: Amalia, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    models_folder().mkdir(parents=True)
    (models_folder() / "AMALIA-9B-0626-DPO-Q4_K_M.gguf").write_bytes(bytes(1000))
    (models_folder() / ".X-Q8_0.gguf.partial").write_bytes(bytes(2000))
    amalia("pull", NAME)
    assert amalia("models") == (0, (
        "name                       level   size    where\n"
        "AMALIA-9B-0626-DPO:Q4_K_M  Q4_K_M  0.0 MB  converted here\n"
        "org/azulejo-GGUF:Q8_0      Q8_0    1.4 MB  Hub's cache\n"
        "X:Q8_0                     Q8_0    0.0 MB  a conversion that was stopped, or goes on now\n"
        "fadinho                                    comes with amalia; converted when it is first run\n"
    ), "")  # fmt: skip


def test_a_name_can_not_steer_the_terminal(amalia: Amalia) -> None:
    models_folder().mkdir(parents=True)
    (models_folder() / "\x1b[2Jx-Q8_0.gguf").touch()
    assert "\x1b" not in amalia("models")[1]


def test_models_answers_a_machine_with_one_object(amalia: Amalia) -> None:
    pulled = result(amalia("pull", NAME, "--json")[1])
    told = result(amalia("models", "--json")[1])
    wanted = {"name": f"{NAME}:Q8_0", "level": "Q8_0", "nbytes": pulled["nbytes"], "place": "hub", "fault": ""}
    assert told == {"models": [{**wanted, "files": pulled["files"]}], "sources": ["fadinho"]}


def test_rm_frees_the_bytes_and_the_model_is_gone(amalia: Amalia, model: Path, tmp_path: Path) -> None:
    amalia("pull", NAME)
    assert amalia("rm", NAME, "--yes") == (0, f"{NAME}:Q8_0: removed, 1.4 MB freed\n", "")
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file() and path.stat().st_size > 100]
    assert amalia("rm", NAME, "--yes")[0] == 3


def test_rm_tells_a_machine_how_much(amalia: Amalia, model: Path) -> None:
    amalia("pull", NAME)
    assert result(amalia("rm", NAME, "--yes", "--json")[1]) == {"name": f"{NAME}:Q8_0", "freed": model.stat().st_size}


def test_rm_asks_nobody_who_is_not_there(amalia: Amalia) -> None:
    amalia("pull", NAME)
    code, _, err = amalia("rm", NAME)
    assert (code, "nobody is there to be asked; give --yes" in err) == (2, True)
    assert "org/azulejo" in amalia("models")[1]


@pytest.mark.parametrize(("answer", "code"), [("n\n", 130), ("\n", 130), ("y\n", 0)])
def test_rm_asks_whoever_is_there(amalia: Amalia, monkeypatch: pytest.MonkeyPatch, answer: str, code: int) -> None:
    amalia("pull", NAME)
    ours, theirs = os.openpty()
    os.write(ours, answer.encode())
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        done, _, err = amalia("rm", NAME)
    os.close(ours)
    assert (done, f"Remove {NAME}:Q8_0 (1.4 MB)? [y/N]" in err) == (code, True)
    assert ("org/azulejo" in amalia("models")[1]) == bool(code)
