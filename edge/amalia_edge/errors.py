"""Every failure this product knows, and the exit code of each.

AmaliaError                      1
├── UsageError                   2   the command was given something it cannot use
├── ModelError                   3   a model file
│   ├── ModelNotFound                there is none of that name
│   ├── ModelCorrupt                 its bytes break the format
│   ├── ModelUnsupported             a good file of a kind we do not run
│   └── ModelUntrusted               a file that asks for more than it may have
├── DecodeError                  4   while tokens were being made
│   ├── ContextFull                  no room for more tokens
│   ├── Busy                         the queue is full
│   ├── OutOfTime                    the deadline came first
│   └── Cancelled                    somebody asked for the end
├── LibraryMissing               5   llama-cpp-python is not built, or not the version we know
├── ConvertError                 6   while a checkpoint was being converted
│   ├── CheckpointIncomplete         a file, a tensor or a key of it is missing
│   ├── TensorUnmapped               a tensor that has no place in the GGUF
│   └── Unquantizable                values no block type can hold
├── HubError                     7   the Hub, or the way to it
├── BenchError                   8   while measuring
│   └── NotComparable                two figures that do not speak of the same thing
├── DoesNotFit                   9   needed, free, and what would fit
└── BundleError                 10   a bundle for a machine without a network

Each reads as one line: *where: what was found; what would do.*
"""

import re
from dataclasses import dataclass
from typing import Any


class AmaliaError(Exception):
    """Say where it went wrong, what was found there, and what would do."""

    exit_code = 1

    def __init__(self, where: str, found: str, advice: str = "") -> None:
        self.where, self.found, self.advice = _line(where), _line(found), _line(advice)
        super().__init__(f"{self.where}: {self.found}" + (f"; {self.advice}" if advice else ""))

    @property
    def code(self) -> str:
        """Give the stable slug machines read: `does-not-fit`."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(self).__name__).lower()


def _line(text: str) -> str:
    """Keep to one line, and let no file's name or tensor's steer a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))


class UsageError(AmaliaError):
    exit_code = 2


class ModelError(AmaliaError):
    exit_code = 3


class ModelNotFound(ModelError):
    pass


class ModelCorrupt(ModelError):
    pass


class ModelUnsupported(ModelError):
    pass


class ModelUntrusted(ModelError):
    pass


class DecodeError(AmaliaError):
    exit_code = 4


class ContextFull(DecodeError):
    pass


class Busy(DecodeError):
    pass


class OutOfTime(DecodeError):
    pass


class Cancelled(DecodeError):
    pass


class LibraryMissing(AmaliaError):
    exit_code = 5


class ConvertError(AmaliaError):
    exit_code = 6


class CheckpointIncomplete(ConvertError):
    pass


class TensorUnmapped(ConvertError):
    pass


class Unquantizable(ConvertError):
    pass


class HubError(AmaliaError):
    exit_code = 7


class BenchError(AmaliaError):
    exit_code = 8


class NotComparable(BenchError):
    pass


@dataclass(frozen=True)
class Option:
    """One thing that would fit: how to say it, the settings it changes, and the bytes it would need."""

    advice: str  # "-c 4096"
    settings: dict[str, Any]  # of a LoadConfig, or the level of a smaller file
    needed: int


@dataclass(frozen=True)
class Shortage:
    """What was wanted of a device's memory, what there is, and what would fit."""

    device: str
    needed: int
    free: int  # that may be taken: the reserve is off
    options: tuple[Option, ...] = ()


class DoesNotFit(AmaliaError):
    exit_code = 9

    def __init__(self, where: str, found: str, advice: str = "", shortage: Shortage | None = None) -> None:
        super().__init__(where, found, advice)
        self.shortage = shortage


class BundleError(AmaliaError):
    exit_code = 10
