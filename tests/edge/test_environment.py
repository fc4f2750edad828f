"""An environment and a pip come from whatever there is; what cannot be fetched is said with what would do."""

import functools
import hashlib
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from amalia_edge import environment
from amalia_edge.environment import find_pip, install_into, last_line, make_environment
from amalia_edge.errors import LibraryMissing


def script(folder: Path, code: str) -> str:
    """Write a stand-in for a Python: a shell script that gets the same words."""
    file = folder / "python"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{code}\n")
    file.chmod(0o755)
    return str(file)


def test_a_working_environment_is_kept(tmp_path: Path) -> None:
    script(tmp_path / "venv" / "bin", "exit 0")
    assert make_environment(tmp_path / "venv", tmp_path / "cache") == tmp_path / "venv" / "bin" / "python"
    assert not (tmp_path / "cache").exists()


def test_a_python_s_own_pip_is_taken_first(tmp_path: Path) -> None:
    python = script(tmp_path, "exit 0")
    assert find_pip(tmp_path, python) == [python, "-m", "pip"]


def test_a_python_without_pip_gets_the_wheel_that_ensurepip_carries(tmp_path: Path) -> None:
    wheel = tmp_path / "ensurepip" / "_bundled" / "pip-26.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"")
    python = script(tmp_path, f'[ "$1" = -m ] && exit 1; echo {tmp_path}/ensurepip')
    assert find_pip(tmp_path, python) == [python, f"{wheel}/pip"]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name of the method we replace
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "index"
    (folder / "simple" / "pip").mkdir(parents=True)
    (folder / "simple" / "pip" / "index.html").write_text(f'<a href="../../files/{environment.PIP}#sha256=x">pip</a>')
    (folder / "files").mkdir()
    (folder / "files" / environment.PIP).write_bytes(b"a wheel")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple", tmp_path / "cache"
        server.shutdown()


def test_where_no_pip_is_its_wheel_is_fetched_from_the_index_and_kept(
    index: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, cache = index
    monkeypatch.setenv("PIP_INDEX_URL", address)
    monkeypatch.setattr(environment, "PIP_SHA256", hashlib.sha256(b"a wheel").hexdigest())
    wheel = environment._fetch_pip(cache)
    assert wheel.read_bytes() == b"a wheel"
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert environment._fetch_pip(cache) == wheel


def test_a_pip_of_other_bytes_is_not_run(index: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    address, cache = index
    monkeypatch.setenv("PIP_INDEX_URL", address)
    with pytest.raises(LibraryMissing, match="is not the file it should be"):
        environment._fetch_pip(cache)
    assert not list(cache.rglob("*"))


def test_an_index_out_of_reach_is_said_with_what_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(LibraryMissing, match=r"no pip, and none could be fetched.*PIP_INDEX_URL"):
        environment._fetch_pip(tmp_path)


def test_packages_are_installed_whole_or_not_at_all(tmp_path: Path) -> None:
    half = "import pathlib, sys; pathlib.Path(sys.argv[sys.argv.index('--target') + 1], 'half').touch(); sys.exit('ERROR: no space')"
    with pytest.raises(LibraryMissing, match="no space"):
        install_into(tmp_path / "tools", ["cmake"], [sys.executable, "-c", half])
    assert not list(tmp_path.iterdir())


def test_pip_s_error_is_found_among_its_warnings() -> None:
    assert (
        last_line(b"WARNING: retrying\nERROR: No matching distribution found for x\n\nnotice: new pip\n")
        == "No matching distribution found for x"
    )


def test_an_exception_in_pip_is_told_by_its_own_last_line() -> None:
    said = b"ERROR: Exception:\nTraceback (most recent call last):\nAttributeError: module 'pkgutil' has no attribute 'ImpImporter'\n"
    assert "ImpImporter" in last_line(said)
