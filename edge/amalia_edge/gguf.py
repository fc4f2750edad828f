"""A GGUF, read without trusting it, in one file or in parts, before libllama sees it."""

import mmap
import re
from pathlib import Path

from amalia_edge.errors import ModelCorrupt, ModelError, ModelNotFound
from amalia_edge.gguf_format import BLOCKS, KINDS, MAGIC, MOST_TENSORS, Array, Cursor, Layout, TensorInfo
from amalia_edge.gguf_header import FILE_TYPES, Header
from amalia_edge.gguf_keys import MOST_BLOCKS
from amalia_edge.gguf_rules import check_geometry, check_model

__all__ = [
    "BLOCKS", "FILE_TYPES", "KINDS", "MAGIC", "MOST_BLOCKS", "Array", "Header", "TensorInfo",
    "check_geometry", "examine_header", "part_paths", "read_header",
]  # fmt: skip

LISTED = 3  # of the files that are missing
NAMES = "give the parts the names they were made with: NAME-00001-of-00003.gguf"
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def read_header(path: Path, *, model: bool = True) -> Header:
    """Read and check a GGUF's header, and those of its other parts; refuse it with the byte where it breaks the format.

    `model=False` is for files in the format that are no whole model: importance data, an adapter, one part by itself.
    """
    if model:
        header = _joined(path)
        check_model(header)
    else:
        header = _header((path,), [_layout(path)])
    header.texts.clear()
    return header


def examine_header(path: Path) -> tuple[Header, ModelError | None]:
    """Read a model's header for a person to look at, and beside it the rule for which it would be refused."""
    header, fault = _joined(path), None
    try:
        check_model(header)
    except ModelError as broken:
        fault = broken
    header.texts.clear()
    return header, fault


def _joined(path: Path) -> Header:
    """Read a header and those of its other parts."""
    layout = _layout(path)
    if layout.kinds.get("split.count") == 2 and layout.metadata["split.count"] > 1:
        paths = part_paths(path)
        return _header(paths, [layout if part == path else _layout(part) for part in paths])
    return _header((path,), [layout])


def part_paths(path: Path) -> tuple[Path, ...]:
    """Name all the parts of a model by the name of any of them, after checking that they are there."""
    part = _PART.fullmatch(path.name)
    if part is None:
        raise ModelCorrupt(path.name, "a part of a model, not called like one", NAMES)
    at, count = int(part["number"]), int(part["count"])
    if not 1 <= at <= count:
        raise ModelCorrupt(path.name, f"is called part {at} of {count}", NAMES)
    paths = tuple(path.with_name(f"{part['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1))
    missing = [one.name for one in paths if not one.is_file()]
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        raise ModelNotFound(str(path.parent), f"missing {', '.join(missing[:LISTED])}{more}", "put them there too")
    return paths


def _layout(path: Path) -> Layout:
    try:
        if not path.exists():
            raise ModelNotFound(str(path), "no such file", "give a GGUF file, a stored name, or fadinho")
        if not path.is_file():
            advice = "give a GGUF file; a checkpoint folder goes through amalia convert"
            raise ModelNotFound(str(path), "not a file", advice)
        size = path.stat().st_size
        with path.open("rb") as file:
            if size < 24:
                found = f"{size} bytes, too short for a GGUF header"
                raise ModelCorrupt(str(path), found, "download or convert it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return Cursor(path, view).layout()
    except (OSError, ValueError) as problem:  # ValueError: emptied meanwhile, or a name with a NUL in it
        found = getattr(problem, "strerror", None) or str(problem)
        raise ModelNotFound(str(path), found, "check the file and its permissions") from None


def _header(paths: tuple[Path, ...], layouts: list[Layout]) -> Header:
    """Join the parts of a model, after checking that they belong together."""
    first = layouts[0]
    tensors = [
        TensorInfo(one.name, one.shape, one.kind, one.offset, one.nbytes, part)
        for part, layout in enumerate(layouts)
        for one in layout.tensors
    ]
    if len(layouts) > 1:
        _check_parts(paths, layouts, tensors)
    size = sum(layout.size for layout in layouts)
    told = first.version, first.metadata, tuple(tensors), first.data_offset, size, first.spans, first.kinds
    return Header(paths[0], *told, paths, first.texts)


def _check_parts(paths: tuple[Path, ...], layouts: list[Layout], tensors: list[TensorInfo]) -> None:
    for number, (path, layout) in enumerate(zip(paths, layouts, strict=True)):
        told = layout.metadata.get("split.no"), layout.metadata.get("split.count")
        if told != (number, len(paths)) or layout.kinds["split.no"] != 2 or layout.kinds["split.count"] != 2:
            found = (
                f"calls itself number {told[0]} of {told[1]}, and lies in the place of number {number} of {len(paths)}"
            )
            raise ModelCorrupt(path.name, found, NAMES)
        strange = [key for key in layout.metadata if not key.startswith("split.") and key != "general.alignment"]
        if number and strange:
            raise ModelCorrupt(
                f"{path.name}: {strange[0]}", "a key that belongs in the first part", "make the parts again"
            )
    wanted = layouts[0].metadata.get("split.tensors.count")
    if wanted != len(tensors) or len(tensors) > MOST_TENSORS:
        found = f"{len(tensors)} tensors in all parts, and the first says {wanted}"
        raise ModelCorrupt(paths[0].name, found, "take all parts from one model")
    seen: dict[str, int] = {}
    for tensor in tensors:
        if tensor.name in seen:
            found = f"in parts {seen[tensor.name] + 1} and {tensor.part + 1}"
            raise ModelCorrupt(f"{paths[0].name}: tensor {tensor.name}", found, "take all parts from one model")
        seen[tensor.name] = tensor.part
