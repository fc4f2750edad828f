"""Profiles of use: what a museum guide or a public desk is told, how it samples, and the form of its answers.

A profile is a small TOML file. One of the user's goes before one of the machine's, and both before those that come with
this package. A profile is data from outside: bounded, typed, and refused by the name of what is wrong in it.
"""

import contextlib
import difflib
import json
import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from amalia_edge import schema_rules
from amalia_edge.errors import UsageError
from amalia_edge.home import in_home
from amalia_edge.load_config import LoadConfig
from amalia_edge.sampler import SamplingConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMAT = 1
LARGEST = 64 << 10  # bytes
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
KEYS = ("format", "description", "system", "context", "sampling", "schema", "knowledge", "page")
RESERVED = ("knowledge", "page")  # tables that a later version will read
TYPES: dict[Any, tuple[tuple[type, ...], str]] = {
    float: ((int, float), "a number"),
    int: ((int,), "a whole number"),
    str: ((str,), "a text"),
    bool: ((bool,), "true or false"),
}
NOT_FOR_PROFILES = ("ignore_end", "logprobs", "seed")  # what belongs to a measurement, or to one answer


@dataclass(frozen=True)
class Profile:
    """What a profile says; None where it leaves the model to decide."""

    name: str
    path: Path
    description: str = ""
    system: str | None = None  # "" for no system prompt at all
    context: int | None = None  # tokens
    sampling: Mapping[str, Any] = field(default_factory=dict)  # fields of SamplingConfig
    schema: Mapping[str, Any] | None = None  # a JSON schema that every answer keeps to
    reserved: tuple[str, ...] = ()  # tables in it that this version leaves alone


@dataclass(frozen=True)
class Folder:
    origin: str  # as people say it: yours, this machine's, built in
    path: Path


def profile_folders() -> list[Folder]:
    """Give the folders profiles are looked up in, the first one first; they need not exist."""
    yours: list[Folder] = []
    with contextlib.suppress(UsageError):  # nobody's home
        settings = Path(os.environ.get("XDG_CONFIG_HOME") or in_home("~/.config"))
        yours.append(Folder("yours", settings / "amalia" / "profiles"))
    return [
        *yours,
        Folder("this machine's", Path("/etc/amalia/profiles")),
        Folder("built in", Path(__file__).with_name("profiles")),
    ]


def find_profile(name: str, folders: Sequence[Folder] | None = None) -> Path:
    """Give the file of a profile: a path that ends in .toml, or a name, which never leads out of the folders."""
    if name.endswith(".toml"):
        return Path(name)
    if not NAME.fullmatch(name):
        advice = "give a name that `amalia profiles` lists, or a path that ends in .toml"
        raise UsageError("profile", f"{name[:80]!r} is not a profile's name", advice)
    known = list_profiles(folders)
    if name not in known:
        raise UsageError("profile", f"there is no {name}", _nearest(name, known) or "amalia profiles lists them")
    return known[name][1]


def list_profiles(folders: Sequence[Folder] | None = None) -> dict[str, tuple[str, Path]]:
    """Give the origin and the file of each name there is, sorted; the first folder that has a name wins."""
    found: dict[str, tuple[str, Path]] = {}
    for folder in profile_folders() if folders is None else folders:
        try:
            files = sorted(folder.path.glob("*.toml"))
        except OSError:  # a folder that may not be read
            continue
        for file in files:
            if NAME.fullmatch(file.stem):
                found.setdefault(file.stem, (folder.origin, file))
    return dict(sorted(found.items()))


def read_profile(path: Path) -> Profile:
    """Read a profile; whatever is wrong in it is named."""
    content = _parse(path, read_text(path))
    _check_format(path, content)
    for key in content:
        if key not in KEYS:
            raise _wrong(path, f"unknown key {key!r}", _nearest(key, KEYS) or "known are " + ", ".join(KEYS))
    for key in RESERVED:
        _take(path, content, key, dict, "a table")
    system = _take(path, content, "system", str, "a text")
    context = _take(path, content, "context", int, "a whole number of tokens")
    sampling = _sampling(path, _take(path, content, "sampling", dict, "a table") or {})
    try:
        LoadConfig(context=context)
        SamplingConfig(**sampling)
    except UsageError as refused:
        raise _wrong(path, f"{refused.where}: {refused.found}", refused.advice) from None
    return Profile(
        name=path.stem,
        path=path,
        description=_take(path, content, "description", str, "a text") or "",
        system=None if system is None else system.strip(),
        context=context,
        sampling=sampling,
        schema=_schema(path, content.get("schema")),
        reserved=tuple(key for key in RESERVED if key in content),
    )


def read_text(path: Path, largest: int = LARGEST) -> str:
    """Read a text file whole: a plain file, bounded, UTF-8."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a device never ends, a pipe never begins
            raise _wrong(path, "not a plain file", "give a text file")
        with path.open("rb") as file:
            raw = file.read(largest + 1)
    except (OSError, ValueError) as problem:
        raise _wrong(
            path, getattr(problem, "strerror", None) or str(problem), "give a text file that can be read"
        ) from None
    if len(raw) > largest:
        raise _wrong(path, f"more than {largest:,} bytes", "shorten it")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        advice = "convert it: iconv -f latin1 -t utf-8"
        raise _wrong(path, f"byte {problem.start} is not UTF-8", advice) from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = tomllib.loads(text)
    except ValueError as problem:  # beside its syntax: a number of more digits than Python reads
        raise _wrong(path, str(problem), "see toml.io") from None
    except RecursionError:
        raise _wrong(path, "nested too deep", "a profile has tables of one level") from None
    _check_numbers(path, content)
    return content


def _check_numbers(path: Path, content: dict[str, Any]) -> None:
    """Refuse numbers so large that Python does not write them."""
    waiting: list[Any] = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, (dict, list)):
            waiting += part.values() if isinstance(part, dict) else part
        elif isinstance(part, int) and part.bit_length() > 64:
            raise _wrong(path, "a number beyond 64 bits", "write a smaller one")


def _check_format(path: Path, content: Mapping[str, Any]) -> None:
    """Look at the format before all else: a newer one may have keys and types we do not know."""
    told = _take(path, content, "format", int, "a whole number")
    if told is None:
        raise _wrong(path, "no format", f"begin it with: format = {FORMAT}")
    if told != FORMAT:
        newer = "take a newer amalia" if told > FORMAT else f"write format = {FORMAT}"
        raise _wrong(path, f"format {told}, and this version reads {FORMAT}", newer)


def _take(path: Path, content: Mapping[str, Any], key: str, kind: type, said: str) -> Any:
    value = content.get(key)
    if value is not None and not (isinstance(value, kind) and not isinstance(value, bool)):
        raise _wrong(path, f"{key} is {_short(value)}", f"it must be {said}")
    return value


def _sampling(path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """Check names and types against the fields of SamplingConfig, the one place that lists them."""
    hints = {name: hint for name, hint in get_type_hints(SamplingConfig).items() if _settable(name, hint)}
    said = {}
    for name, value in table.items():
        if name not in hints:
            raise _wrong(path, f"unknown key {name!r} in [sampling]", _nearest(name, hints) or "see amalia run --help")
        said[name] = _typed(path, f"sampling.{name}", value, hints[name])
        if name == "dry_breakers" and not value:
            raise _wrong(path, "sampling.dry_breakers is empty", "write ['none'] where nothing ends a repetition")
    return said


def _settable(name: str, hint: Any) -> bool:
    """Tell whether a profile may set a field: a plain value or a list of texts that is not one answer's own."""
    kinds = get_args(hint) or (hint,)
    plain = kinds[0] is str if get_origin(hint) is tuple else any(kind in TYPES for kind in kinds)
    return plain and name not in NOT_FOR_PROFILES


def _typed(path: Path, key: str, value: Any, hint: Any) -> Any:
    if get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise _wrong(path, f"{key} is {_short(value)}", "it must be a list of texts")
        return tuple(value)
    kinds, said = next(TYPES[kind] for kind in (get_args(hint) or (hint,)) if kind in TYPES)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise _wrong(path, f"{key} is {_short(value)}", f"it must be {said}")
    return value


def _schema(path: Path, value: Any) -> Mapping[str, Any] | None:
    """Take a schema as a table, or as the JSON text that other tools know."""
    if value is None:
        return None
    try:
        schema = json.loads(value) if isinstance(value, str) else json.loads(json.dumps(value, allow_nan=False))
    except (ValueError, TypeError, RecursionError) as problem:  # TOML has dates, JSON has none
        raise _wrong(path, f"schema: {problem}", "it must be a JSON schema") from None
    if not isinstance(schema, dict):
        raise _wrong(path, f"schema is {_short(value)}", "it must be a JSON object")
    try:
        schema_rules.checked(schema)
    except UsageError as refused:
        raise _wrong(path, f"{refused.where}: {refused.found}", refused.advice) from None
    return schema


def _wrong(path: Path, found: str, advice: str) -> UsageError:
    return UsageError(str(path), found, advice)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {near[0]}?" if near else ""
