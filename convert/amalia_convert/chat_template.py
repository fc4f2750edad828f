"""A checkpoint's chat templates, from whichever of the Hub's places they lie in."""

from pathlib import Path

from amalia_convert.checkpoint import Json, read_json, read_text
from amalia_convert.metadata import Metadata, string

JINJA, OLD, MORE = "chat_template.jinja", "chat_template.json", "additional_chat_templates"


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
        more = {_safe(path.stem): read_text(path) for path in sorted((folder / MORE).glob("*.jinja"))}
        return more | {"default": read_text(folder / JINJA)}
    template = config.get("chat_template")
    if template is None and (folder / OLD).is_file():
        template = read_json(folder / OLD).get("chat_template")
    if isinstance(template, str):
        return {"default": template}
    return {
        _safe(entry["name"]): entry["template"]
        for entry in (template if isinstance(template, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)
    }


def _safe(name: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)
