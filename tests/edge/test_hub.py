"""The Hub, with its own client, against a server on this machine: what arrives is right, or nothing does."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from amalia_edge import hub
from amalia_edge.errors import HubError
from amalia_edge.hub import HubFile, Repository, discard, fetch, find_repository, is_cached
from amalia_edge.hub_stream import RemoteStream, read_range
from hub_server import HubServer, monkeypatch_environment

NAME = "org/azulejo"
SHARD = "model.safetensors"
CONTENT = b"".join(hashlib.sha256(bytes([i & 255, i >> 8])).digest() for i in range(10_000))  # 320 kB, no two alike
TOKEN = "hf_secret"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    folder = tmp_path / "repositories" / NAME
    (folder / "original").mkdir(parents=True)
    (folder / "config.json").write_text('{"hidden_size": 64}\n')
    (folder / "original" / "versão #1, 100%41?.txt").write_text("olá")
    (folder / SHARD).write_bytes(CONTENT)
    with HubServer(tmp_path / "repositories") as server:
        monkeypatch_environment(monkeypatch, server, tmp_path / "home")
        monkeypatch.setattr(hub, "PAUSES_S", (0.0, 0.0, 0.0))
        yield server


def blobs(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if "blobs" in path.parts and path.is_file()]


def read_all(repository: Repository, block: int = 50_001) -> bytes:
    content = b""
    with RemoteStream(repository, repository.files[SHARD]) as stream:
        while piece := stream.read(block):
            content += piece
    return content


def test_a_branch_is_pinned_to_its_commit_with_sizes_and_hashes(server: HubServer) -> None:
    found = find_repository(NAME)
    assert (found.name, found.commit) == (NAME, server.commit(NAME))
    assert found.files[SHARD] == HubFile(SHARD, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert found.files["config.json"] == HubFile("config.json", 20, None)
    assert find_repository(NAME, found.commit) == found


def test_an_unknown_revision_is_named(server: HubServer) -> None:
    with pytest.raises(HubError, match=r"org/azulejo@v9: there is no such revision; name a branch"):
        find_repository(NAME, "v9")


@pytest.mark.parametrize("revision", ["../main", "a/../../b", "a b", "-x", ""])
def test_a_revision_that_could_be_a_path_is_not_asked_for(server: HubServer, revision: str) -> None:
    with pytest.raises(HubError, match="name a branch"):
        find_repository(NAME, revision)
    assert not server.requests


def test_an_unknown_repository_may_be_private(server: HubServer) -> None:
    with pytest.raises(HubError, match=r"org/unknown: no such repository, or a private one; .*HF_TOKEN"):
        find_repository("org/unknown")


@pytest.mark.parametrize("name", ["azulejo", "org/../x", "org/..", "/etc/passwd", "org/a b", "org/a--b", "org/a/b"])
def test_what_is_no_repositorys_name_is_not_asked_for(server: HubServer, name: str) -> None:
    with pytest.raises(HubError, match="no name of a repository"):
        find_repository(name)
    assert not server.requests


def test_a_wrong_token_is_named(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(HubError, match="does not know the token in HF_TOKEN"):
        find_repository(NAME)


def test_a_closed_port_is_no_network(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"http://127.0.0.1:9 does not answer: .*; check the network"):
        find_repository(NAME)


def test_a_silent_hub_is_not_waited_for_long(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "TIMEOUT_S", 0.1)
    server.deaf = True
    with pytest.raises(HubError, match="does not answer"):
        find_repository(NAME)


def test_a_busy_hub_is_asked_again(server: HubServer) -> None:
    server.unavailable = 2
    assert find_repository(NAME).commit == server.commit(NAME)


def test_a_hub_that_stays_busy_is_named(server: HubServer) -> None:
    server.unavailable = -1
    with pytest.raises(HubError, match="answers 503 come back later; later, give the same command again"):
        find_repository(NAME)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a\\..\\x", "a//x", "./x", "", "a\x1b[2Jx", 7, None])
def test_a_file_name_that_leaves_the_folder_is_refused(server: HubServer, name: Any) -> None:
    server.edit_info = lambda info: {**info, "siblings": [{"rfilename": name, "size": 3}]}
    with pytest.raises(HubError) as caught:
        find_repository(NAME)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("size", [-1, None, 1 << 60, "12", 1.5, True, [], 10**4000])
def test_a_size_that_can_not_be_is_refused(server: HubServer, size: Any) -> None:
    server.edit_info = lambda info: {**info, "siblings": [{"rfilename": "config.json", "size": size}]}
    with pytest.raises(HubError):
        find_repository(NAME)


@pytest.mark.parametrize("answer", [
    b"", b"<html>Sign in to the hotel's network</html>", b"[]", b"null", b"7", b'{"id": 7}', b"\xff\xfe", b'{"id":',
    b'{"id": "org/azulejo", "siblings": []}', b'{"id": "org/azulejo", "sha": "../../x", "siblings": []}',
    b'{"id": "org/azulejo", "sha": "0000000000000000000000000000000000000000"}',
    b'{"id": "org/azulejo", "sha": "0000000000000000000000000000000000000000", "siblings": [7]}',
    b'{"id": "org/azulejo", "sha": "0000000000000000000000000000000000000000", "siblings": {"rfilename": "x"}}',
    b'{"id": "org/azulejo", "sha": "0000000000000000000000000000000000000000",'
    b' "siblings": [{"rfilename": "x", "lfs": {"size": 3, "sha256": "../y", "pointerSize": 1}}]}',
    b'{"id": "org/azulejo", "sha": "0000000000000000000000000000000000000000",'
    b' "siblings": [{"rfilename": "x", "lfs": [1, 2]}]}',
])  # fmt: skip
def test_an_answer_that_makes_no_sense_is_refused(server: HubServer, answer: bytes) -> None:
    server.edit_info = lambda info: answer
    with pytest.raises(HubError):
        find_repository(NAME)


def test_a_hub_that_lists_no_files_is_named(server: HubServer) -> None:
    server.edit_info = lambda info: {name: value for name, value in info.items() if name != "siblings"}
    with pytest.raises(HubError, match="lists no files; check the network, and HF_ENDPOINT"):
        find_repository(NAME)


def test_fetched_files_lie_in_the_hubs_own_cache(server: HubServer, tmp_path: Path) -> None:
    found = find_repository(NAME)
    folder = fetch(found, list(found.files))
    assert folder == tmp_path / "home/hub/models--org--azulejo/snapshots" / found.commit
    assert (folder / SHARD).read_bytes() == CONTENT
    assert (folder / "original" / "versão #1, 100%41?.txt").read_text() == "olá"
    assert is_cached(found, list(found.files))


def test_only_the_files_asked_for_are_fetched(server: HubServer) -> None:
    found = find_repository(NAME)
    folder = fetch(found, ["config.json"])
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert not is_cached(found, ["config.json", SHARD])


def test_what_another_commit_shares_is_told_but_not_fetched_again(server: HubServer) -> None:
    fetch(find_repository(NAME), [SHARD])
    (server.folder / NAME / "config.json").write_text("{}")
    told: list[int] = []
    fetch(find_repository(NAME), [SHARD], told.append)
    assert sum(told) == len(CONTENT) == server.nbytes_sent


@pytest.mark.parametrize("fault", [{}, {"reset": True}, {"links_are_single_use": True}])
def test_a_cut_download_arrives_whole_and_is_told_once(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, fault: dict[str, bool]
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits a second
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    vars(server).update(cut_after=100_000, cuts=1, **fault)
    told: list[int] = []
    found = find_repository(NAME)
    assert (fetch(found, ["config.json", SHARD], told.append) / SHARD).read_bytes() == CONTENT
    assert max(accumulate(told)) == sum(told) == 20 + len(CONTENT)
    assert server.cuts == 0


def test_what_is_there_is_told_but_not_fetched_again(server: HubServer) -> None:
    found, told = find_repository(NAME), []
    fetch(found, [SHARD])
    server.requests.clear()
    fetch(found, [SHARD], told.append)
    assert (told, server.requests) == ([len(CONTENT)], [])


def test_a_cached_file_of_another_size_is_fetched_anew(server: HubServer) -> None:
    found = find_repository(NAME)
    pointer = fetch(found, [SHARD]) / SHARD
    pointer.write_bytes(b"cut short")
    assert not is_cached(found, [SHARD])
    fetch(found, [SHARD])
    assert pointer.read_bytes() == CONTENT


def test_a_wrong_byte_is_found_and_nothing_of_the_file_stays(server: HubServer, tmp_path: Path) -> None:
    server.wrong_byte[SHARD] = 200_000
    found = find_repository(NAME)
    with pytest.raises(HubError, match=r"model\.safetensors: what arrived is not what the Hub has: .*SHA-256"):
        fetch(found, [SHARD])
    assert blobs(tmp_path / "home") == []
    assert not is_cached(found, [SHARD])
    server.wrong_byte.clear()
    assert (fetch(found, [SHARD]) / SHARD).read_bytes() == CONTENT


def test_a_wrong_byte_in_a_small_file_is_found_by_gits_hash(server: HubServer) -> None:
    server.wrong_byte["config.json"] = 3
    found = find_repository(NAME)
    with pytest.raises(HubError, match=r"config\.json: what arrived is not what the Hub has: size or SHA-1 differ"):
        fetch(found, ["config.json"])
    assert not is_cached(found, ["config.json"])


def test_a_discarded_file_is_gone_from_the_cache_and_fetched_anew(server: HubServer, tmp_path: Path) -> None:
    found = find_repository(NAME)
    folder = fetch(found, [SHARD, "config.json"])
    discard(found, SHARD)
    assert not is_cached(found, [SHARD]) and is_cached(found, ["config.json"])
    assert [path.read_bytes() for path in blobs(tmp_path / "home")] == [(folder / "config.json").read_bytes()]
    server.requests.clear()
    assert (fetch(found, [SHARD]) / SHARD).read_bytes() == CONTENT
    assert len(server.asked("storage")) == 1


def test_what_is_not_in_the_cache_may_be_discarded(server: HubServer) -> None:
    discard(find_repository(NAME), SHARD)


def test_what_the_repository_lacks_can_not_be_discarded(server: HubServer, tmp_path: Path) -> None:
    found, outside = find_repository(NAME), tmp_path / "outside"
    outside.write_text("mine")
    with pytest.raises(HubError, match="the repository has no such file"):
        discard(found, str(outside))
    assert outside.exists()


def test_what_a_person_linked_into_the_cache_stays_theirs(server: HubServer, tmp_path: Path) -> None:
    found, mine = find_repository(NAME), tmp_path / "mine"
    folder = fetch(found, ["config.json"])
    mine.write_bytes(CONTENT)
    (folder / SHARD).symlink_to(mine)
    discard(found, SHARD)
    assert not (folder / SHARD).is_symlink() and mine.exists()


def test_a_gated_repository_says_where_to_accept_its_licence(server: HubServer) -> None:
    server.gated = {NAME}
    found = find_repository(NAME)
    advice = f"is gated; accept its licence at {server.url}/{NAME}, then set HF_TOKEN"
    with pytest.raises(HubError, match=advice):
        fetch(found, ["config.json"])
    with pytest.raises(HubError, match=advice):
        read_range(found, found.files[SHARD], 0, 8)


def test_a_token_opens_a_gated_repository_and_never_reaches_the_storage(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.gated, server.token = {NAME}, TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    found = find_repository(NAME)
    assert (fetch(found, [SHARD]) / SHARD).read_bytes() == CONTENT == read_all(found)
    assert len(server.asked("storage")) == 2
    assert not any(TOKEN in str(request.headers) for request in server.asked("storage"))


def test_a_file_the_repository_lacks_is_named(server: HubServer) -> None:
    with pytest.raises(HubError, match=r"org/azulejo/tokenizer\.model: the repository has no such file"):
        fetch(find_repository(NAME), ["tokenizer.model"])


def test_a_file_that_has_gone_from_the_hub_is_named(server: HubServer) -> None:
    found = Repository(NAME, server.commit(NAME), {"gone.bin": HubFile("gone.bin", 3, None)})
    with pytest.raises(HubError, match=r"gone\.bin: the repository has no such file at this commit"):
        fetch(found, ["gone.bin"])
    with pytest.raises(HubError, match=r"gone\.bin: the repository has no such file at this commit"):
        read_range(found, found.files["gone.bin"], 0, 3)


def test_a_cache_that_can_not_be_written_is_named(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the cache should be")
    with pytest.raises(HubError, match="check the Hub's cache"):
        fetch(find_repository(NAME), [SHARD])


def test_the_clients_own_warning_of_a_small_disk_is_not_heard(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    found = find_repository(NAME)
    assert (fetch(found, [SHARD]) / SHARD).read_bytes() == CONTENT


def run(environment: dict[str, str], code: str) -> subprocess.CompletedProcess[str]:
    code = f"from amalia_edge.hub import *\nfrom amalia_edge.errors import HubError\n{code}"
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)


FETCH = """
try:
    found = find_repository('org/azulejo')
    print(fetch(found, list(found.files)))
except HubError as error:
    print(error)
"""


def test_a_full_disk_is_named_and_nothing_of_the_file_stays(server: HubServer, tmp_path: Path) -> None:
    limit = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    done = run(server.environment(tmp_path / "home"), limit + FETCH)
    assert "model.safetensors: there is no room for it" in done.stdout
    assert SHARD not in [path.name for path in (tmp_path / "home").rglob("*")]


def test_the_client_writes_nothing_on_standard_error_and_asks_for_nothing_else(
    server: HubServer, tmp_path: Path
) -> None:
    server.cut_after, server.cuts = 100_000, 1
    done = run({**server.environment(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "0"}, FETCH)
    assert (Path(done.stdout.strip()) / SHARD).read_bytes() == CONTENT
    assert done.stderr == ""
    assert not [request for request in server.requests if NAME not in request.path and request.host == "hub"]


def test_offline_the_cache_answers_without_a_socket(server: HubServer, tmp_path: Path) -> None:
    folder = fetch(find_repository(NAME), ["config.json", SHARD])
    server.requests.clear()
    no_socket = "import socket\ndef refuse(*a): raise AssertionError\nsocket.socket.connect = refuse\n"
    done = run({**server.environment(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}, no_socket + FETCH)
    assert (done.stdout.strip(), done.stderr, server.requests) == (str(folder), "", [])


def test_offline_the_files_are_those_in_the_cache(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_repository(NAME)
    fetch(found, ["config.json", SHARD])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cached = find_repository(NAME)
    assert (cached.commit, cached.files) == (found.commit, {name: found.files[name] for name in ["config.json", SHARD]})
    assert find_repository(NAME, found.commit).files == cached.files


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1"])
def test_offline_a_revision_is_found_by_the_name_it_was_fetched_by(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    server.revisions.add(revision)
    found = find_repository(NAME, revision)
    fetch(found, ["config.json"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find_repository(NAME, revision).commit == found.commit
    with pytest.raises(HubError, match="main is not in the Hub's cache"):
        find_repository(NAME)


def test_a_commit_is_noted_under_no_name(server: HubServer, tmp_path: Path) -> None:
    fetch(find_repository(NAME, server.commit(NAME)), ["config.json"])
    assert not (tmp_path / "home/hub/models--org--azulejo/refs").exists()


def test_a_cache_where_no_name_can_be_noted_will_do(server: HubServer, tmp_path: Path) -> None:
    (tmp_path / "home/hub/models--org--azulejo").mkdir(parents=True)
    (tmp_path / "home/hub/models--org--azulejo/refs").write_text("a file where a folder should be")
    found = find_repository(NAME)
    assert (fetch(found, [SHARD]) / SHARD).read_bytes() == CONTENT


@pytest.mark.parametrize("ask", [
    lambda found: find_repository("org/other"),
    lambda found: find_repository(NAME, "v9"),
    lambda found: find_repository(NAME, "f" * 40),
    lambda found: fetch(found, [SHARD]),
    lambda found: read_range(found, found.files[SHARD], 0, 8),
])  # fmt: skip
def test_offline_what_the_cache_lacks_is_named(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Repository], Any]
) -> None:
    found = find_repository(NAME)
    fetch(found, ["config.json"])
    server.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="is not in the Hub's cache, and HF_HUB_OFFLINE is set; unset it, or copy"):
        ask(found)
    assert not server.requests


@pytest.mark.parametrize(("settings", "folder"), [
    ({"HF_HUB_CACHE": "/a/b"}, "/a/b"), ({"HF_HUB_CACHE": "", "HUGGINGFACE_HUB_CACHE": "/a/c"}, "/a/c"),
    ({"HF_HUB_CACHE": "", "HF_HOME": "/a"}, "/a/hub"), ({"HF_HUB_CACHE": "", "HF_HOME": "$HOME/x"}, "/h/x/hub"),
    ({"HF_HUB_CACHE": "", "HF_HOME": "", "XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
    ({"HF_HUB_CACHE": "", "HF_HOME": ""}, "/h/.cache/huggingface/hub"),
])  # fmt: skip
def test_the_cache_is_where_the_client_has_it(server: HubServer, settings: dict[str, str], folder: str) -> None:
    inherited = {name: value for name, value in server.environment(Path("/h")).items() if name != "XDG_CACHE_HOME"}
    kept = {name: value for name, value in {**inherited, "HOME": "/h", **settings}.items() if value}
    code = "from huggingface_hub.constants import HF_HUB_CACHE\nprint(cache_folder(), HF_HUB_CACHE)"
    assert run(kept, code).stdout.split() == [folder, folder]


def test_a_range_is_read_and_nothing_else(server: HubServer) -> None:
    found = find_repository(NAME)
    assert read_range(found, found.files[SHARD], 1000, 24) == CONTENT[1000:1024]
    assert server.nbytes_sent == 24
    assert read_range(found, found.files[SHARD], len(CONTENT) - 3, 24) == CONTENT[-3:]
    assert read_range(found, found.files["original/versão #1, 100%41?.txt"], 0, 99).decode() == "olá"


def test_a_stream_gives_exactly_what_is_asked_for_until_the_end(server: HubServer) -> None:
    found = find_repository(NAME)
    with RemoteStream(found, found.files[SHARD], 100_000) as stream:
        assert stream.read(7) == CONTENT[100_000:100_007]
        assert stream.read(0) == b""
        assert stream.read(len(CONTENT)) == CONTENT[100_007:]
        assert stream.read(1) == b""
    assert len(server.asked("storage")) == 1


def test_an_empty_file_needs_no_connection(server: HubServer) -> None:
    found = Repository(NAME, server.commit(NAME), {})
    assert read_range(found, HubFile("empty", 0, None), 0, 8) == b""


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_connection_goes_on_at_the_byte(server: HubServer, reset: bool) -> None:
    server.cut_after, server.reset, server.links_are_single_use = 70_000, reset, True
    found = find_repository(NAME)
    assert read_all(found) == CONTENT
    assert reset or server.nbytes_sent == len(CONTENT)  # a reset throws away what was on its way
    assert len(server.asked("storage")) >= 5


def test_a_connection_that_is_cut_before_every_first_byte_is_given_up(server: HubServer) -> None:
    found = find_repository(NAME)
    with RemoteStream(found, found.files[SHARD]) as stream:
        server.cut_after, server.cuts = 70_000, 1
        stream.read(70_000)
        server.cut_after, server.cuts = 0, -1
        with pytest.raises(HubError, match=r"broke at byte 70000 of 320000: .*; check the network, then give the same"):
            stream.read(1)
        assert len(server.asked("storage")) == 1 + len(hub.PAUSES_S)
        server.cut_after = None
        assert stream.read(9) == CONTENT[70_000:70_009]


def test_a_busy_hub_is_waited_for_in_the_middle_of_a_stream(server: HubServer) -> None:
    found = find_repository(NAME)
    with RemoteStream(found, found.files[SHARD]) as stream:
        server.cut_after, server.cuts, server.unavailable = 70_000, 1, 2
        assert stream.read(len(CONTENT)) == CONTENT


def test_a_slow_link_is_no_timeout_and_silence_is(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_repository(NAME)
    monkeypatch.setattr(hub, "TIMEOUT_S", 0.2)
    server.bytes_per_second = 500_000
    assert read_all(found) == CONTENT  # 0.64 s, three times the timeout
    assert len(server.asked("storage")) == 1
    server.bytes_per_second, server.silent_after, server.silences = 0, 100_000, 1
    assert read_all(found) == CONTENT
    assert len(server.asked("storage")) == 3


@pytest.mark.parametrize("start", [0, 1, 250_000])
def test_a_server_without_ranges_is_read_from_its_start(server: HubServer, start: int) -> None:
    server.ignore_range = True
    server.cut_after, server.cuts = 260_000, 1
    found = find_repository(NAME)
    with RemoteStream(found, found.files[SHARD], start) as stream:
        assert stream.read(len(CONTENT)) == CONTENT[start:]
    assert read_range(found, found.files[SHARD], start, 100) == CONTENT[start : start + 100]


def test_another_range_than_was_asked_for_is_refused(server: HubServer) -> None:
    server.shift_range = 1
    found = find_repository(NAME)
    with pytest.raises(HubError, match=r"another file: bytes 9-.*, not bytes 8-"):
        read_range(found, found.files[SHARD], 8, 8)


@pytest.mark.parametrize("without_ranges", [False, True])
@pytest.mark.parametrize("name", [SHARD, "config.json"])
@pytest.mark.parametrize("more", [-1, 1])
def test_a_file_of_another_size_is_refused(server: HubServer, without_ranges: bool, name: str, more: int) -> None:
    found = find_repository(NAME)
    server.other_size[name], server.ignore_range = found.files[name].nbytes + more, without_ranges
    with pytest.raises(HubError, match="the Hub sends another file"):
        read_range(found, found.files[name], 0, 8)


def test_a_file_with_another_hash_is_refused(server: HubServer) -> None:
    found = find_repository(NAME)
    changed = Repository(NAME, found.commit, {SHARD: HubFile(SHARD, len(CONTENT), "0" * 64)})
    with pytest.raises(HubError, match=r"another file: X-Linked-Etag [0-9a-f]{64}, not 0{64}"):
        read_range(changed, changed.files[SHARD], 0, 8)


@contextmanager
def answering(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stand in for a Hub that says one thing to everybody."""

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(answer)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        Thread(target=server.serve_forever, args=(0.005,), daemon=True).start()
        yield
        server.shutdown()


@pytest.mark.parametrize(("answer", "message"), [
    (b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n", "in circles"),
    (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "in circles"),
    (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n", "unsafe address"),
    (b"HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\n\r\nABCD", "another file: nothing, not bytes 2-5/9"),
    (b"HTTP/1.1 206 \r\nContent-Range: bytes 2-5/8\r\nContent-Length: 4\r\n\r\nABCD", "another file: bytes 2-5/8"),
    (b"HTTP/1.1 206 \r\nContent-Range: bytes 0-5/9\r\nContent-Length: 6\r\n\r\nABCDEF", "another file: bytes 0-5/9"),
    (b"HTTP/1.1 206 \r\nX-Repo-Commit: 1\r\nContent-Range: bytes 2-5/9\r\n\r\nABCD", "another file: X-Repo-Commit 1"),
    (b"HTTP/1.1 302 \r\nX-Linked-Size: 8\r\nLocation: /there\r\n\r\n", "another file: X-Linked-Size 8, not 9"),
    (b"HTTP/1.1 204 No Content\r\n\r\n", "answers 204"),
    (b"HTTP/1.1 418 Teapot\r\nX-Error-Message: \x1b[2Jtea\r\n\r\n", "answers 418"),
    (b"SSH-2.0-OpenSSH_9.9\r\n", "broke at byte 2 of 9"),
    (b"", "broke at byte 2 of 9"),
])  # fmt: skip
def test_a_stream_takes_no_strange_answer(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, answer: bytes, message: str
) -> None:
    with answering(answer, monkeypatch), pytest.raises(HubError, match=message) as caught:
        read_range(Repository(NAME, "0" * 40, {}), HubFile("x", 9, None), 2, 4)
    assert str(caught.value).isprintable()


def test_bytes_beyond_the_range_are_left_out(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = b"HTTP/1.1 206 \r\nContent-Range: bytes 2-5/9\r\nContent-Length: 7\r\n\r\nABCDEFG"
    with answering(answer, monkeypatch):
        assert read_range(Repository(NAME, "0" * 40, {}), HubFile("x", 9, None), 2, 4) == b"ABCD"


def test_the_commit_stays_when_the_branch_moves(server: HubServer) -> None:
    found = find_repository(NAME)
    (server.folder / NAME / "config.json").write_text("{}")
    with pytest.raises(HubError):  # this server keeps only the newest commit
        read_range(found, found.files["config.json"], 0, 2)
    assert find_repository(NAME).commit != found.commit
