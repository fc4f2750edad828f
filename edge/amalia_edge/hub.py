"""The Hub: a name and a revision → a pinned commit and its files, kept in the Hub's own cache."""

import errno
import hashlib
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from amalia_edge.errors import HubError
from amalia_edge.home import in_home

TIMEOUT_S = 30.0  # without a single byte; a slow link is no failure
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # between attempts that bring nothing; then we give up
GOES_ON = "check the network, then give the same command: it goes on"
CHECK = "check the network, and HF_ENDPOINT if it is set"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_REVISION = re.compile(r"\w[\w./+-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST = 1 << 50  # no file is a pebibyte
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class HubFile:
    """A file of a repository; its name cannot leave a folder, whatever the Hub said."""

    name: str
    nbytes: int
    sha256: str | None  # the Hub's own, of large files
    git_sha1: str | None = field(default=None, compare=False)  # of small ones

    def __post_init__(self) -> None:
        where, name, nbytes = f"the Hub's file {str(self.name)[:80]}", self.name, self.nbytes
        parts = name.split("/") if isinstance(name, str) and name.isprintable() else []
        if not parts or "\\" in name or any(part in ("", ".", "..") for part in parts):
            raise HubError(where, "is no name for a file in a folder", "do not use this repository")
        if not isinstance(nbytes, int) or isinstance(nbytes, bool) or not 0 <= nbytes <= _LARGEST:
            raise HubError(where, f"a size of {str(nbytes)[:40]} bytes", "do not use this repository")
        if self.sha256 is not None and not _SHA256.fullmatch(str(self.sha256)):
            raise HubError(where, "its SHA-256 is none", "do not use this repository")
        if self.git_sha1 is not None and not _COMMIT.fullmatch(str(self.git_sha1)):
            raise HubError(where, "its SHA-1 is none", "do not use this repository")


@dataclass(frozen=True)
class Repository:
    """A repository at one commit: what was true once stays true."""

    name: str  # org/name
    commit: str
    files: dict[str, HubFile]
    revision: str = field(default="main", compare=False)  # what the commit was called

    def __post_init__(self) -> None:
        _check_name(self.name)
        if not _COMMIT.fullmatch(str(self.commit)):
            raise HubError(self.name, "the Hub names no commit", CHECK)


def find_repository(name: str, revision: str | None = None) -> Repository:
    """Pin a repository to the commit a branch or tag stands at now; offline, to the one in the cache."""
    _check_name(name)
    where, revision = (name, "main") if revision is None else (f"{name}@{revision[:80]}", revision)
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise _no_revision(where)
    with _translated(where, name):
        if is_offline():
            return _cached_repository(name, revision)
        ask = client().HfApi(endpoint=endpoint()).model_info
        info = _patiently(lambda: ask(name, revision=revision, files_metadata=True, timeout=TIMEOUT_S))
        if not isinstance(info.siblings, list):
            raise HubError(where, "the Hub lists no files", CHECK)
        files = [
            HubFile(
                entry.rfilename,
                *((entry.lfs.size, entry.lfs.sha256) if entry.lfs else (entry.size, None, entry.blob_id)),
            )
            for entry in info.siblings
        ]
        return Repository(name, info.sha, {file.name: file for file in files}, revision)


def fetch(repository: Repository, names: Sequence[str], advance: Callable[[int], None] = lambda _: None) -> Path:
    """Bring files into the Hub's cache, each checked against the Hub's hash as it arrives; give their folder.

    `advance` hears of every byte of every file, of those that are there already at once.
    """
    for name in names:
        if name not in repository.files:
            raise _no_file(repository, name)
    for name in names:
        if is_cached(repository, [name]):
            advance(repository.files[name].nbytes)
        elif is_offline():
            raise not_cached(repository.name, name)
        else:
            _bring(repository, repository.files[name], advance)
    _remember(repository)
    return snapshot_folder(repository)


def is_cached(repository: Repository, names: Sequence[str]) -> bool:
    """Tell whether the Hub's cache holds all these files, by their sizes."""
    files = [repository.files.get(name) for name in names]
    return all(file is not None and _size(snapshot_folder(repository) / file.name) == file.nbytes for file in files)


def discard(repository: Repository, name: str) -> None:
    """Take a file whose content proved wrong out of the cache, so that it is fetched anew."""
    if name not in repository.files:
        raise _no_file(repository, name)
    with _translated(f"{repository.name}/{name}", repository.name):
        _remove(snapshot_folder(repository) / name)


def cache_folder() -> Path:
    """Give the folder the Hub's clients share; it need not exist yet."""
    # Not the client's constants: those are what the environment was when it was first imported.
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")  # noqa: PTH118
    cache = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return in_home(os.path.expandvars(cache or f"{home}/hub"))


def snapshot_folder(repository: Repository) -> Path:
    """Give the cache's folder of a repository at its commit; it holds what has been fetched."""
    return storage_folder(repository.name) / "snapshots" / repository.commit


def storage_folder(name: str) -> Path:
    """Give the cache's folder of a repository, at whatever commit."""
    return cache_folder() / f"models--{name.replace('/', '--')}"


def is_offline() -> bool:
    """Tell whether the person wants no connection."""
    wish = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return wish.upper() in ("1", "ON", "YES", "TRUE")


def _bring(repository: Repository, file: HubFile, advance: Callable[[int], None]) -> None:
    """Bring a large file, which has a hash, ourselves; a small one through the client."""
    from amalia_edge import hub_blob

    with _translated(f"{repository.name}/{file.name}", repository.name):
        if file.sha256:
            hub_blob.bring(repository, file, advance)
            return
        pointer, download = snapshot_folder(repository) / file.name, client().hf_hub_download
        settings = {"cache_dir": cache_folder(), "endpoint": endpoint(), "force_download": pointer.exists()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the disk may be too small: a full one is an error of ours
            _patiently(lambda: download(repository.name, file.name, revision=repository.commit, **settings))
        if _size(pointer) != file.nbytes or (file.git_sha1 and _git_sha1(pointer) != file.git_sha1):
            _remove(pointer)
            found = "what arrived is not what the Hub has: size or SHA-1 differ"
            raise HubError(f"{repository.name}/{file.name}", found, "it was removed; give the same command again")
        advance(file.nbytes)


def _patiently(ask: Callable[[], Any]) -> Any:
    """Ask again where the answer may change by itself; that nobody answers is said at once."""
    for pause in (*PAUSES_S, None):
        try:
            return ask()
        except transport_error() as problem:
            response = getattr(problem, "response", None)
            hopeful = may_pass(response.status_code, str(response.url)) if response is not None else _broke(problem)
            if pause is None or not hopeful:
                raise
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _broke(problem: Exception) -> bool:
    """Tell a connection that broke from one that never was: httpx's ReadError, requests' ChunkedEncodingError."""
    return type(problem).__name__ in ("ReadError", "ChunkedEncodingError", "RemoteProtocolError")


def client() -> Any:
    """Import the client and keep it off standard error, which is ours, and from telling anybody about this machine."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # it would ask which agents to look for
    import huggingface_hub.errors
    import huggingface_hub.utils

    if "HF_HUB_VERBOSITY" not in os.environ:
        huggingface_hub.utils.logging.set_verbosity_error()  # it logs attempts that we report on, if they all fail
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that HF_HUB_DISABLE_PROGRESS_BARS=0 wants them
        huggingface_hub.utils.disable_progress_bars()
    return huggingface_hub


def _remember(repository: Repository) -> None:
    """Note in the cache what the commit is called, so that the name finds it without a connection."""
    if repository.revision != repository.commit and not is_offline():
        ref = storage_folder(repository.name) / "refs" / repository.revision
        with suppress(OSError):  # a cache may be read-only
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(repository.commit, "ascii")


def _cached_repository(name: str, revision: str) -> Repository:
    """Tell what the cache holds of a repository, without a connection."""
    folder = storage_folder(name)
    try:
        commit = revision if _COMMIT.fullmatch(revision) else (folder / "refs" / revision).read_text("ascii").strip()
    except (OSError, ValueError):
        raise not_cached(name, revision) from None
    snapshot = folder / "snapshots" / commit
    if not _COMMIT.fullmatch(commit) or not snapshot.is_dir():
        raise not_cached(name, revision)
    files = [_cached_file(path, snapshot) for path in sorted(snapshot.rglob("*")) if path.is_file()]
    return Repository(name, commit, {file.name: file for file in files}, revision)


def _cached_file(path: Path, snapshot: Path) -> HubFile:
    # The cache calls a large file's content by its SHA-256, and links to it.
    blob = path.readlink().name if path.is_symlink() else ""
    name = path.relative_to(snapshot).as_posix()
    return HubFile(name, path.stat().st_size, blob if _SHA256.fullmatch(blob) else None)


def _remove(pointer: Path) -> None:
    """Take a file out of the cache: its link, what that links to, and the content; a person's own file stays."""
    path: Path | None = pointer
    cache = cache_folder().resolve()
    while path and path.parent.resolve().is_relative_to(cache):
        target = path.parent / path.readlink() if path.is_symlink() else None
        path.unlink(missing_ok=True)
        path = target


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:  # a folder that may not be entered
        return None


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _check_name(name: str) -> None:
    if not _REPOSITORY.fullmatch(str(name)) or ".." in name or "--" in name:
        raise HubError(str(name)[:80], "is no name of a repository", "give org/name or org/name@revision")


def endpoint() -> str:
    """Give the Hub's address."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Tell whose an address is: nothing secret goes from one origin to another."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port


def request_headers() -> dict[str, str]:
    """Give what the client sends with a request: its name, and the person's token where there is one."""
    return {name.lower(): value for name, value in client().utils.build_hf_headers().items()}


def transport_error() -> type[Exception]:
    """Find the root of the errors of the library the client speaks HTTP with: requests once, then httpx."""
    root: type[Exception]
    root = next(kind for kind in reversed(client().errors.HfHubHTTPError.__mro__) if kind.__module__ != "builtins")
    return root


@contextmanager
def _translated(where: str, repository: str) -> Iterator[None]:
    """Make one line, with advice, of whatever goes wrong while the client is at work."""
    try:
        yield
    except HubError:
        raise
    except Exception as problem:  # an answer nobody foresaw may break the client anywhere
        raise _explained(where, repository, problem) from problem


def _explained(where: str, repository: str, problem: BaseException) -> HubError:
    causes = [problem]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)
    for cause in causes:
        if (response := getattr(cause, "response", None)) is not None:
            return refusal(where, repository, response.status_code, response.headers)
    if any(map(_is_no_room, causes)):
        found = f"there is no room for it in {cache_folder()}"
        return HubError(where, found, "free some, or set HF_HOME to a larger disk; or convert with --stream")
    if any(isinstance(cause, (transport_error(), ConnectionError, TimeoutError)) for cause in causes):
        return HubError(where, f"the Hub at {endpoint()} does not answer: {first_line(causes[-1])}", GOES_ON)
    if isinstance(problem, OSError):
        return HubError(where, first_line(problem), f"check the Hub's cache, {cache_folder()}")
    kind = f"{type(problem).__name__}: {first_line(problem)}"
    return HubError(where, f"the Hub's answer makes no sense: {kind}", CHECK)


def refusal(where: str, repository: str, status: int, headers: Any) -> HubError:
    """Say what the Hub's refusal means for the person at the keyboard."""
    code, message = headers.get("X-Error-Code", ""), headers.get("X-Error-Message", "")[:120]
    page = f"{endpoint()}/{repository}"
    if code == "GatedRepo":
        advice = f"accept its licence at {page}, then set HF_TOKEN to a token of that account"
        return HubError(where, "the repository is gated", advice)
    if code == "RevisionNotFound":
        return _no_revision(where)
    if code == "EntryNotFound":
        return HubError(where, "the repository has no such file at this commit", f"see {page}")
    if "Invalid credentials" in message:
        return HubError(where, "the Hub does not know the token in HF_TOKEN", "set a valid one, or none")
    if code == "RepoNotFound" or status in (401, 404):
        return HubError(where, "no such repository, or a private one", f"see {page}; a private one needs HF_TOKEN")
    if status == 429:
        return HubError(where, "the Hub wants fewer requests (429)", "wait some minutes; with HF_TOKEN it allows more")
    found = f"the Hub answers {status} {message}".rstrip()
    return HubError(where, found, "later, give the same command again: it goes on" if status >= 500 else f"see {page}")


def _no_revision(where: str) -> HubError:
    return HubError(where, "there is no such revision", "name a branch, a tag or a whole commit, or nothing for main")


def _no_file(repository: Repository, name: str) -> HubError:
    return HubError(f"{repository.name}/{name}"[:200], "the repository has no such file", "check its name")


def not_cached(repository: str, what: str) -> HubError:
    """Say that there is no connection, and nothing in the cache."""
    found = f"{what[:80]} is not in the Hub's cache, and HF_HUB_OFFLINE is set"
    return HubError(repository, found, f"unset it, or copy {storage_folder(repository)} from a machine that has it")


def may_pass(status: int, url: str) -> bool:
    """Tell what may pass by itself: a busy server, or a link into the storage that has expired."""
    return status in (408, 425, 429) or status >= 500 or (status == 403 and origin(url) != origin(endpoint()))


def _is_no_room(problem: BaseException) -> bool:
    return isinstance(problem, OSError) and problem.errno in _NO_ROOM


def first_line(problem: BaseException) -> str:
    """Shorten what a library says of its failure."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:160]
