"""Minimal pairs: one meaning in a European and in a Brazilian wording, as TOML that a linguist reads and writes."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amalia_edge.errors import BenchError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent / "portuguese"
CLASSES = (
    "lexicon", "clitics", "progressive", "object-pronouns", "treatment", "contractions", "spelling",
    "null-subject", "demonstratives", "motion", "collocations",
)  # fmt: skip
STRENGTHS = ("categorical", "gradient")
REGISTERS = ("neutral", "formal", "informal")
OF_A_FILE = ("class", "strength", "reviewed_by", "pair")
OF_A_PAIR = ("id", "european", "brazilian", "norm", "register", "context", "strength", "reviewed_by")
OPTIONAL = ("context", "reviewed_by")  # empty where they are not given


@dataclass(frozen=True)
class Pair:
    """Two wordings that differ in one point; `context` stands before both and is not scored."""

    id: str
    group: str  # one of CLASSES
    strength: str  # categorical: the Brazilian wording is wrong in Portugal; gradient: both are heard there
    european: str
    brazilian: str
    norm: str  # the point they differ in
    register: str
    context: str
    reviewed_by: str


def read_pairs(path: Path | None = None) -> list[Pair]:
    """Read a file of pairs or a folder of them, by the names of its files; None: the pairs of this project."""
    path = path or FOLDER / "pairs"
    files = sorted(path.glob("*.toml")) if path.is_dir() else [path]
    seen: dict[str, str] = {}  # the file of each id
    pairs = [pair for file in files for pair in _read(file, seen)]
    if not pairs:
        raise BenchError(path.name, "no pairs in it", "give a file of pairs, or a folder of *.toml")
    return pairs


def hash_of(pairs: Sequence[Pair]) -> str:
    """Hash what is scored, whatever the files' layout: a reviewer's name or a comment changes nothing."""
    scored = sorted((pair.id, pair.group, pair.strength, pair.context, pair.european, pair.brazilian) for pair in pairs)
    return hashlib.sha256(json.dumps(scored, ensure_ascii=False).encode()).hexdigest()


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file that somebody wrote by hand."""
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except UnicodeDecodeError as problem:
        raise BenchError(path.name, f"byte {problem.start}: no UTF-8", "save it as UTF-8") from None
    except OSError as problem:
        raise BenchError(path.name, problem.strerror or "unreadable", "give a TOML file") from None
    except tomllib.TOMLDecodeError as problem:
        raise BenchError(path.name, f"no TOML: {problem}", "mend that line") from None
    return content


def _read(path: Path, seen: dict[str, str]) -> list[Pair]:
    content = read_toml(path)
    _known(content, OF_A_FILE, path.name)
    listed = content.get("pair", [])
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise BenchError(path.name, "`pair` is no list", "begin each pair with [[pair]]")
    head = {key: content[key] for key in OF_A_FILE[:3] if key in content}
    pairs = [_pair({**head, **one}, one, path.name, place) for place, one in enumerate(listed, 1)]
    for pair in pairs:
        if pair.id in seen:
            found = f"the id of another pair too, in {seen[pair.id]}"
            raise BenchError(f"{path.name}: {pair.id}", found, "give each its own id")
        seen[pair.id] = path.name
    return pairs


def _pair(told: Mapping[str, Any], own: Mapping[str, Any], file: str, place: int) -> Pair:
    where = f"{file}: {own.get('id') or f'pair {place}'}"
    _known(own, OF_A_PAIR, where)
    words = {key: told.get(key, "" if key in OPTIONAL else None) for key in (*OF_A_PAIR, "class")}
    for key, value in words.items():
        if value is None:
            missing = "above the first pair" if key in ("class", "strength") else "to the pair"
            raise BenchError(where, f"no {key}", f'add {key} = "…" {missing}')
        if not isinstance(value, str) or (not value.strip() and key not in OPTIONAL):
            raise BenchError(where, f"{key} is no text", f'give {key} = "…"')
    text = {key: str(value).strip() for key, value in words.items()}
    for key, choices in (("class", CLASSES), ("strength", STRENGTHS), ("register", REGISTERS)):
        if text[key] not in choices:
            raise BenchError(where, f"{key} {text[key]!r}", "one of " + ", ".join(choices))
    if text["european"] == text["brazilian"]:
        raise BenchError(where, "both wordings are the same", "let them differ in one point, or take the pair out")
    return Pair(group=text.pop("class"), **text)


def _known(told: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in told:
        if key not in keys:
            raise BenchError(where, f"an unknown key {key!r}", "known are " + ", ".join(keys))
