"""A GGUF checked whole: its size, every block's scales, its vocabulary, its template and its hash, in one reading."""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amalia_convert.receipt import read_receipt, receipt_path
from amalia_edge import chat, console
from amalia_edge.console import plain
from amalia_edge.errors import ModelCorrupt, ModelError, ModelNotFound, ModelUnsupported
from amalia_edge.gguf import BLOCKS, Array, Header, TensorInfo, check_geometry, read_header

PIECE = 1 << 20  # bytes
AHEAD = 8  # pieces in memory at once
TOKENS, AGAIN = "tokenizer.ggml.tokens", "download or convert it again"
_NO_TEMPLATE = "use amalia run --raw, or take another template"

# Where in a block its scales lie: offset in bytes, word, and the bits that are all ones in what is no finite number.
_HALF = ("<u2", 0x7C00)
_FIRST, _TWO = ((0, *_HALF),), ((0, *_HALF), (2, *_HALF))
SCALES: dict[str, tuple[tuple[int, str, int], ...]] = {
    "F32": ((0, "<u4", 0x7F800000),), "F16": _FIRST, "BF16": ((0, "<u2", 0x7F80),), "F64": ((0, "<u8", 0x7FF << 52),),
    "I8": (), "I16": (), "I32": (), "I64": (),
    "Q4_0": _FIRST, "Q4_1": _TWO, "Q5_0": _FIRST, "Q5_1": _TWO, "Q8_0": _FIRST,
    "Q2_K": ((80, *_HALF), (82, *_HALF)), "Q3_K": ((108, *_HALF),), "Q4_K": _TWO, "Q5_K": _TWO, "Q6_K": ((208, *_HALF),),
    "IQ2_XXS": _FIRST, "IQ2_XS": _FIRST, "IQ2_S": _FIRST, "IQ3_XXS": _FIRST, "IQ3_S": _FIRST, "IQ1_S": _FIRST,
    "IQ4_NL": _FIRST, "IQ4_XS": _FIRST, "IQ1_M": ((52, "<u4", 0x7000C000),),  # an f16 in the top nibbles of four words
    "TQ1_0": ((52, *_HALF),), "TQ2_0": ((64, *_HALF),), "MXFP4": ((0, "u1", 0xFF),),
    "NVFP4": (), "Q1_0": _FIRST, "Q2_0": _FIRST,  # NVFP4's scales are of a type in which every byte is a number
}  # fmt: skip
_BLOCK_BYTES = {name: nbytes for name, _, nbytes in BLOCKS.values()}


@dataclass(frozen=True)
class Check:
    """What was looked at and what is said of it if all is well; `skipped` where there was nothing to compare with."""

    name: str
    sound: str
    faults: tuple[ModelError, ...] = ()
    skipped: bool = False

    @property
    def found(self) -> list[str]:
        """Give each fault in its own words, or the one thing there is to say."""
        return [str(fault) for fault in self.faults] or [plain(self.sound)]

    @property
    def outcome(self) -> str:
        return "failed" if self.faults else "skipped" if self.skipped else "passed"


@dataclass(frozen=True)
class Verification:
    """Everything that was checked in one file."""

    path: Path
    sha256: str
    checks: tuple[Check, ...]

    @property
    def faults(self) -> list[ModelError]:
        return [fault for check in self.checks for fault in check.faults]

    def raise_faults(self, *, every: bool = False) -> None:
        """Raise the first fault, if there is one, with the count of the others, or with what was found in each."""
        if not self.faults:
            return
        first, *others = self.faults
        more = f" (and {len(others)} more)" if others else ""
        if every:
            more = "".join(f"; {fault.where}: {fault.found}" for fault in others)
        raise type(first)(first.where, first.found + more, first.advice)

    def lines(self) -> Iterator[str]:
        """Tell a person, a line for each check, and one for each fault."""
        for check in self.checks:
            mark = {"passed": "✓", "skipped": "–", "failed": "✗"}[check.outcome]
            yield from (f"{mark} {check.name:<10}  {line}" for line in check.found)

    def as_dict(self) -> dict[str, Any]:
        checks = [
            {"name": check.name, "outcome": check.outcome, "found": "; ".join(check.found)} for check in self.checks
        ]
        return {"file": str(self.path), "sha256": self.sha256, "checks": checks}


def verify_file(path: Path) -> Verification:
    """Check a GGUF from end to end; only a header that cannot be read is raised, all else is told in the checks."""
    header = read_header(path, model=False)
    if header.metadata.get("split.count", 1) not in (0, 1):
        raise ModelUnsupported(path.name, "a part of a model", "join them: llama-gguf-split --merge FIRST OUT")
    told = f"GGUF {header.version}, {len(header.metadata)} keys, {len(header.tensors)} tensors"
    sha256, faulty = _read_through(header)
    return Verification(
        path,
        sha256,
        (
            Check("header", told, tuple(_model_faults(header))),
            Check("size", f"{header.file_size:,} bytes, none missing and none too many", tuple(_size_faults(header))),
            Check("scales", "every scale is a finite number", tuple(_scale_faults(header, faulty))),
            Check("vocabulary", _vocabulary_told(header), tuple(_vocabulary_faults(header))),
            _check_template(header),
            _check_receipt(header, sha256),
        ),
    )


def faulty_blocks(kind: str, content: bytes) -> NDArray[np.intp]:
    """Give the index of each block that has a scale, or is a value, which is infinite or not a number."""
    block = _BLOCK_BYTES[kind]
    bad = np.zeros(len(content) // block, np.bool_)
    for offset, word, ones in SCALES[kind]:
        scales = np.ndarray(bad.shape, np.dtype(word), content, offset, (block,))  # one word of each block
        bad |= (scales & scales.dtype.type(ones)) == ones
    return np.flatnonzero(bad)


def _read_through(header: Header) -> tuple[str, dict[str, tuple[int, int]]]:
    """Read the file once; give its SHA-256, and for each tensor with faulty blocks how many and the first one's byte."""
    digest, faulty = hashlib.sha256(), dict[str, tuple[int, int]]()
    waiting: deque[tuple[TensorInfo | None, int, int, list[Future[Any]]]] = deque()

    def settle() -> None:
        tensor, offset, nbytes, work = waiting.popleft()
        results = [future.result() for future in work]
        bar.advance(nbytes)
        if tensor is not None and len(results[1]):
            count, first = faulty.get(tensor.name, (0, offset + int(results[1][0]) * _BLOCK_BYTES[tensor.kind]))
            faulty[tensor.name] = count + len(results[1]), first

    with (
        _opened(header.path) as file,
        ThreadPoolExecutor(1) as hasher,  # a hash is made in the order of the bytes, so by one thread
        ThreadPoolExecutor(os.cpu_count()) as pool,
        console.progress("verifying", header.file_size) as bar,
    ):
        for tensor, offset, nbytes in _pieces(header):
            content = _read(header, file.fileno(), offset, nbytes)
            work: list[Future[Any]] = [hasher.submit(digest.update, content)]
            if tensor is not None:
                work.append(pool.submit(faulty_blocks, tensor.kind, content))
            waiting.append((tensor, offset, nbytes, work))
            if len(waiting) == AHEAD:
                settle()
        while waiting:
            settle()
    return digest.hexdigest(), faulty


def _pieces(header: Header) -> Iterator[tuple[TensorInfo | None, int, int]]:
    """Cut the file into (tensor, offset, bytes): whole blocks of each tensor, and what lies between tensors."""
    at = 0
    for tensor in header.tensors:
        end, block = tensor.offset + tensor.nbytes, _BLOCK_BYTES[tensor.kind]
        yield from ((None, *cut) for cut in _cuts(at, tensor.offset, PIECE))
        yield from ((tensor, *cut) for cut in _cuts(tensor.offset, end, PIECE // block * block))
        at = end
    yield from ((None, *cut) for cut in _cuts(at, header.file_size, PIECE))


def _cuts(start: int, end: int, step: int) -> Iterator[tuple[int, int]]:
    return ((at, min(step, end - at)) for at in range(start, end, step))


def _opened(path: Path) -> Any:
    try:
        return path.open("rb", buffering=0)
    except OSError as problem:
        raise ModelNotFound(str(path), problem.strerror or "cannot be read", "check its permissions") from None


def _read(header: Header, descriptor: int, offset: int, nbytes: int) -> bytes:
    where = f"{header.path.name}: byte {offset}"
    try:
        content = os.pread(descriptor, nbytes, offset)
    except OSError as problem:
        raise ModelCorrupt(where, f"cannot be read ({problem.strerror})", "check the disk") from None
    if len(content) < nbytes:
        raise ModelCorrupt(where, f"wanted {nbytes}, {len(content)} left: the file is being changed", AGAIN)
    return content


def _model_faults(header: Header) -> Iterator[ModelError]:
    """Say why the runtime would refuse the model, its vocabulary aside."""
    try:
        check_geometry(header)
    except ModelError as error:
        yield error


def _size_faults(header: Header) -> Iterator[ModelError]:
    """Find holes between tensors and bytes after the last one: libllama refuses the former and never sees the latter."""
    alignment, end = header.metadata.get("general.alignment", 32), header.data_offset
    for tensor in header.tensors:
        if tensor.offset != end:
            where = f"{header.path.name}: tensor {tensor.name}"
            yield ModelCorrupt(where, f"begins at byte {tensor.offset}, and {end} is the next free one", AGAIN)
        end = -(-(tensor.offset + tensor.nbytes) // alignment) * alignment
    if header.file_size > end:
        found = f"{header.file_size - end:,} bytes after the last tensor"
        yield ModelCorrupt(f"{header.path.name}: byte {end}", found, AGAIN)


def _scale_faults(header: Header, faulty: dict[str, tuple[int, int]]) -> Iterator[ModelError]:
    for tensor in header.tensors:
        if tensor.name in faulty:
            count, first = faulty[tensor.name]
            blocks = tensor.nbytes // _BLOCK_BYTES[tensor.kind]
            found = (
                f"{count:,} of {blocks:,} {tensor.kind} blocks are infinite or not a number, the first at byte {first}"
            )
            yield ModelCorrupt(f"{header.path.name}: tensor {tensor.name}", found, AGAIN)


def _vocabulary_told(header: Header) -> str:
    told = header.metadata.get(TOKENS)
    return f"{told.count:,} tokens, coherent" if isinstance(told, Array) else "none"


def _vocabulary_faults(header: Header) -> Iterator[ModelError]:
    tokens = [token or b"[EMPTY_%d]" % index for index, token in enumerate(header.strings(TOKENS))]  # libllama's name
    if not tokens:
        yield ModelCorrupt(f"{header.path.name}: {TOKENS}", "no vocabulary", "convert it again")
        return
    for key, found in (*_token_faults(header, tokens), *_kind_faults(header, tokens)):
        yield ModelCorrupt(f"{header.path.name}: {key}", found, "convert it again")


def _token_faults(header: Header, tokens: list[bytes]) -> Iterator[tuple[str, str]]:
    """Find what no kind of vocabulary may have, as (where, what)."""
    twice = [token for token, count in Counter(tokens).items() if count > 1]
    if twice:  # libllama aborts
        yield TOKENS, f"{len(twice)} texts stand more than once, the first: {_shown(twice[0])}"
    for key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        told = header.metadata.get(key)
        if told is not None and (not isinstance(told, Array) or told.count != len(tokens)):
            yield key, f"{told.count if isinstance(told, Array) else 'no array'} for {len(tokens)} tokens"
    if not np.isfinite(header.numbers("tokenizer.ggml.scores")).all():
        yield "tokenizer.ggml.scores", "a score that is infinite or not a number"
    for key, token in header.metadata.items():
        is_token = isinstance(token, int) and 0 <= token < len(tokens)
        if key.startswith("tokenizer.ggml.") and key.endswith("_token_id") and not is_token:
            yield key, f"{token}, and the tokens are 0 to {len(tokens) - 1}"
    for tensor in header.tensors:
        if tensor.name in ("token_embd.weight", "output.weight") and tensor.shape[1:] != (len(tokens),):
            yield f"tensor {tensor.name}", f"{tensor.shape[-1]} rows for {len(tokens)} tokens"


def _kind_faults(header: Header, tokens: list[bytes]) -> Iterator[tuple[str, str]]:
    """Find what a vocabulary of SentencePiece's or of GPT-2's kind lacks, as (where, what)."""
    known = set(tokens)
    if header.metadata.get("tokenizer.ggml.model") == "llama":
        if "tokenizer.ggml.scores" not in header.metadata:
            yield "tokenizer.ggml.scores", "none, and without them nothing says which pieces merge first"
        absent = [byte for byte in range(256) if b"<0x%02X>" % byte not in known and bytes([byte]) not in known]
        if absent:  # libllama aborts on a text that needs one
            yield TOKENS, f"{len(absent)} of 256 byte tokens are missing, the first: <0x{absent[0]:02X}>"
    if header.metadata.get("tokenizer.ggml.model") == "gpt2":
        merges = header.strings("tokenizer.ggml.merges")
        if not merges:
            yield "tokenizer.ggml.merges", "none"
        strange = [merge for merge in merges if not _merges(merge, known)]
        if strange:
            yield "tokenizer.ggml.merges", f"{len(strange)} name no known tokens, the first: {_shown(strange[0])}"


def _merges(merge: bytes, known: set[bytes]) -> bool:
    """Say whether a merge, `left right`, joins two tokens into a third."""
    space = merge.find(b" ", 1)
    left, right = merge[:space], merge[space + 1 :]
    return space > 0 and {left, right, left + right} <= known


def _check_template(header: Header) -> Check:
    templates = {
        key: value
        for key, value in header.metadata.items()
        if key.startswith("tokenizer.chat_template") and isinstance(value, str)
    }
    faults = []
    for key, template in templates.items():
        try:
            chat.compile_template(template)
        except ModelUnsupported as error:
            faults.append(ModelCorrupt(f"{header.path.name}: {key}", error.found, _NO_TEMPLATE))
    return Check("template", "parses" if templates else "none", tuple(faults), skipped=not templates)


def _check_receipt(header: Header, sha256: str) -> Check:
    path = receipt_path(header.path)
    if not path.exists():
        return Check("SHA-256", f"{sha256}, and no {path.name} to compare it with", skipped=True)
    try:
        receipt = read_receipt(header.path)
    except ModelError as error:
        return Check("SHA-256", sha256, (error,))
    if receipt.sha256 == sha256:
        return Check("SHA-256", f"{sha256}, as its receipt says")
    of = "" if receipt.output == header.path.name else f"; it speaks of {receipt.output}"
    found = f"SHA-256 is {sha256}, and its receipt says {str(receipt.sha256)[:64]}{of}"
    return Check("SHA-256", sha256, (ModelCorrupt(header.path.name, found, AGAIN),))


def _shown(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace")[:40])
