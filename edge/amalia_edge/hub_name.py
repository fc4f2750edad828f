"""How people write a model on the Hub: `user/repo:Q4_K_M`, `hf.co/user/repo`, or the address of a page or a file."""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from amalia_edge import hub
from amalia_edge.gguf_names import spelt

_NAME = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./+-]+))?(:(?P<tag>[\w./-]+))?", re.ASCII
)
_HOSTS = {"hf.co", "huggingface.co", "www.huggingface.co"}
_PAGES = {"resolve", "blob", "raw", "tree"}  # what stands between a repository and a revision in an address


@dataclass(frozen=True)
class HubName:
    """A repository, and which of its models is meant: at a level, or in a file, else whatever there is."""

    repository: str
    revision: str | None = None
    level: str = ""
    file: str = ""

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        tag = self.file or self.level
        return f"{self.repository}{revision}" + (f":{tag}" if tag else "")


def parse_name(text: str) -> HubName | None:
    """Understand a name as people write it; None where it is no name of anything on the Hub."""
    scheme, separator, rest = text.strip().rpartition("://")
    host, _, path = rest.partition("/")
    if host.lower() in {*_HOSTS, urlsplit(hub.endpoint()).netloc} and scheme.lower() in ("", "http", "https"):
        return _address(path) if separator else _plain(path) or _address(path)
    return None if separator else _plain(text.strip())


def _plain(text: str) -> HubName | None:
    found = _NAME.fullmatch(text)
    if not found or found["repository"].lower().endswith(".gguf"):  # the last is a file in a folder
        return None
    tag = found["tag"] or ""
    if tag.lower().endswith(".gguf"):
        return HubName(found["repository"], found["revision"], file=tag)
    return HubName(found["repository"], found["revision"], "" if tag == "latest" else spelt(tag))


def _address(path: str) -> HubName | None:
    """Take an address apart behind its host; a revision with a slash is one part of it, %2F inside."""
    parts = [unquote(part) for part in re.split("[?#]", path)[0].split("/") if part]
    name, more = _plain("/".join(parts[:2])), parts[2:]
    if name is None or not more:
        return name
    revision = more[1] if more[0] in _PAGES and len(more) > 1 else None
    file = "/".join(more[2:] if revision else more)
    if file.lower().endswith(".gguf"):
        return HubName(name.repository, revision, file=file)
    return HubName(name.repository, revision) if revision else None
