"""A 16-bit GGUF as a source, in one file or in parts (`-00001-of-00004.gguf`): its own metadata, its own tensors."""

import re
from pathlib import Path

from amalia_convert.checkpoint import LISTED, LocalFile, Shard
from amalia_convert.families import MappedTensor
from amalia_convert.metadata import Metadata, Value
from amalia_convert.plan import Draft
from amalia_convert.recipe import Geometry
from amalia_convert.shard import StoredTensor
from amalia_edge.errors import CheckpointIncomplete, ModelCorrupt, ModelUnsupported
from amalia_edge.gguf import MOST_BLOCKS, Header, read_header

PRECISE, PLAIN = ("F32", "F16", "BF16"), ("I8", "I16", "I32", "I64", "F64")
# What llama-quantize drops, what it sets anew at the end (plan.py does), and the alignment: ours is GGUF's own.
DROPPED = (
    "split.no", "split.count", "split.tensors.count", "general.quantization_version", "general.file_type",
    "general.alignment",
)  # fmt: skip
_NAMES = "give the parts the names they were made with"
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_PRECISION = re.compile(r"[-.](bf16|f16|f32)$", re.IGNORECASE)


def model_name(path: Path) -> str:
    """Name the model without its part and precision: `EuroLLM-9B-BF16-00001-of-00002.gguf` is EuroLLM-9B."""
    part = _PART.fullmatch(path.name)
    return _PRECISION.sub("", part["stem"] if part else path.stem)


def open_gguf(path: Path) -> Draft:
    """Read the headers of a 16-bit GGUF and of all its parts; no weight is read."""
    parts = _parts(path)
    stamps = [LocalFile(part).stamp for part in parts]  # before the headers: what changes from now on is noticed
    headers = [read_header(part, model=False) for part in parts]  # what is written is checked as a model
    for number, header in enumerate(headers):
        told = header.metadata.get("split.no", 0), header.metadata.get("split.count", 1) or 1
        if told != (number, len(parts)):
            found = f"calls itself part {told[0]} of {told[1]}, and lies in the place of {number} of {len(parts)}"
            raise ModelCorrupt(str(header.path), found, _NAMES)
    shards = tuple(
        Shard(LocalFile(header.path), tuple(_tensors(header)), stamp)
        for header, stamp in zip(headers, stamps, strict=True)
    )
    stored = [tensor for shard in shards for tensor in shard.tensors]
    if len({tensor.name for tensor in stored}) != len(stored):
        raise ModelCorrupt(str(path), "two parts hold a tensor of one name", "take the parts from one model")
    first = headers[0]
    geometry = _geometry(first)
    if not stored:
        raise ModelUnsupported(str(path), "holds no weights", "take the file of the whole model")
    tensors = sorted((MappedTensor(tensor.name, tensor, settled=True) for tensor in stored), key=_place)
    return Draft(_metadata(first), tensors, shards, geometry)


def _parts(path: Path) -> list[Path]:
    part = _PART.fullmatch(path.name)
    if part is None:
        return [path]
    at, count = int(part["number"]), int(part["count"])
    if not 1 <= at <= count:
        raise ModelCorrupt(str(path), f"is called part {at} of {count}", _NAMES)
    paths = [path.with_name(f"{part['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    missing = [one.name for one in paths if not one.is_file()]
    if missing:
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        found = f"parts missing: {', '.join(missing[:LISTED])}{more}"
        raise CheckpointIncomplete(str(path.parent), found, "put them there too")
    return paths


def _tensors(header: Header) -> list[StoredTensor]:
    for tensor in header.tensors:
        if tensor.kind not in PRECISE:
            why = "numbers, not 16-bit weights" if tensor.kind in PLAIN else "the file is quantized already"
            found = f"tensor {tensor.name} is {tensor.kind}: {why}"
            raise ModelUnsupported(str(header.path), found, "take the BF16, F16 or F32 file, or the checkpoint")
    return [
        StoredTensor(tensor.name, tensor.kind, tensor.shape[::-1], header.path, tensor.offset, tensor.nbytes)
        for tensor in header.tensors
    ]


def _metadata(header: Header) -> Metadata:
    """Keep every key's bytes as they are."""
    found: Metadata = {}
    with header.path.open("rb") as file:
        for key, (start, end) in header.spans.items():
            if key not in DROPPED:
                file.seek(start)
                found[key] = Value("raw", file.read(end - start))
    return found


def _geometry(header: Header) -> Geometry:
    """Read what the rules ask for; the first part of a split file comes here with its numbers unchecked."""
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise ModelCorrupt(str(header.path), "no general.architecture", "is it a model? convert it again")
    layers = header.number("block_count")
    if not 1 <= layers <= MOST_BLOCKS:
        raise ModelCorrupt(str(header.path), f"{layers} layers", f"1 to {MOST_BLOCKS} can be run")
    heads = _counts(header, "attention.head_count") or [1]
    keys = _counts(header, "attention.head_count_kv") or heads
    experts = max(_counts(header, "expert_count"), default=0)
    return Geometry(architecture, layers, max(1, heads[0] // max(1, keys[0])), experts)


def _counts(header: Header, key: str) -> list[int]:
    """Read one count, or one of each layer; none where the key is missing."""
    key = f"{header.architecture}.{key}"
    found = header.numbers(key)
    if key in header.metadata and (not found or any(type(count) is not int for count in found)):
        raise ModelCorrupt(f"{header.path}: {key}", "is not a count", "convert it again")
    return found


def _place(tensor: MappedTensor) -> tuple[int, str]:
    layer = re.match(r"blk\.(\d{1,9})\.", tensor.name)
    return (int(layer[1]) if layer else -1), tensor.name
