"""Mutated GGUF headers: what read_header lets through must be loaded and decoded by libllama without a crash or a hang.

`make fuzz COUNT=100000 SEED=1`, or in the folder tests: python -m edge.header_fuzz COUNT SEED
"""

import contextlib
import ctypes
import os
import random
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amalia_edge import native
from amalia_edge.errors import AmaliaError
from amalia_edge.gguf import read_header

from . import architectures
from .header_mutants import File, filled, mutant, reshaped, take_apart

PATIENCE = 60  # seconds for one file, on a machine with much else to do
WORKERS = 2
MEMORY = 6 << 30  # bytes of address space for the child
TEXT = "A avó pôs 12 pães\n na mesa «e» ab, <s>!"


@dataclass
class Outcome:
    """What became of the mutants."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def fuzz(bases: list[Path], count: int, seed: int, folder: Path, *, reshape: bool = False) -> Outcome:
    """Make mutants of these models, two at a time; what crashes, hangs or takes too much is kept in the folder.

    With `reshape`, a quarter of them are other models: changed numbers, and all the tensors that fit these.
    """
    outcome, whole = Outcome(), [take_apart(base.read_bytes()) for base in bases]
    folder.mkdir(parents=True, exist_ok=True)

    def work(first: int) -> None:
        with Child("decode") as decoder, Child("fill") as filler:
            for number in range(first, count, WORKERS):
                base, dice = number % len(bases), random.Random(f"{seed}-{number}")
                path = folder / f"{seed}-{number}-{bases[base].stem}.gguf"
                found = attempt(path, whole[base], dice, decoder, filler if reshape and number % 4 == 3 else None)
                outcome.counts[found.split(":")[0]] += 1
                if found.startswith("FAILED"):
                    outcome.failures.append(f"{path}: {found}")
                else:
                    path.unlink()

    with ThreadPoolExecutor(WORKERS) as pool:
        for future in [pool.submit(work, first) for first in range(WORKERS)]:
            future.result()
    return outcome


def attempt(path: Path, base: File, dice: random.Random, decoder: "Child", filler: "Child | None") -> str:
    """Write one mutant and say what became of it."""
    path.write_bytes(reshaped(base, dice) if filler else mutant(base, dice))
    try:
        read_header(path)
        if filler:
            if filler.tell(path) != "filled":  # libllama makes no model of it, or cannot without a file
                return "not to be filled"
            read_header(path)
    except AmaliaError:
        return "refused by us"
    return decoder.tell(path)


class Child:
    """A process that does one task with file after file; another takes its place when one falls."""

    def __init__(self, task: str) -> None:
        self._task = task

    def __enter__(self) -> "Child":
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the process
        command = [sys.executable, "-m", f"{__package__}.header_fuzz", "--child", self._task]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "GGML_NO_BACKTRACE": "1",
        }
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=environment
        )  # fmt: skip

    def _stop(self) -> str:
        self._process.kill()
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._log.seek(0)
        said = self._log.read().decode("utf-8", "replace").splitlines()
        self._log.close()
        return (
            f"code {code}: "
            + " ".join(line for line in said if re.search(r"\.(c|cpp|h):\d+|terminate|what\(\)", line))[-300:]
        )

    def tell(self, path: Path) -> str:
        """Give `decoded`, `refused by libllama: …`, or `FAILED: …`."""
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{path}\n".encode())
            self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        line = self._process.stdout.readline().decode("utf-8", "replace").strip() if ready else ""
        if line:
            return line
        if ready:
            self._process.wait()
        found = self._stop()
        self._start()
        return f"FAILED: {'crashed' if ready else 'hung'}, {found}"


def _serve(task: str) -> None:
    """Do the task with each file named on standard input."""
    with contextlib.suppress(ValueError, OSError):  # macOS knows the first, and may refuse it
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever C prints is no answer
    for line in sys.stdin:
        print(TASKS[task](Path(line.rstrip("\n"))), file=answers, flush=True)


def _decode(path: Path) -> str:
    bindings = native.library()
    parameters = bindings.llama_model_default_params()
    parameters.n_gpu_layers = 0
    with native.reasons() as why:
        model = bindings.llama_model_load_from_file(os.fsencode(path), parameters)
        if not model:
            reason = " ".join(why().split())
            return f"FAILED: memory, {reason}" if "alloc" in reason else f"refused by libllama: {reason[:200]}"
        settings = bindings.llama_context_default_params()
        settings.n_ctx, settings.n_threads, settings.n_threads_batch, settings.n_ubatch = 64, 1, 1, 64
        context = bindings.llama_init_from_model(model, settings)
        if not context:
            bindings.llama_model_free(model)
            return f"refused by libllama: no context, {' '.join(why().split())[:200]}"
    ids = _tokenized(bindings, bindings.llama_model_get_vocab(model))
    several = (bindings.llama_token * 3)(*ids)
    told, left = [], bindings.llama_model_n_ctx_train(model)  # where positions are learned there are no others
    for tokens in (3, 1, 1):
        if tokens <= left:
            told.append(bindings.llama_decode(context, bindings.llama_batch_get_one(several, tokens)))
            left -= tokens
    bindings.llama_free(context)
    bindings.llama_model_free(model)
    return "decoded" if not any(told) else f"not decoded: {told}"


def _tokenized(bindings: Any, vocabulary: Any) -> list[int]:
    """Give three ids of a text, after asking for the pieces of all of them; the last of the vocabulary for want of them."""
    size, ids, buffer = (
        bindings.llama_vocab_n_tokens(vocabulary),
        (bindings.llama_token * 256)(),
        ctypes.create_string_buffer(64),
    )
    raw, count = TEXT.encode(), 0
    if bindings.llama_vocab_type(vocabulary):  # there is one
        count = max(0, bindings.llama_tokenize(vocabulary, raw, len(raw), ids, 256, True, False))
        for token in {*ids[:count], *range(min(size, 12))}:
            bindings.llama_token_to_piece(vocabulary, token, buffer, 64, 0, True)
    return [*ids[: min(count, 3)], *[size - 1] * 3][:3]


def _fill(path: Path) -> str:
    try:
        content = filled(path.read_bytes(), [(one.name, one.sides) for one in architectures.tensors_of(path)])
    except AssertionError as problem:
        return f"not filled: {' '.join(str(problem).split())}"
    path.write_bytes(content)
    return "filled" if content else "not filled: huge"


TASKS = {"decode": _decode, "fill": _fill}


def base_models(folder: Path) -> Iterator[Path]:
    for architecture in architectures.OWN:
        yield architectures.write_architecture(folder / f"{architecture}.gguf", architecture)


def main(words: list[str]) -> int:
    count, seed = int(words[0]), int(words[1]) if len(words) > 1 else 1
    folder = Path(tempfile.mkdtemp(prefix="amalia-fuzz-"))
    outcome = fuzz(list(base_models(folder)), count, seed, folder / "found", reshape=True)
    for what, many in outcome.counts.most_common():
        print(f"{many:9,}  {what}")
    for failure in outcome.failures:
        print(failure)
    if not outcome.failures:
        shutil.rmtree(folder)
    return min(1, len(outcome.failures))


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        _serve(sys.argv[2])
    else:
        sys.exit(main(sys.argv[1:]))
