"""A checkpoint's chat templates, from whichever of the Hub's places they lie in."""

import re
from collections.abc import Iterable
from pathlib import Path

from amalia_convert.checkpoint import Json, read_json, read_text
from amalia_convert.metadata import Metadata, string
from amalia_edge.errors import ModelCorrupt

JINJA, OLD, MORE = "chat_template.jinja", "chat_template.json", "additional_chat_templates"
MOST_TEMPLATES = 64  # beside the default one
_ADDITIONAL = re.compile(rf"{MORE}/[^/]+\.jinja")


def is_template(name: str) -> bool:
    """Tell by a file's name within its folder or repository whether it holds chat templates."""
    return name in (JINJA, OLD) or _ADDITIONAL.fullmatch(name) is not None


def find_templates(names: Iterable[str]) -> list[str]:
    """Choose the files that hold chat templates from a folder's or a repository's; refuse more than any model has."""
    found = sorted(name for name in names if is_template(name))
    _check_count(sum(name not in (JINJA, OLD) for name in found))
    return found


def describe_templates(folder: Path, config: Json) -> Metadata:
    """Find the templates; the file chat_template.jinja wins, as in transformers."""
    named = _named(folder, config)
    default = named.pop("default", None)
    found = {f"tokenizer.chat_template.{name}": string(text) for name, text in named.items()}
    if named:
        found["tokenizer.chat_templates"] = string(tuple(named))
    if default is not None:
        found["tokenizer.chat_template"] = string(default)
    return found


def _named(folder: Path, config: Json) -> dict[str, str]:
    if (folder / JINJA).is_file():
        names = find_templates(f"{MORE}/{path.name}" for path in (folder / MORE).glob("*.jinja") if path.is_file())
        more = {_safe(Path(name).stem): read_text(folder / name) for name in names}
        return more | {"default": read_text(folder / JINJA)}
    template = config.get("chat_template")
    if template is None and (folder / OLD).is_file():
        template = read_json(folder / OLD).get("chat_template")
    if isinstance(template, str):
        return {"default": template}
    listed = template if isinstance(template, list) else []
    _check_count(len(listed) - 1)
    return {
        _safe(entry["name"]): entry["template"]
        for entry in listed
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
    }


def _check_count(additional: int) -> None:
    if additional > MOST_TEMPLATES:
        found = f"{additional} of them beside the default one, at most {MOST_TEMPLATES} are taken"
        raise ModelCorrupt("chat templates", found, "remove those that are not needed")


def _safe(name: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)
