"""Texts to measure on: six registers of European Portuguese, the same in English, and a user's own."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from amalia_edge.errors import UsageError

LANGUAGES = ("pt-PT", "en")
REGISTERS = (
    "administrative",
    "literary",
    "technical",
    "conversational",
    "news",
    "school",
)  # the whole is in this order
MOST = 64 << 20  # bytes of a user's text: weeks of reading on a small machine


@dataclass(frozen=True)
class Text:
    """A text, known by its hash: figures of two different texts are not compared."""

    name: str
    text: str
    sha256: str  # of its UTF-8


def embedded() -> dict[str, Text]:
    """Give the texts that came with us: each language whole, and each of its registers as `pt-PT/news`."""
    found = {}
    for language in LANGUAGES:
        registers = {f"{language}/{register}": _embedded(language, register) for register in REGISTERS}
        found[language] = _text(language, "\n\n".join(registers.values()))
        found |= {name: _text(name, text) for name, text in registers.items()}
    return found


def read_text(path: Path) -> Text:
    """Read a user's text as it is, but for one newline at its end, which llama-perplexity leaves out too."""
    if path.is_dir():
        raise UsageError(path.name, "a folder", "give a text file in UTF-8")
    if path.exists() and not path.is_file():
        raise UsageError(path.name, "not a file", "give a text file in UTF-8")
    try:
        with path.open("rb") as file:
            content = file.read(MOST + 1)
    except OSError as problem:
        raise UsageError(path.name, problem.strerror or "unreadable", "give a text file in UTF-8") from None
    if len(content) > MOST:
        raise UsageError(path.name, f"more than {MOST >> 20} MiB", "give a part of it: head -c 1M is plenty")
    try:
        text = content.decode()
    except UnicodeDecodeError as problem:
        advice = "save it as UTF-8: iconv -f ISO-8859-1 -t UTF-8"
        raise UsageError(f"{path.name}: byte {problem.start}", "not UTF-8", advice) from None
    if not text.strip():
        raise UsageError(path.name, "no text in it", "give a text file in UTF-8")
    return _text(path.name, text.removesuffix("\n"))


def _embedded(language: str, register: str) -> str:
    return Path(__file__).with_name("texts").joinpath(language, f"{register}.txt").read_text("utf-8").strip()


def _text(name: str, text: str) -> Text:
    return Text(name, text, hashlib.sha256(text.encode()).hexdigest())
