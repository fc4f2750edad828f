"""As much of the Hub as its clients need, on this machine: repositories served from folders, with faults on demand.

with HubServer(folder) as hub:  # folder/org/name/config.json …
    monkeypatch_environment(monkeypatch, hub, tmp_path)  # or hub.environment(tmp_path) for a child process
    hub.cut_after = 1000
"""

import hashlib
import json
import os
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from threading import Lock, Thread
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest

BLOCK = 1 << 16
LARGE = {".safetensors", ".model", ".gguf", ".bin"}  # what a repository's .gitattributes hands to LFS
FOREIGN = ("HF_", "HUGGING", "TRANSFORMERS_OFFLINE", "DO_NOT_TRACK")  # what a person's environment may hold


@dataclass(frozen=True)
class Request:
    """One request as it came: to the Hub's own host or to the storage it redirects to."""

    host: str  # hub, storage
    method: str
    path: str
    headers: dict[str, str]  # names in lower case


@dataclass(frozen=True)
class ServedFile:
    path: Path
    nbytes: int
    sha256: str
    blob: str  # git's SHA-1

    @property
    def is_large(self) -> bool:
        return self.path.suffix in LARGE or self.path.name == "tokenizer.json"


class HubServer:
    """The Hub on one port of 127.0.0.1 and its storage on another; faults are attributes, zero or empty by default."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.revisions = {"main"}  # names of the newest commit; it also answers to its own
        self.token = ""  # the one that opens gated repositories; any other is refused everywhere
        self.gated: set[str] = set()  # names of repositories
        self.cut_after: int | None = None  # bytes of a file after which the connection is cut
        self.cuts = -1  # how many connections are still to be cut; -1: all
        self.reset = False  # cut by a reset instead of an early end
        self.wrong_byte: dict[str, int] = {}  # file → the place of the byte that is sent wrongly
        self.other_size: dict[str, int] = {}  # file → the size it is said to have when it is fetched
        self.bytes_per_second = 0
        self.silent_after: int | None = None  # bytes after which nothing more comes, with the connection open
        self.silences = -1  # how many connections are still to fall silent; -1: all
        self.unavailable = 0  # how many requests for files or a listing are still to be answered with 503; -1: all
        self.deaf = False  # take requests and never answer
        self.ignore_range = False
        self.shift_range = 0  # answer another range than was asked for
        self.edit_info: Callable[[dict[str, Any]], Any] = lambda info: info  # the listing; bytes are sent as they are
        self.links_are_single_use = False  # a link into the storage is refused when it comes again, as an old one is
        self.requests: list[Request] = []
        self.nbytes_sent = 0  # of files
        self._links: dict[str, tuple[str, str]] = {}  # signed links into the storage → repository and file
        self._signatures = count()
        self._files: dict[tuple[str, int, int], ServedFile] = {}
        self._lock = Lock()
        self._servers = [self._serve("hub"), self._serve("storage")]
        self.url, self.storage_url = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)

    def __enter__(self) -> "HubServer":
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Give a child process's environment: this Hub, a home of its own, and nothing of the person's."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return {**inherited, **self.settings(home)}

    def settings(self, home: Path) -> dict[str, str]:
        own = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub")}
        return {**own, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def commit(self, repository: str) -> str:
        """Give the newest commit: it changes when a file does."""
        listing = [(name, file.sha256) for name, file in self.files(repository).items()]
        return hashlib.sha1(repr(listing).encode()).hexdigest()

    def files(self, repository: str) -> dict[str, ServedFile]:
        folder = self.folder / repository
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): self._file(path) for path in paths}

    def asked(self, host: str = "hub", method: str = "GET", ending: str = "") -> list[Request]:
        """Give the requests of one kind."""
        return [
            request
            for request in self.requests
            if (request.host, request.method) == (host, method) and request.path.partition("?")[0].endswith(ending)
        ]

    def _file(self, path: Path) -> ServedFile:
        state = path.stat()
        key = str(path), state.st_size, state.st_mtime_ns
        if key not in self._files:
            content = path.read_bytes()
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            self._files[key] = ServedFile(path, len(content), hashlib.sha256(content).hexdigest(), blob)
        return self._files[key]

    def _serve(self, host: str) -> ThreadingHTTPServer:
        server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self, "host": host}))
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True).start()
        return server

    def _take(self, counter: str) -> bool:
        """Spend one of a fault's times; -1 never runs out."""
        with self._lock:
            left = getattr(self, counter)
            if left > 0:
                setattr(self, counter, left - 1)
            return bool(left)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # the other side may leave when it likes
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer
    host: str

    def do_GET(self) -> None:
        hub, address = self.hub, urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        hub.requests.append(Request(self.host, self.command, self.path, headers))
        if hub.deaf:
            self.close_connection = True
            self.rfile.read(1)  # until the other side gives up
            return None
        parts = [unquote(part) for part in address.path.strip("/").split("/")]
        if self.host == "storage":
            return self._storage(address.query)
        authorization = headers.get("authorization", "")
        if authorization and authorization != f"Bearer {hub.token}":
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if hub._take("unavailable"):
            return self._refuse(503, "", "come back later")
        if parts[:2] == ["api", "models"] and len(parts) in (4, 6):
            return self._info("/".join(parts[2:4]), parts[5] if len(parts) == 6 else "main", "blobs=" in address.query)
        if parts[:2] == ["api", "resolve-cache"]:
            return self._content("/".join(parts[2:4]), "/".join(parts[5:]))
        if len(parts) > 4 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), bool(authorization))
        return self._refuse(404, "", "no such page")

    do_HEAD = do_GET  # noqa: N815

    def _info(self, repository: str, revision: str, with_blobs: bool) -> None:
        if not self._exists(repository, revision):
            return None
        siblings = []
        for name, file in self.hub.files(repository).items():
            blob: dict[str, Any] = {"size": file.nbytes, "blobId": file.blob}
            if file.is_large:
                blob["lfs"] = {"sha256": file.sha256, "size": file.nbytes, "pointerSize": 134}
            siblings.append({"rfilename": name, **(blob if with_blobs else {})})
        info = {"id": repository, "modelId": repository, "sha": self.hub.commit(repository), "siblings": siblings}
        gated = "manual" if repository in self.hub.gated else False
        answer = self.hub.edit_info({**info, "private": False, "gated": gated, "tags": []})
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return self._answer(200, {"Content-Type": "application/json; charset=utf-8"}, content)

    def _resolve(self, repository: str, revision: str, name: str, authorized: bool) -> None:
        """Send a large file's reader to the storage with a signed link, a small one's to the Hub's own cache."""
        hub = self.hub
        if not self._exists(repository, revision):
            return None
        if repository in hub.gated and not authorized:
            return self._refuse(401, "GatedRepo", f"Access to model {repository} is restricted")
        file = hub.files(repository).get(name)
        if file is None:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": hub.commit(repository)}
        if not file.is_large:
            location = f"/api/resolve-cache/{repository}/{headers['X-Repo-Commit']}/{quote(name)}"
            return self._answer(307, {**headers, "Location": location}, b"")
        link = f"signature={next(hub._signatures)}"
        hub._links[link] = repository, name
        headers |= {"X-Linked-Size": str(hub.other_size.get(name, file.nbytes)), "X-Linked-Etag": f'"{file.sha256}"'}
        return self._answer(302, {**headers, "Location": f"{hub.storage_url}/{file.sha256}?{link}"}, b"")

    def _storage(self, link: str) -> None:
        take = self.hub._links.pop if self.hub.links_are_single_use and self.command == "GET" else self.hub._links.get
        found = take(link, None)
        return self._content(*found) if found else self._refuse(403, "", "this link is no longer good")

    def _content(self, repository: str, name: str) -> None:
        hub, file = self.hub, self.hub.files(repository)[name]
        content = bytearray(file.path.read_bytes())
        if name in hub.wrong_byte:
            content[hub.wrong_byte[name]] ^= 1
        size = hub.other_size.get(name, file.nbytes)
        content = (content + bytes(max(0, size - len(content))))[:size]
        etag = "storage-" + file.sha256[:32] if self.host == "storage" else file.blob
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": hub.commit(repository), "Accept-Ranges": "bytes"}
        asked = self.headers.get("Range", "")
        if not asked or hub.ignore_range:
            return self._answer(200, headers, bytes(content))
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first) + hub.shift_range, min(int(last or size), size - 1) + 1
        if start >= size:
            return self._answer(416, {"Content-Range": f"bytes */{size}"}, b"")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return self._answer(206, headers, bytes(content[start:end]))

    def _exists(self, repository: str, revision: str) -> bool:
        if not self.hub.files(repository):
            # The Hub tells a stranger nothing about what is private.
            status = 404 if "Authorization" in self.headers else 401
            self._refuse(status, "RepoNotFound", "Repository not found")
        elif revision not in {*self.hub.revisions, self.hub.commit(repository)}:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return True
        return False

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code} if code else {}
        content = json.dumps({"error": message}).encode()
        self._answer(status, {**headers, "X-Error-Message": message, "Content-Type": "application/json"}, content)

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self._send(content, is_file=status in (200, 206) and "ETag" in headers)
        except OSError:  # the other side has left
            self.close_connection = True

    def _send(self, content: bytes, is_file: bool) -> None:
        hub, place = self.hub, 0
        if not is_file:
            self.wfile.write(content)
            return
        cut = hub.cut_after if hub.cut_after is not None and hub.cut_after < len(content) else None
        silent = hub.silent_after if hub.silent_after is not None and hub.silent_after < len(content) else None
        end = len(content)
        if cut is not None and hub._take("cuts"):
            end, self.close_connection = cut, True
        elif silent is not None and hub._take("silences"):
            end, self.close_connection = silent, True
        block = BLOCK if not hub.bytes_per_second else max(1, hub.bytes_per_second // 50)
        while place < end:
            sent = content[place : min(place + block, end)]
            with hub._lock:
                hub.nbytes_sent += len(sent)  # before the other side can know
            self.wfile.write(sent)
            place += len(sent)
            if hub.bytes_per_second:
                time.sleep(len(sent) / hub.bytes_per_second)
        if end == silent:
            self.rfile.read(1)  # until the other side gives up
        elif end == cut and hub.reset:
            self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())  # at once: an ordinary end would be told first

    def log_message(self, *_: object) -> None:
        pass


def monkeypatch_environment(monkeypatch: pytest.MonkeyPatch, hub: HubServer, home: Path) -> None:
    """Point this process at the server, as `HubServer.environment` points a child."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # it remembers what it was imported with
    for name in [name for name in os.environ if name.startswith(FOREIGN)]:
        monkeypatch.delenv(name)
    for name, value in hub.settings(home).items():
        monkeypatch.setenv(name, value)
