"""A 16-bit GGUF as a source, in one file or in parts (`-00001-of-00004.gguf`): its own metadata, its own tensors."""

import re
from pathlib import Path

from amalia_convert.checkpoint import LocalFile, Shard
from amalia_convert.families import MappedTensor
from amalia_convert.metadata import Metadata, Value
from amalia_convert.plan import Draft
from amalia_convert.recipe import Geometry
from amalia_convert.shard import StoredTensor
from amalia_edge.errors import CheckpointIncomplete, ModelCorrupt, ModelUnsupported
from amalia_edge.gguf import Header, read_header

PRECISE = ("F32", "F16", "BF16")
# What llama-quantize drops, and what it sets anew at the end (plan.py does).
DROPPED = ("split.no", "split.count", "split.tensors.count", "general.quantization_version", "general.file_type")
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_PRECISION = re.compile(r"[-.](bf16|f16|f32)$", re.IGNORECASE)


def model_name(path: Path) -> str:
    """Name the model without its part and precision: `EuroLLM-9B-BF16-00001-of-00002.gguf` is EuroLLM-9B."""
    part = _PART.fullmatch(path.name)
    return _PRECISION.sub("", part["stem"] if part else path.stem)


def open_gguf(path: Path) -> Draft:
    """Read the headers of a 16-bit GGUF and of all its parts; no weight is read."""
    parts = _parts(path)
    headers = [read_header(part, model=len(parts) == 1) for part in parts]
    for number, header in enumerate(headers):
        told = header.metadata.get("split.no", 0), header.metadata.get("split.count", 1) or 1
        if told != (number, len(parts)):
            found = f"calls itself part {told[0]} of {told[1]}, and lies in the place of {number} of {len(parts)}"
            raise ModelCorrupt(str(header.path), found, "give the parts the names they were made with")
    shards = tuple(Shard(LocalFile(header.path), tuple(_tensors(header))) for header in headers)
    stored = [tensor for shard in shards for tensor in shard.tensors]
    if len({tensor.name for tensor in stored}) != len(stored):
        raise ModelCorrupt(str(path), "two parts hold a tensor of one name", "take the parts from one model")
    first = headers[0]
    if not first.architecture:
        raise ModelCorrupt(str(first.path), "no general.architecture", "is it a model? convert it again")
    tensors = sorted((MappedTensor(tensor.name, tensor, settled=True) for tensor in stored), key=_place)
    layers, experts = first.number("block_count"), first.number("expert_count")
    geometry = Geometry(first.architecture, layers, _groups(first), experts)
    return Draft(_metadata(first), tensors, shards, geometry)


def _parts(path: Path) -> list[Path]:
    part = _PART.fullmatch(path.name)
    if part is None:
        return [path]
    count = int(part["count"])
    paths = [path.with_name(f"{part['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)]
    missing = [one.name for one in paths if not one.is_file()]
    if missing:
        raise CheckpointIncomplete(str(path.parent), f"parts missing: {', '.join(missing)}", "put them there too")
    return paths


def _tensors(header: Header) -> list[StoredTensor]:
    for tensor in header.tensors:
        if tensor.kind not in PRECISE:
            found = f"tensor {tensor.name} is {tensor.kind}: the file is quantized already"
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


def _groups(header: Header) -> int:
    """Count the query heads per key head, by the first layer."""
    at = f"{header.architecture}.attention"
    heads, keys = header.numbers(f"{at}.head_count"), header.numbers(f"{at}.head_count_kv")
    return max(1, int(heads[0]) // max(1, int((keys or heads)[0]))) if heads else 1


def _place(tensor: MappedTensor) -> tuple[int, str]:
    layer = re.match(r"blk\.(\d+)\.", tensor.name)
    return (int(layer[1]) if layer else -1), tensor.name
