"""What a conversion leaves beside a GGUF: sources with hashes, output hash, bits per weight, time, peak memory."""

import dataclasses
import json
import resource
import sys
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from amalia_convert.writer import write_whole
from amalia_edge.errors import ModelCorrupt, ModelUnsupported

FORMAT = 1


@dataclass(frozen=True)
class Receipt:
    """Say what one output was made of, by what, and at what cost."""

    output: str  # file name; the receipt lies beside it
    level: str
    source: str
    repository: str | None
    files: dict[str, str]  # every file that was read: SHA-256
    sha256: str
    nbytes: int
    parameters: int
    bits_per_weight: float
    seconds: float  # of the whole pass, which may have written other levels too, and of runs that were stopped
    peak_memory: int  # bytes resident at the highest, in the process that ended the work
    versions: dict[str, str]
    format: int = FORMAT
    commit: str | None = None  # of the repository
    importance: str | None = None  # SHA-256 of the importance data
    options: dict[str, Any] = field(default_factory=dict)  # what was asked for beside the level
    warnings: list[str] = field(default_factory=list)  # where tokens differ from the original's, as llama.cpp's do
    replaced: dict[str, list[int]] = field(default_factory=dict)  # by tensor: NaNs and infinities written as 0


def receipt_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.receipt.json")


def write_receipt(output: Path, receipt: Receipt) -> None:
    text = json.dumps(dataclasses.asdict(receipt), ensure_ascii=False, indent=1)
    write_whole(receipt_path(output), text.encode("utf-8", "replace") + b"\n")  # a name may hold bytes that are no text


def read_receipt(output: Path) -> Receipt:
    """Read the receipt of a GGUF: older formats are read, a newer one is named and refused."""
    path = receipt_path(output)
    try:
        table = json.loads(path.read_text("utf-8"))
        number = table["format"]
        if type(number) is int and number > FORMAT:
            raise ModelUnsupported(str(path), f"is of format {number}, we know {FORMAT}", "update amalia-edge")
        known = {field.name for field in dataclasses.fields(Receipt)}
        return Receipt(**{name: value for name, value in table.items() if name in known})
    except OSError as error:
        raise ModelCorrupt(str(path), f"cannot be read ({error.strerror})", "convert the model again") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelCorrupt(str(path), "is not a receipt", "convert the model again") from None


def is_current(output: Path, files: dict[str, str]) -> bool:
    """Tell whether a GGUF is there, whole, and made of files with these hashes."""
    if not output.is_file() or not receipt_path(output).is_file():
        return False
    try:
        receipt = read_receipt(output)
    except ModelCorrupt:
        return False
    return receipt.files == files and receipt.nbytes == output.stat().st_size


def peak_memory() -> int:
    """Give the bytes this process held in memory at its highest."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes


def versions() -> dict[str, str]:
    """Name the versions of what wrote the file."""
    found = {}
    for name in ("amalia-edge", "llama-cpp-python", "gguf", "sentencepiece", "tokenizers", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"  # run from a checkout that is not installed
    return found
