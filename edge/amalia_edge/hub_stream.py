"""A file on the Hub, read from front to back without being kept; a broken connection resumes at its byte."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from amalia_edge import hub
from amalia_edge.errors import HubError
from amalia_edge.hub import HubFile, Repository

_REDIRECTS = {301, 302, 303, 307, 308}


class RemoteStream:
    """One file of a repository; it vouches for places and sizes, and the content's hash is the reader's to check."""

    def __init__(self, repository: Repository, file: HubFile, start: int = 0, stop: int | None = None) -> None:
        self._repository, self._file = repository, file
        self._place, self._stop = start, file.nbytes if stop is None else stop
        self._ahead = bytearray()  # arrived, not read yet
        self._answer: _Answer | None = None
        self._failures = 0  # in a row, without a byte

    def __enter__(self) -> "RemoteStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def read(self, nbytes: int) -> bytes:
        """Read exactly that many bytes, fewer only at the end."""
        wanted = max(0, min(nbytes, self._stop - self._place))
        while len(self._ahead) < wanted:
            self._ahead += self._receive()
        taken = bytes(memoryview(self._ahead)[:wanted])
        del self._ahead[:wanted]
        self._place += wanted
        return taken

    def _receive(self) -> bytes:
        """Wait for some bytes, over as many connections as it takes while any of them brings something."""
        reached = self._place + len(self._ahead)
        while True:
            try:
                if self._answer is None:
                    self._answer = self._connect(reached)
                block = self._answer.next_block()
            except (OSError, hub.transport_error()) as problem:
                self.close()
                self._wait(reached, problem)
                continue
            self._failures = 0
            return block

    def _wait(self, reached: int, problem: Exception) -> None:
        if self._failures == len(hub.PAUSES_S):
            found = f"the connection broke at byte {reached} of {self._file.nbytes}: {hub.first_line(problem)}"
            raise HubError(self._where, found, hub.GOES_ON) from problem
        time.sleep(hub.PAUSES_S[self._failures])
        self._failures += 1

    def _connect(self, start: int) -> "_Answer":
        """Ask for the rest from a byte on: always through the Hub, whose links into the storage soon expire."""
        if hub.is_offline():
            raise hub.not_cached(self._repository.name, self._file.name)
        url = f"{hub.endpoint()}/{self._repository.name}/resolve/{self._repository.commit}/{quote(self._file.name)}"
        headers = {**hub.request_headers(), "Range": f"bytes={start}-{self._stop - 1}", "Accept-Encoding": "identity"}
        for _ in range(5):
            answer = _Answer(url, headers)
            try:
                self._check_pin(answer)
                if answer.status not in _REDIRECTS:
                    self._check(answer, start)
                    return answer
                target = urljoin(url, answer.headers.get("Location", ""))
            except BaseException:
                answer.close()
                raise
            answer.close()
            if urlsplit(target).scheme not in ("https", urlsplit(url).scheme):
                raise HubError(self._where, "the Hub sends us to an unsafe address", hub.CHECK)
            if hub.origin(target) != hub.origin(hub.endpoint()):
                headers.pop("authorization", None)  # the token is for the Hub, not for where it stores things
            url = target
        raise HubError(self._where, "the Hub sends us in circles", hub.CHECK)

    def _check_pin(self, answer: "_Answer") -> None:
        """Refuse a file that is not the one the repository was pinned with."""
        pinned = {"X-Repo-Commit": self._repository.commit, "X-Linked-Size": str(self._file.nbytes)}
        if self._file.sha256:
            pinned["X-Linked-Etag"] = self._file.sha256
        for header, value in pinned.items():
            found = answer.headers.get(header, value).removeprefix("W/").strip('"')
            if found != value:
                raise self._different(f"{header} {found[:80]}, not {value}")

    def _check(self, answer: "_Answer", start: int) -> None:
        """Refuse anything but the bytes that were asked for."""
        if answer.status == 206:
            wanted = f"bytes {start}-{self._stop - 1}/{self._file.nbytes}"
            if (found := answer.headers.get("Content-Range", "nothing")) != wanted:
                raise self._different(f"{found[:80]}, not {wanted}")
        elif answer.status == 200:  # ranges are not known there
            if (found := answer.headers.get("Content-Length", str(self._file.nbytes))) != str(self._file.nbytes):
                raise self._different(f"{found[:20]} bytes, not {self._file.nbytes}")
            answer.skip = start
        elif hub.may_pass(answer.status, answer.url):
            raise OSError(f"{urlsplit(answer.url).hostname} answers {answer.status}")
        else:
            raise hub.refusal(self._where, self._repository.name, answer.status, answer.headers)

    def _different(self, found: str) -> HubError:
        return HubError(self._where, f"the Hub sends another file: {found}", "give the same command again")

    @property
    def _where(self) -> str:
        return f"{self._repository.name}/{self._file.name}"


def read_range(repository: Repository, file: HubFile, start: int, nbytes: int) -> bytes:
    """Read a piece of a file and nothing else; fewer bytes only at its end."""
    stop = min(start + nbytes, file.nbytes)
    with RemoteStream(repository, file, start, stop) as stream:
        return stream.read(stop - start)


class _Answer:
    """An HTTP answer as it comes in, through the client's own session: its proxies, its certificates."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        session = hub.client().utils.get_session()
        self.url = url
        if hasattr(session, "build_request"):  # httpx, from huggingface_hub 1.0 on
            request = session.build_request("GET", url, headers=headers, timeout=hub.TIMEOUT_S)
            self._response = session.send(request, stream=True, follow_redirects=False)
            self._blocks: Iterator[bytes] = self._response.iter_raw()
        else:  # requests
            self._response = session.get(
                url, headers=headers, timeout=hub.TIMEOUT_S, stream=True, allow_redirects=False
            )
            self._blocks = self._response.iter_content(1 << 16)
        self.status: int = self._response.status_code
        self.headers: Any = self._response.headers  # any case will do
        self.skip = 0  # bytes that nobody asked for

    def next_block(self) -> bytes:
        for block in self._blocks:
            wanted = block[self.skip :]
            self.skip -= len(block) - len(wanted)
            if wanted:
                return wanted
        raise ConnectionError("it ended early")

    def close(self) -> None:
        self._response.close()
