"""A GGUF is brought from a Hub on this machine, with the Hub's own client: whole and right, or not at all."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest

from amalia_edge import hub, store
from amalia_edge.errors import DoesNotFit, HubError, ModelCorrupt, ModelNotFound, ModelUnsupported, UsageError
from amalia_edge.hub_name import HubName
from amalia_edge.pull import BEGINNING, find_or_pull, pull
from hub_server import HubServer, monkeypatch_environment
from models import tiny_model

NAME = "org/azulejo-GGUF"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [tiny_model(folder / "azulejo-Q4_K_M.gguf", kind="Q8_0"), tiny_model(folder / "azulejo-Q8_0.gguf")]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: list[Path]) -> Iterator[HubServer]:
    folder = tmp_path / "repositories" / NAME
    folder.mkdir(parents=True)
    for path in models:
        (folder / path.name).symlink_to(path)
    for name in ("mmproj-azulejo-F16.gguf", "azulejo.imatrix.gguf", "README.md"):
        (folder / name).write_text("no model")
    with HubServer(tmp_path / "repositories") as server:
        monkeypatch_environment(monkeypatch, server, tmp_path / "home")
        monkeypatch.setattr(hub, "PAUSES_S", (0.0, 0.0, 0.0))
        for variable in ("XDG_DATA_HOME", "HOME", "OLLAMA_MODELS"):
            monkeypatch.setenv(variable, str(tmp_path / "person"))
        yield server


@pytest.fixture
def repository(server: HubServer) -> Path:
    return server.folder / NAME


def wish(level: str = "", file: str = "") -> HubName:
    return HubName(NAME, level=level, file=file)


def fetched(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "home").rglob("*") if path.is_symlink()}


def test_the_default_level_is_fetched_and_nothing_else(server: HubServer, tmp_path: Path, models: list[Path]) -> None:
    done = pull(wish())
    assert (done.name, done.level, done.commit) == (f"{NAME}:Q4_K_M", "Q4_K_M", server.commit(NAME))
    assert done.files[0].read_bytes() == models[0].read_bytes()
    assert done.nbytes == done.fetched == models[0].stat().st_size == server.nbytes_sent - BEGINNING
    assert fetched(tmp_path) == {"azulejo-Q4_K_M.gguf"}


@pytest.mark.parametrize("wanted", [wish("Q8_0"), wish(file="azulejo-Q8_0.gguf")])
def test_another_level_or_a_file_may_be_named(server: HubServer, tmp_path: Path, wanted: HubName) -> None:
    assert pull(wanted).name == f"{NAME}:Q8_0"
    assert fetched(tmp_path) == {"azulejo-Q8_0.gguf"}


def test_what_was_pulled_is_found_by_its_names_without_a_connection(server: HubServer) -> None:
    path = pull(wish()).files[0]
    server.requests.clear()
    for name in (f"{NAME}:Q4_K_M", f"{NAME}:q4_k_m", NAME, f"hf.co/{NAME}", "azulejo-GGUF", "azulejo:Q4_K_M", "azu",
                 f"{server.url}/{NAME}/blob/main/azulejo-Q4_K_M.gguf", f"{NAME}@main:Q4_K_M",
                 f"{NAME}@{server.commit(NAME)}", "ORG/AZULEJO-gguf"):  # fmt: skip
        assert store.find(name) == path, name
    assert not server.requests


def test_a_revision_is_fetched_and_found_by_its_name(server: HubServer) -> None:
    server.revisions.add("v1.0")
    done = pull(HubName(NAME, "v1.0"))
    assert done.name == f"{NAME}@v1.0:Q4_K_M"
    assert store.find(done.name) == done.files[0]


def test_a_commit_that_is_here_is_known_by_each_name_it_was_pulled_by(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.revisions.add("v1.0")
    pulled = [pull(HubName(NAME, revision)) for revision in ("v1.0", None)]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert [hub.find_repository(NAME, revision).commit for revision in ("v1.0", "main")] == [
        one.commit for one in pulled
    ]


def test_a_level_that_is_not_there_lists_those_that_are_with_their_sizes(server: HubServer) -> None:
    with pytest.raises(HubError, match=r"Q2_K: not there; there are Q4_K_M \(1\.. MB\), Q8_0 \(2\.. MB\); give one"):
        pull(wish("Q2_K"))
    assert not server.asked("storage")


def test_the_only_model_of_a_repository_is_taken_where_no_level_is_asked_for(repository: Path) -> None:
    (repository / "azulejo-Q4_K_M.gguf").unlink()
    assert pull(wish()).level == "Q8_0"


def test_several_models_of_one_level_are_listed(server: HubServer, repository: Path) -> None:
    (repository / "outro-Q8_0.gguf").symlink_to((repository / "azulejo-Q8_0.gguf").readlink())
    with pytest.raises(UsageError, match=r"azulejo-Q8_0\.gguf, outro-Q8_0\.gguf; give the file: org/azulejo-GGUF:azul"):
        pull(wish("Q8_0"))
    done = pull(wish(file="outro-Q8_0.gguf"))
    assert done.name == f"{NAME}:outro-Q8_0.gguf"
    assert store.find(done.name) == done.files[0]


def test_a_repository_without_a_gguf_says_what_would_do(server: HubServer, repository: Path) -> None:
    for path in repository.glob("azulejo-*.gguf"):
        path.unlink()
    with pytest.raises(HubError, match="no GGUF in this repository; if it holds a checkpoint: amalia convert org/azul"):
        pull(wish())


def test_all_parts_of_a_model_are_fetched(
    server: HubServer, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gguf.GGUFWriter", partial(gguf.GGUFWriter, split_max_tensors=10))
    tiny_model(repository / "Q6_K" / "azulejo.gguf")
    parts = sorted(path.name for path in (repository / "Q6_K").iterdir())
    done = pull(wish("Q6_K"))
    assert len(parts) > 1
    assert [path.name for path in done.files] == parts
    assert fetched(tmp_path) == set(parts)
    assert store.find(f"{NAME}:q6_k") == done.files[0]
    assert done.nbytes == sum(path.stat().st_size for path in done.files)


def test_a_model_whose_parts_are_not_all_there_is_refused(server: HubServer, repository: Path) -> None:
    (repository / "azulejo-Q6_K-00002-of-00003.gguf").write_text("part")
    with pytest.raises(HubError, match="only 1 of its 3 parts are there"):
        pull(wish("Q6_K"))


def test_what_is_here_is_checked_and_not_fetched_again(server: HubServer) -> None:
    pull(wish())
    server.requests.clear()
    assert pull(wish()).fetched == 0
    assert not server.asked("storage")


def test_a_wrong_byte_on_the_disk_is_found_by_the_hash_and_fetched_anew(server: HubServer, models: list[Path]) -> None:
    path = pull(wish()).files[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # the size is what it was
    path.write_bytes(content)
    done = pull(wish())
    assert done.files[0].read_bytes() == models[0].read_bytes()
    assert done.fetched == done.nbytes


def test_a_file_that_breaks_our_rules_is_refused_and_stays_for_others_as_the_hub_has_it(
    repository: Path, tmp_path: Path
) -> None:
    (repository / "azulejo-Q2_K.gguf").write_bytes(b"GGUF\3\0\0\0" + b"\xff" * 100)
    for _ in range(2):  # fetched now, and found there
        with pytest.raises(ModelCorrupt, match=r"azulejo-Q2_K\.gguf: .*; other programs .*: amalia rm org/azu.*:Q2_K"):
            pull(wish("Q2_K"))
        assert fetched(tmp_path) == {"azulejo-Q2_K.gguf"}
    named = store.find_model(f"{NAME}:Q2_K", store.models(), whole=True)
    assert store.remove(named) == 108


def test_a_good_file_that_we_do_not_run_stays_for_others(repository: Path, tmp_path: Path) -> None:
    (repository / "azulejo-Q2_K.gguf").write_bytes(b"GGUF\1\0\0\0" + bytes(100))
    with pytest.raises(ModelUnsupported, match=r"GGUF version 1; .*; other programs may run it"):
        pull(wish("Q2_K"))
    assert fetched(tmp_path) == {"azulejo-Q2_K.gguf"}


def test_an_architecture_we_do_not_run_is_refused_before_it_is_fetched(
    server: HubServer, repository: Path, tmp_path: Path
) -> None:
    writer = gguf.GGUFWriter(repository / "azulejo-Q2_K.gguf", "mamba")
    writer.add_tensor("t", np.zeros(1 << 20, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelUnsupported, match=r"architecture 'mamba'; what can be run: .*llama"):
        pull(wish("Q2_K"))
    assert server.nbytes_sent < 1 << 20 and fetched(tmp_path) == set()


def test_a_disk_without_room_is_refused_before_the_start(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2_000_000))
    with pytest.raises(
        DoesNotFit,
        match=r"2\.. MB needed, 2\.0 MB free in .*; org/azulejo-GGUF:Q4_K_M \(1\.. MB\) would fit; .* HF_HOME",
    ):
        pull(wish("Q8_0"))
    assert not server.asked("storage")


def test_room_is_needed_only_for_what_is_missing(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    pull(wish())
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    assert pull(wish()).fetched == 0


def test_a_private_or_misspelt_repository_says_so(server: HubServer) -> None:
    with pytest.raises(HubError, match=r"no such repository, or a private one; .* HF_TOKEN"):
        pull(HubName("org/azuleijo-GGUF"))


def test_a_gated_repository_says_where_its_licence_is(server: HubServer) -> None:
    server.gated = {NAME}
    with pytest.raises(HubError, match=r"gated; accept its licence at .* then set HF_TOKEN"):
        pull(wish())


def test_finding_never_opens_a_connection(server: HubServer) -> None:
    with pytest.raises(ModelNotFound, match=f"amalia pull {NAME} brings it from the Hub"):
        store.find(NAME)
    assert not server.requests


def test_what_is_not_here_is_pulled_where_that_is_asked_for_and_said(
    server: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    path = find_or_pull(f"{NAME}:Q8_0")
    assert path == store.find(f"{NAME}:Q8_0")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", f"{NAME}:Q8_0 is not on this machine: it is fetched from {server.url}\n")


def test_what_is_here_is_taken_without_a_word_or_a_connection(
    server: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    pull(wish())
    server.requests.clear()
    find_or_pull(NAME)
    assert (capsys.readouterr().err, server.requests) == ("", [])


@pytest.mark.parametrize("name", ["models/azulejo", "azulejo", "./org/azulejo-GGUF", "ollama/azulejo", "a/b/c.gguf"])
def test_what_is_no_name_on_the_hub_is_not_asked_for(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound):
        find_or_pull(name)
    assert not server.requests


OFFLINE = """
import socket, sys
def refuse(*_): raise AssertionError("a socket was opened")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
from amalia_edge.pull import *
from amalia_edge.errors import AmaliaError
try:
    print(find_or_pull(sys.argv[1]), *pull(HubName("org/azulejo-GGUF", level=sys.argv[1].partition(":")[2])).files)
except AmaliaError as error:
    print(error)
"""


@pytest.mark.parametrize("wish_for", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_a_cached_model_is_found_without_a_socket_and_an_absent_one_says_what_would_do(
    server: HubServer, tmp_path: Path, wish_for: str
) -> None:
    path = pull(wish()).files[0]
    server.requests.clear()
    environment = {**server.environment(tmp_path / "home"), wish_for: "1"}
    here, absent = (
        subprocess.run(
            [sys.executable, "-c", OFFLINE, f"{NAME}:{level}"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        for level in ("Q4_K_M", "Q8_0")
    )
    assert (here.stdout, here.stderr) == (f"{path} {path}\n", "")
    assert "HF_HUB_OFFLINE is set; " in absent.stdout and f"unset it, then amalia pull {NAME}:Q8_0" in absent.stdout
    assert not server.requests


def test_offline_a_level_that_is_not_cached_is_not_said_to_be_missing_on_the_hub(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pull(wish())
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="Q8_0 is not in the Hub's cache, and HF_HUB_OFFLINE is set"):
        pull(wish("Q8_0"))


def test_ctrl_c_stops_and_the_same_command_goes_on(server: HubServer, tmp_path: Path, models: list[Path]) -> None:
    kept = 1 << 20
    server.silent_after, server.silences = kept + 1000, 1
    command = [sys.executable, "-c", "from amalia_edge.cli.door import main; main()", "pull", NAME]
    environment = server.environment(tmp_path / "home")
    blobs = tmp_path / "home/hub/models--org--azulejo-GGUF/blobs"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as stopped:
        while sum(path.stat().st_size for path in blobs.glob("*")) < kept:
            assert stopped.poll() is None
            time.sleep(0.01)
        stopped.send_signal(signal.SIGINT)
        _, told = stopped.communicate(timeout=30)
    assert (stopped.returncode, "The same command goes on" in told) == (130, True)
    server.requests.clear()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert f"{NAME}:Q4_K_M" in done.stdout
    assert server.asked("storage")[0].headers["range"].startswith(f"bytes={kept}-")
    assert [path.read_bytes() for path in blobs.iterdir()] == [models[0].read_bytes()]
