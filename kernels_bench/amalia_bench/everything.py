"""All that can be measured of one model, as the commands it takes: whoever wants one alone types it alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amalia_convert.conversion import ConvertConfig, convert, prepare
from amalia_edge.errors import ModelNotFound, UsageError
from amalia_edge.store import find, models_folder

BASE = "BF16"


@dataclass(frozen=True)
class EverythingConfig:
    """A 16-bit model, what to make of it, and where the figures go."""

    model: str  # a 16-bit GGUF, a stored name, a checkpoint's folder, org/name or fadinho
    levels: tuple[str, ...] = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M")
    folder: Path = Path("amalia-bench")
    quick: bool = False
    repetitions: int | None = None
    answers: int = 0
    importance: Path | None = None  # importance data, without which the smallest levels are not made

    def __post_init__(self) -> None:
        if not self.levels:
            raise UsageError("levels", "none", "name some, as in --levels Q8_0,Q4_K_M")

    @property
    def records(self) -> Path:
        return self.folder / "records.jsonl"


def make_levels(config: EverythingConfig) -> tuple[Path, list[Path]]:
    """Give the base's file and the levels', converting those that are not there."""
    try:
        base = find(config.model)
    except ModelNotFound:
        base = _made(config.model, (BASE,), None)[0]
    source = str(base) if Path(config.model).suffix == ".gguf" else config.model
    wanted = tuple(level for level in config.levels if level != BASE)
    return base, _made(source, wanted, config.importance)


def _made(source: str, levels: tuple[str, ...], importance: Path | None) -> list[Path]:
    """Convert, in one pass, the levels whose files are not in the models' folder."""
    outputs = prepare(ConvertConfig(source, levels, models_folder(), importance=importance)).outputs
    missing = tuple(output.level.name for output in outputs if not output.path.exists())
    if missing:
        convert(ConvertConfig(source, missing, models_folder(), importance=importance))
    return [output.path for output in outputs]


def commands(config: EverythingConfig, base: Path, levels: Sequence[Path]) -> list[list[str]]:
    """Give the words of each `amalia bench` command, in their order; each goes on where it was stopped."""
    files, records = list(map(str, levels)), str(config.records)
    kept = ["--records", records, "--resume"]
    repeated = ["-r", str(config.repetitions)] if config.repetitions else []
    return [
        ["speed", str(base), *files, *repeated, *kept],
        ["quality", str(base), *files, *(["--quick"] if config.quick else []), *kept],
        ["variety", str(base), *files, "--answers", str(config.answers), *kept],
        ["report", records, "--output", str(config.folder / "report.html")],
        ["report", records, "--output", str(config.folder / "report.md")],
    ]
