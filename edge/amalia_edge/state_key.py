"""What a state depends on beside its ids, written down: a state is used only where all of this is the same."""

import contextlib
import hashlib
import json
import stat
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amalia_edge import native
from amalia_edge.build import installed_build
from amalia_edge.decision import VERSION
from amalia_edge.gguf import Header, read_header
from amalia_edge.model import Model

LARGEST_RECEIPT = 1 << 24  # bytes
# Settings that leave a state as it is; any other, also a new one, makes another state.
NEUTRAL = ("threads", "mapped", "locked", "large_pages", "fit", "chat_template")


def state_key(model: Model) -> bytes:
    """Write down all that a state depends on beside its ids; nothing for a model whose states cannot be kept.

    A model with a sliding window saves only what the window shows, and could not go back to any earlier place.
    """
    if native.library().llama_model_n_swa(model.pointer) > 0:
        return b""
    settings = {name: value for name, value in asdict(model.config).items() if name not in NEUTRAL}
    adapters = [(_identity(read_header(one.path, model=False)), one.scale) for one in model.config.adapters]
    settings |= {"context": model.context, "adapters": adapters}
    return json.dumps(
        {
            "model": _identity(model.header),
            "rope": {name: value for name, value in model.header.metadata.items() if ".rope." in name},
            "library": [VERSION, (installed_build() or {}).get("key"), native.features()],
            "devices": [(device.name, device.description) for device in native.devices()],
            "settings": settings,
        },
        sort_keys=True,
        default=str,
    ).encode()


def _identity(header: Header) -> list[Any]:
    """Tell a model's file from any other without reading its weights: by its receipt, else by header, size and time."""
    if len(header.parts) == 1 and (digest := _receipt_digest(header.path)):
        return [digest]
    found = []
    for path in header.parts:
        status = path.stat()
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(header.data_offset)).hexdigest()
        found.append((digest, status.st_size, status.st_mtime_ns))
    return found


def _receipt_digest(path: Path) -> str | None:
    """Give the SHA-256 a conversion noted beside its file, unless the file has changed since."""
    receipt = path.with_name(f"{path.name}.receipt.json")
    with contextlib.suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
        noted, status = receipt.stat(), path.stat()
        if stat.S_ISREG(noted.st_mode) and noted.st_size <= LARGEST_RECEIPT and noted.st_mtime_ns >= status.st_mtime_ns:
            table = json.loads(receipt.read_bytes())
            return str(table["sha256"]) if table["nbytes"] == status.st_size else None
    return None
