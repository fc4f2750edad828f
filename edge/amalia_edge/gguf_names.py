"""What the names of GGUF files say: the level of the weights, and which files are parts of one model."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

DEFAULT_LEVEL = "Q4_K_M"
_LEVEL = re.compile(
    r"(?:^|[-._])((?:UD-)?(?:I?Q[1-8]|TQ[12]|MXFP4|NVFP4|BF16|FP?16|FP?32)(?:_[A-Z0-9]{1,4})*)(?=$|[-._])",
    re.IGNORECASE,
)
_PART = re.compile(r"(?P<base>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")
_ASIDE = re.compile(r"mmproj|^(mtp|eagle3|dflash|dspark)-", re.IGNORECASE)  # beside a model, and no model


@dataclass(frozen=True)
class ModelFiles:
    """The files that are one model together; most often it is one."""

    name: str  # with its folders, without part number and .gguf: Q8_0/amalia-Q8_0
    files: tuple[str, ...]
    count: int  # of parts, as the names say

    @property
    def level(self) -> str:
        """Give the level by the file's name, else by its folder's; nothing where neither says it."""
        path = PurePosixPath(self.name)
        return level_of(path.name) or level_of(path.parent.name)

    @property
    def is_whole(self) -> bool:
        return len(self.files) == self.count

    def is_at(self, level: str) -> bool:
        """Tell whether this is the level that is asked for; `Q4_K_XL` may also be written `UD-Q4_K_XL`."""
        return spelt(level) in (self.level, self.level.removeprefix("UD-"))


def level_of(stem: str) -> str:
    """Find the level in a file's name without its suffix: `amalia-9b.q4_k_m` is Q4_K_M; nothing where there is none."""
    found = _LEVEL.findall(stem)
    return spelt(found[-1]) if found else ""


def spelt(level: str) -> str:
    """Spell a level as we do, however it was written: `fp16` is F16."""
    return re.sub("^FP", "F", level.upper())


def split_level(stem: str) -> tuple[str, str]:
    """Part a file's name from the level at its end: `amalia-Q4_K_M` is amalia and Q4_K_M."""
    level = level_of(stem)
    base = stem[: -len(level)].rstrip("-._") if level and stem.upper().endswith(level) else ""
    return (base, level) if base else (stem, "")


def group(names: Iterable[str]) -> list[ModelFiles]:
    """Gather the models among these files, each with its parts in order; what is no model's weights is left out."""
    parts: dict[tuple[str, int], dict[int, str]] = {}
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() != ".gguf" or _is_aside(path.stem):
            continue
        stem = path.with_suffix("").as_posix()
        split = _PART.fullmatch(stem)
        key = (split["base"], int(split["count"])) if split else (stem, 1)
        parts.setdefault(key, {})[int(split["number"]) if split else 1] = name
    return [
        ModelFiles(base, tuple(found[number] for number in sorted(found)), count)
        for (base, count), found in sorted(parts.items())
    ]


def _is_aside(stem: str) -> bool:
    """Tell an image encoder, a draft head or importance data; `amalia-imatrix-Q4_K_M` is a model made with the last."""
    return bool(_ASIDE.search(stem)) or ("imatrix" in stem.lower() and not level_of(stem))
