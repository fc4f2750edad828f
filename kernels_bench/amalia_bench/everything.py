"""A model's speed, quality and variety at several levels, as the commands it takes: whoever wants one alone types it alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amalia_convert.conversion import ConvertConfig, convert, prepare
from amalia_convert.level_table import find_level
from amalia_convert.receipt import read_receipt, receipt_path
from amalia_convert.source import find_source
from amalia_edge.errors import ModelNotFound, UsageError
from amalia_edge.gguf_names import split_level
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
    """Give the 16-bit file and the levels', which are made of it where they are not there yet."""
    base = _base(config.model)
    wanted = tuple(level for level in config.levels if find_level(level).name != BASE)
    return base, _made(str(base), wanted, config.importance) if wanted else []


def told_levels(config: EverythingConfig) -> tuple[Path, list[Path]]:
    """Name the 16-bit model and the levels as a person would, without looking for them."""
    name = split_level(Path(config.model).stem if config.model.endswith(".gguf") else config.model.partition(":")[0])[0]
    base = config.model if ":" in config.model or config.model.endswith(".gguf") else f"{config.model}:{BASE}"
    return Path(base), [Path(f"{name}:{level}") for level in config.levels]


def _base(model: str) -> Path:
    """Find a 16-bit GGUF that is here, or make one of a checkpoint."""
    try:
        source = find_source(model)
    except ModelNotFound:  # a stored name
        return find(model if ":" in model else f"{model}:{BASE}")
    if source.kind == "gguf":
        return source.path
    return find(f"{model}:{BASE}") if source.embedded else _made(model, (BASE,), None)[0]


def _made(source: str, levels: tuple[str, ...], importance: Path | None) -> list[Path]:
    """Convert, in one pass, the levels whose files are not in the models' folder."""
    work = prepare(ConvertConfig(source, levels, models_folder(), importance=importance))
    wanted = work.importance.sha256 if work.importance else None
    for path in (output.path for output in work.outputs if receipt_path(output.path).exists()):
        if read_receipt(path).importance != wanted:
            told = "with" if wanted is None else "without these"
            name = ":".join(split_level(path.stem))
            raise UsageError(str(path), f"was made {told} importance data", f"remove it: amalia rm {name}")
    missing = tuple(output.level.name for output in work.outputs if not output.path.exists())
    if missing:
        convert(replace(work.config, levels=missing))
    return [output.path for output in work.outputs]


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
