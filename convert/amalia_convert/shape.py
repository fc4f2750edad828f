"""Geometries of published models: a name, or a config.json, becomes the header of every level's file. No weight is read.

The runtime finds `headers` under the entry-point group `amalia.shapes`: it plans for files that nobody has made yet.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from amalia_convert.conversion import open_draft
from amalia_convert.level_table import level_table
from amalia_convert.levels import LEVELS
from amalia_convert.metadata import Metadata
from amalia_convert.plan import Draft, OutputPlan, plan_output
from amalia_convert.recipe import Recipe
from amalia_convert.source import Source, find_source
from amalia_edge.errors import ModelNotFound
from amalia_edge.gguf import Header, TensorInfo

SHAPES = Path(__file__).parent / "shapes"
SPECIAL = ("MXFP4_MOE", "Q2_0", "TQ2_0", "TQ1_0", "Q1_0")  # for models that were trained for them; no use to any other


def shape_names() -> list[str]:
    return sorted(file.stem for file in SHAPES.glob("*.json"))


def headers(wanted: str) -> dict[str, Header]:
    """Give the header of each level an ordinary model may have, the largest first; the vocabulary is not in them.

    Levels that need importance data are left out.
    """
    source = find_shape(wanted)
    draft = open_draft(source)
    names = [row.name for row in level_table() if not row.needs_importance and row.name not in SPECIAL]
    found = {name: _header(output, draft) for name, output in zip(names, _outputs(source, draft, names), strict=True)}
    return dict(sorted(found.items(), key=lambda item: -item[1].weight_bytes))


def find_shape(wanted: str) -> Source:
    """Find a configuration: by the name of a shape, or by its path."""
    file = SHAPES / f"{wanted}.json"
    if wanted in shape_names():
        return replace(find_source(str(file)), name=wanted)
    if not (wanted.endswith(".json") and Path(wanted).expanduser().is_file()):
        raise ModelNotFound(wanted, "no such shape", f"give a config.json, or one of {', '.join(shape_names())}")
    return find_source(wanted)


def plan_level(wanted: str, level: str, more: Metadata | None = None) -> OutputPlan:
    """Plan one level's file of a shape; `more` are keys its header gets besides."""
    source = find_shape(wanted)
    draft = open_draft(source)
    (output,) = _outputs(source, replace(draft, metadata=draft.metadata | (more or {})), [level])
    return output


def _outputs(source: Source, draft: Draft, names: list[str]) -> Iterator[OutputPlan]:
    for name in names:
        yield plan_output(Recipe(LEVELS[name]), Path(source.file_name(name)), draft)


def _header(output: OutputPlan, draft: Draft) -> Header:
    """Give what reading the file's header would give."""
    metadata = {key: value.content for key, value in draft.metadata.items() if not isinstance(value.content, tuple)}
    tensors = (
        TensorInfo(one.name, tuple(reversed(one.shape)), one.block.name, one.offset, one.nbytes)
        for one in output.tensors
    )
    return Header(
        path=output.path,
        version=3,
        metadata=metadata | {"general.file_type": output.level.file_type},
        tensors=tuple(tensors),
        data_offset=len(output.header),
        file_size=output.nbytes,
    )
