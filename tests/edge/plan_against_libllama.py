"""Hold what a plan predicts against libllama's own simulation, over shapes, contexts and settings.

    python -m edge.plan_against_libllama [SHAPE …]          (in tests/; all shapes take half a minute)

Weights + cache must be within 2 %, and but for toys the total within 8 %; it ends with 1 if one is not.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amalia_convert.shape import shape_names
from amalia_edge.gguf import Header, read_header
from amalia_edge.load_config import LoadConfig
from amalia_edge.memory import Model
from amalia_edge.simulate import Simulation, simulate

from .architectures import write_architecture
from .sparse import SMALL, sparse_model, windowed_model

CONTEXTS = (2048, 8192, 32768)
SETTINGS: tuple[dict[str, object], ...] = (
    {},
    {"cache_keys": "q8_0", "cache_values": "q8_0"},
    {"sequences": 4, "micro_batch": 128},
    {"flash_attention": "off"},
)
WINDOWED = "gemma3"
# Toys whose layers do not all keep the same: architecture → what their metadata says otherwise
UNLIKE: dict[str, dict[str, Any]] = {
    "qwen35": {"block_count": 8, "full_attention_interval": 4}, "qwen3next": {"block_count": 4},
    "lfm2": {"block_count": 4, "attention.head_count_kv": [0, 2, 0, 2]}, "gemma3n": {},
    "gemma4": {
        "block_count": 6, "attention.sliding_window_pattern": [True, False] * 3, "attention.shared_kv_layers": 2,
        "attention.key_length": 64, "attention.value_length": 64,
    },
}  # fmt: skip
HELD, TOTAL = 0.02, 0.08  # what weights + cache, and everything, may be off


@dataclass(frozen=True)
class Row:
    """One comparison, in bytes."""

    name: str
    config: LoadConfig
    held: int  # predicted weights + cache
    total: int
    told: Simulation

    @property
    def held_error(self) -> float:
        said = self.told.weights + self.told.cache
        return (self.held - said) / said

    @property
    def total_error(self) -> float:
        return (self.total - self.told.total) / self.told.total

    @property
    def good(self) -> bool:
        return abs(self.held_error) <= HELD and (self.name in UNLIKE or abs(self.total_error) <= TOTAL)


def compare(path: Path, config: LoadConfig) -> Row:
    header = read_header(path)
    held, total = predict(header, config)
    return Row(path.stem, config, held, total, simulate(path, config))


def predict(header: Header, config: LoadConfig) -> tuple[int, int]:
    """Give weights + cache, and all, as libllama would count them: the file's bytes, not copies of them."""
    model = Model(header, ())
    held = header.weight_bytes + model.cache(range(model.shape.layers), config)
    return held, held + model.compute(config, output=True) + model.logits(config)


def write(folder: Path, name: str) -> Path:
    if name in UNLIKE:
        return write_architecture(folder / f"{name}.gguf", name, UNLIKE[name])
    return windowed_model(folder / f"{name}.gguf") if name == WINDOWED else sparse_model(folder, name)


def main(names: list[str]) -> int:
    rows = []
    print(f"{'file':24} {'context':>8} {'settings':22} {'weights+cache':>20} {'total':>18}")
    with tempfile.TemporaryDirectory(prefix="amalia-plan-") as folder:
        for name in names or [*shape_names(), *SMALL, WINDOWED, *UNLIKE]:
            path = write(Path(folder), name)
            for settings in SETTINGS[2:3] if name in UNLIKE else SETTINGS:
                for context in CONTEXTS:
                    row = compare(path, LoadConfig(context=context, gpu_layers=0, **settings))  # type: ignore[arg-type]
                    rows.append(row)
                    said = " ".join(str(value) for value in settings.values())
                    print(
                        f"{row.name:24} {context:8} {said:22} {row.held / 1e6:9.1f} MB {row.held_error:+7.2%}"
                        f" {row.total / 1e6:9.1f} MB {row.total_error:+7.2%}"
                    )
    worst_held, worst_total = (max(abs(getattr(row, f"{kind}_error")) for row in rows) for kind in ("held", "total"))
    print(f"{len(rows)} comparisons; worst: weights + cache {worst_held:.2%}, total {worst_total:.2%}")
    return 0 if all(row.good for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
