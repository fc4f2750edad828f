"""A large file comes into the Hub's cache: a stop loses little, and a wrong byte is never believed."""

import fcntl
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from amalia_edge import hub, hub_blob
from amalia_edge.errors import HubError
from amalia_edge.hub import Repository, fetch, find_repository
from hub_server import HubServer, monkeypatch_environment

NAME, FILE = "org/azulejo-GGUF", "azulejo-Q4_K_M.gguf"
CONTENT = b"".join(hashlib.sha256(bytes([i & 255, i >> 8])).digest() for i in range(10_000))  # 320 kB, no two alike
SHA256 = hashlib.sha256(CONTENT).hexdigest()
BLOCK = 10_000


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    folder = tmp_path / "repositories" / NAME
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(CONTENT)
    with HubServer(tmp_path / "repositories") as server:
        monkeypatch_environment(monkeypatch, server, tmp_path / "home")
        monkeypatch.setattr(hub, "PAUSES_S", (0.0, 0.0, 0.0))
        monkeypatch.setattr(hub_blob, "BLOCK", BLOCK)
        yield server


@pytest.fixture
def found(server: HubServer) -> Repository:
    return find_repository(NAME)


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    return tmp_path / "home/hub/models--org--azulejo-GGUF/blobs"


def stop_after(found: Repository, nbytes: int) -> None:
    """Fetch as far as that, and be stopped as Ctrl-C does."""
    heard = 0

    def stop(arrived: int) -> None:
        nonlocal heard
        heard += arrived
        if heard >= nbytes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(found, [FILE], stop)


def test_the_layout_is_the_one_of_the_hubs_clients(found: Repository, blobs: Path) -> None:
    pointer = fetch(found, [FILE]) / FILE
    assert pointer.readlink() == Path(f"../../blobs/{SHA256}")
    assert [path.name for path in blobs.iterdir()] == [SHA256]
    assert hub.client().try_to_load_from_cache(NAME, FILE, cache_dir=hub.cache_folder()) == str(pointer)


def test_the_hubs_client_takes_what_we_fetched_as_its_own(server: HubServer, found: Repository) -> None:
    pointer = fetch(found, [FILE]) / FILE
    path = hub.client().hf_hub_download(NAME, FILE, cache_dir=hub.cache_folder(), endpoint=server.url)
    assert path == str(pointer)
    assert len(server.asked("storage")) == 1


def test_what_the_hubs_client_fetched_is_taken_as_it_is(server: HubServer, found: Repository) -> None:
    hub.client().hf_hub_download(NAME, FILE, cache_dir=hub.cache_folder(), endpoint=server.url)
    server.requests.clear()
    assert (fetch(found, [FILE]) / FILE).read_bytes() == CONTENT
    assert not server.requests


def test_a_stopped_download_goes_on_at_its_byte(server: HubServer, found: Repository, blobs: Path) -> None:
    stop_after(found, 120_000)
    assert (blobs / f"{SHA256}.amalia.incomplete").read_bytes() == CONTENT[:120_000]
    server.requests.clear()
    told: list[int] = []
    assert (fetch(found, [FILE], told.append) / FILE).read_bytes() == CONTENT
    (asked,) = server.asked("storage")
    assert asked.headers["range"] == f"bytes=120000-{len(CONTENT) - 1}"
    assert sum(told) == len(CONTENT)
    assert [path.name for path in blobs.iterdir()] == [SHA256]


def test_a_file_that_was_stopped_is_not_there(server: HubServer, found: Repository) -> None:
    stop_after(found, 120_000)
    assert not hub.is_cached(found, [FILE])


def test_what_had_all_arrived_before_the_stop_is_not_asked_for_again(server: HubServer, found: Repository) -> None:
    stop_after(found, len(CONTENT))
    server.requests.clear()
    assert (fetch(found, [FILE]) / FILE).read_bytes() == CONTENT
    assert not server.asked("storage")


def test_a_wrong_byte_in_what_was_kept_costs_the_whole_and_is_put_right(
    server: HubServer, found: Repository, blobs: Path
) -> None:
    stop_after(found, 120_000)
    partial = blobs / f"{SHA256}.amalia.incomplete"
    partial.write_bytes(bytes([CONTENT[0] ^ 1]) + CONTENT[1:120_000])
    told: list[int] = []
    assert (fetch(found, [FILE], told.append) / FILE).read_bytes() == CONTENT
    assert sum(told) == len(CONTENT)
    assert [request.headers["range"][:12] for request in server.asked("storage")][1:] == [
        "bytes=120000",
        "bytes=0-3199",
    ]


def test_more_than_the_whole_is_begun_anew(server: HubServer, found: Repository, blobs: Path) -> None:
    stop_after(found, 120_000)
    (blobs / f"{SHA256}.amalia.incomplete").write_bytes(CONTENT + b"more")
    told: list[int] = []
    assert (fetch(found, [FILE], told.append) / FILE).read_bytes() == CONTENT
    assert sum(told) == len(CONTENT)


def test_a_wrong_byte_on_the_way_is_refused_and_nothing_of_it_stays(
    server: HubServer, found: Repository, blobs: Path
) -> None:
    server.wrong_byte[FILE] = 200_000
    told: list[int] = []
    with pytest.raises(
        HubError, match=r"azulejo-Q4_K_M\.gguf: what arrived is not what the Hub has: its SHA-256 differs"
    ):
        fetch(found, [FILE], told.append)
    assert (sum(told), list(blobs.iterdir())) == (0, [])
    server.wrong_byte.clear()
    assert (fetch(found, [FILE]) / FILE).read_bytes() == CONTENT


def test_a_content_of_the_right_size_under_the_right_name_is_checked_too(found: Repository, blobs: Path) -> None:
    blobs.mkdir(parents=True)
    (blobs / SHA256).write_bytes(bytes(len(CONTENT)))
    assert (fetch(found, [FILE]) / FILE).read_bytes() == CONTENT


def test_two_do_not_write_one_file(found: Repository, blobs: Path) -> None:
    stop_after(found, 120_000)
    with (blobs / f"{SHA256}.amalia.incomplete").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(HubError, match=r"azulejo-Q4_K_M\.gguf: another process is fetching this file"):
            fetch(found, [FILE])
    assert (fetch(found, [FILE]) / FILE).read_bytes() == CONTENT


def test_where_no_links_can_be_the_content_lies_in_the_snapshot(
    found: Repository, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    pointer = fetch(found, [FILE]) / FILE
    assert not pointer.is_symlink() and pointer.read_bytes() == CONTENT
    assert [path.name for path in pointer.parent.iterdir()] == [FILE]


def test_what_is_missing_is_counted_to_the_byte(found: Repository) -> None:
    assert hub_blob.missing(found, found.files[FILE]) == len(CONTENT)
    stop_after(found, 120_000)
    assert hub_blob.missing(found, found.files[FILE]) == len(CONTENT) - 120_000
    fetch(found, [FILE])
    assert hub_blob.missing(found, found.files[FILE]) == 0


def test_a_refusal_leaves_nothing_behind(server: HubServer, found: Repository, blobs: Path) -> None:
    server.gated = {NAME}
    with pytest.raises(HubError, match="gated"):
        fetch(found, [FILE])
    assert list(blobs.iterdir()) == []
