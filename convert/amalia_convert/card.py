"""What a checkpoint says of itself: its README's front matter and its name → GGUF's `general.*`."""

import logging
from pathlib import Path
from typing import Any

from amalia_convert.checkpoint import Checkpoint, read_text
from amalia_convert.metadata import Metadata, Value, float32, int32, string, uint32
from amalia_convert.source import Source
from amalia_edge.errors import ModelCorrupt

LONGEST_CARD = 300_000  # characters of front matter; those with many evaluation results take about half
DEEPEST_CARD = 32
_CORRECT = "correct the block between the --- lines"


def describe_source(source: Source, checkpoint: Checkpoint, architecture: str, parameters: int) -> Metadata:
    """Write `general.*` through gguf's own reading of model cards, so that other tools find what they expect."""
    import gguf

    _check_card(source.folder / "README.md")
    logging.getLogger("metadata").setLevel(logging.CRITICAL)  # gguf grumbles about cards it can do without
    try:
        card = gguf.Metadata.load(None, source.folder, None, parameters)
        told = gguf.Metadata.load_generation_config(source.folder)  # of which gguf knows llama.cpp's own names only
        card.sampling_penalty_repeat = told.get("penalty_repeat", told.get("repetition_penalty"))
        _name(card, source, parameters)
        writer = gguf.GGUFWriter(None, architecture)
        writer.add_type(gguf.GGUFType.MODEL)
        card.set_gguf_meta_model(writer)
        entries = {key: _value(entry) for key, entry in writer.kv_data[0].items()}
    except Exception as error:  # a model card is free text: yaml and gguf raise whatever they met in it
        found = f"README.md or generation_config.json cannot be read ({' '.join(str(error).split())[:120]})"
        raise ModelCorrupt(str(source.folder), found, _CORRECT) from None
    return {key: value for key, value in entries.items() if value is not None}


def _check_card(path: Path) -> None:
    """Refuse front matter that is large, or grows while it is read: each alias is a copy, which may hold aliases."""
    lines = read_text(path).splitlines() if path.is_file() else []
    if not lines or lines[0] != "---":
        return
    end = lines.index("---", 1) if "---" in lines[1:] else len(lines)
    text = "\n".join(lines[1:end]).replace("\t", "  ")  # as gguf reads it
    if len(text) > LONGEST_CARD:
        raise ModelCorrupt(str(path), f"{len(text)} characters between the --- lines", f"{LONGEST_CARD} are read")
    if fault := _fault(text):
        raise ModelCorrupt(str(path), fault, _CORRECT)


def _fault(text: str) -> str | None:
    """Find an alias, or brackets so deep that yaml takes minutes; what is no YAML at all gguf will say."""
    import yaml

    depth = 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                return f"a YAML alias (*{event.anchor[:40]}), which is not taken"
            if depth > DEEPEST_CARD:
                return f"more than {DEEPEST_CARD} lists or tables inside one another"
    except (yaml.YAMLError, ValueError):
        pass
    return None


def _name(card: Any, source: Source, parameters: int) -> None:
    """Complete what the card leaves open from the source's own name, never from the folder's path."""
    import gguf

    named = gguf.Metadata.get_model_id_components(source.name, parameters)
    _, _, basename, finetune, version, size_label = named
    declared = gguf.Metadata.load_model_card(source.folder)
    if not declared.get("name") and not declared.get("model_name"):
        card.name = gguf.Metadata.id_to_title(source.name)
        card.basename = declared.get("basename") or declared.get("model_basename") or basename
        card.finetune, card.version = declared.get("finetune") or finetune, declared.get("version") or version
        card.size_label = size_label
    if source.embedded:
        card.name = card.basename = source.name  # the runtime knows it by this name
        card.finetune = card.version = None
    if card.size_label is None:
        card.size_label = gguf.size_label(parameters, parameters, 0, 0)
    if source.repository and not card.source_repo_url:
        card.source_repo_url = f"https://huggingface.co/{source.repository}"
    _split_languages(card)


def _split_languages(card: Any) -> None:
    """Keep two-letter codes as languages; a regional one (`pt-PT`) becomes a tag, and its language a language."""
    languages: list[str] = []
    tags = [str(tag) for tag in card.tags or []]
    for code in map(str, card.languages or []):
        if "-" in code and code not in tags:
            tags.append(code)
        if (short := code.split("-")[0]) not in languages:
            languages.append(short)
    card.languages, card.tags = languages or None, tags or None


def _value(entry: Any) -> Value | None:
    """Give a key its type; a number where a text belongs (`version: 1.0`) is written as text."""
    kind, content = entry.type.name, entry.value
    if kind == "STRING":
        return string(str(content))
    if kind == "ARRAY":
        return string(tuple(str(item) for item in content)) if content else None
    if kind == "UINT32":
        return uint32(int(content))
    return int32(int(content)) if kind == "INT32" else float32(float(content))
