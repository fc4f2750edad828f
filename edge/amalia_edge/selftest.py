"""Decode a few tokens in a child process, so that a build that crashes is found out before a person meets it.

The model is written here, byte by byte: one Llama layer of random weights in the block types people use, wide enough that
the matrix kernels (AMX, VNNI, dot product) run and not their fallbacks. The parent uses the standard library only; the
child, this same file run by its path, is the one place beside `native.py` that opens llama_cpp: it may die without taking the
product with it.
"""

import json
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WIDTH, FEED_FORWARD, VOCABULARY, HEADS = 256, 512, 96, 4
BATCH, STEPS = 48, 8  # a batch for the matrix-matrix kernels, single steps for the matrix-vector ones
_PATIENCE = 300  # seconds: under one on a free machine, 50 were seen on one busy with a training


@dataclass(frozen=True)
class SelfTest:
    ok: bool
    signal: str  # "SIGSEGV" where the child was killed by one
    seconds: float
    detail: str  # what the library says it runs with, or what went wrong
    wrong: bool = False  # the child lived and says that it computes wrongly

    @property
    def blames_build(self) -> bool:
        """Say whether another build could help; a missing package, say, is not the build's fault."""
        return bool(self.signal) or self.wrong

    def __str__(self) -> str:
        if self.ok:
            return f"the self-test decoded {BATCH + STEPS} tokens in {self.seconds:.1f} s with {self.detail}"
        how = f"died of {self.signal}" if self.signal else "failed"
        return f"the self-test {how} after {self.seconds:.1f} s: {self.detail}"


def self_test(python: str = sys.executable) -> SelfTest:
    """Load a tiny model with the llama-cpp-python that `python` has, and decode with it."""
    with tempfile.TemporaryDirectory(prefix="amalia-selftest-") as folder:
        model = Path(folder) / "selftest.gguf"
        model.write_bytes(tiny_model())
        return run_child([python, str(Path(__file__).resolve()), str(model)])


def run_child(argv: list[str]) -> SelfTest:
    """Run the child and read its one line of JSON; however it ends, say how."""
    began = time.monotonic()
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return SelfTest(False, "", _PATIENCE, f"no answer within {_PATIENCE} s")
    seconds = time.monotonic() - began
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    if done.returncode < 0:
        words = [line for line in said if re.search(r"assert|abort|error|fail", line, re.IGNORECASE)]
        return SelfTest(False, _signal_name(-done.returncode), seconds, words[-1] if words else "it left no message")
    try:
        answer = json.loads(done.stdout.decode("utf-8", "replace").strip().splitlines()[-1])
        return SelfTest(bool(answer["ok"]), "", seconds, str(answer["detail"]), wrong=not answer["ok"])
    except (ValueError, KeyError, IndexError, TypeError):
        return SelfTest(False, "", seconds, said[-1] if said else f"exit code {done.returncode} and no answer")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


# ggml's number of a block type → weights in a block, bytes of it, and which of these bytes are its f16 scales
_F32, _Q4_0, _Q8_0, _Q4_K, _Q6_K = 0, 2, 8, 12, 14
_BLOCKS = {_Q4_0: (32, 18, (0,)), _Q8_0: (32, 34, (0,)), _Q4_K: (256, 144, (0, 2)), _Q6_K: (256, 210, (208,))}
# what a random code of each type is worth, so that every matrix's weights are of about the same size
_SCALES = {_Q4_0: 0.01, _Q8_0: 0.0008, _Q4_K: 0.0002, _Q6_K: 0.00005}


def tiny_model() -> bytes:
    """Write a Llama of one layer as GGUF: no vocabulary, every matrix of another type, the same bytes each time."""
    dice = random.Random(0)
    matrices = {
        "token_embd.weight": (_Q8_0, WIDTH, VOCABULARY),
        "output.weight": (_Q6_K, WIDTH, VOCABULARY),
        "blk.0.attn_q.weight": (_Q8_0, WIDTH, WIDTH),
        "blk.0.attn_k.weight": (_Q4_0, WIDTH, WIDTH),
        "blk.0.attn_v.weight": (_Q6_K, WIDTH, WIDTH),
        "blk.0.attn_output.weight": (_Q4_K, WIDTH, WIDTH),
        "blk.0.ffn_gate.weight": (_Q4_0, WIDTH, FEED_FORWARD),
        "blk.0.ffn_up.weight": (_Q4_K, WIDTH, FEED_FORWARD),
        "blk.0.ffn_down.weight": (_Q8_0, FEED_FORWARD, WIDTH),
    }
    tensors: dict[str, tuple[int, tuple[int, ...], bytes]] = {
        name: (kind, (columns, rows), _blocks(dice, kind, columns * rows))
        for name, (kind, columns, rows) in matrices.items()
    }
    for name in ("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"):
        tensors[name] = (_F32, (WIDTH,), struct.pack(f"<{WIDTH}f", *[1.0] * WIDTH))
    settings: dict[str, str | int | float] = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "no_vocab",
        "llama.vocab_size": VOCABULARY,
        "llama.context_length": 128,
        "llama.embedding_length": WIDTH,
        "llama.block_count": 1,
        "llama.feed_forward_length": FEED_FORWARD,
        "llama.attention.head_count": HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }
    header = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(settings))]
    header += [_string(key) + _value(value) for key, value in settings.items()]
    offset = 0
    for name, (kind, shape, data) in tensors.items():
        header.append(_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
        offset += len(_padded(data))
    return _padded(b"".join(header)) + b"".join(_padded(data) for _, _, data in tensors.values())


def _blocks(dice: random.Random, kind: int, weights: int) -> bytes:
    """Fill blocks with random codes under one fixed scale; a random scale could be infinite."""
    per_block, nbytes, scales = _BLOCKS[kind]
    data = bytearray(dice.randbytes(weights // per_block * nbytes))
    for start in range(0, len(data), nbytes):
        for place in scales:
            struct.pack_into("<e", data, start + place, _SCALES[kind])
    return bytes(data)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _value(value: str | int | float) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    return struct.pack("<II", 4, value) if isinstance(value, int) else struct.pack("<If", 6, value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 32)


def _child(model: str) -> None:
    """Decode on the CPU, then on a GPU where the library has one, and print what came out as one line of JSON."""
    import llama_cpp.llama_cpp as llama

    _load_variant(llama._lib, Path(llama.__file__).parent / "lib")
    llama.llama_backend_init()
    problem = _decode(llama, model, gpu_layers=0)
    if not problem and llama.llama_supports_gpu_offload():
        problem = _decode(llama, model, gpu_layers=99)
    switched_on = [
        part.strip().removesuffix("= 1").strip() for part in llama.llama_print_system_info().decode().split("|")
    ]
    system = ", ".join(part.replace(" : ", ": ") for part in switched_on if part and "=" not in part)
    print(json.dumps({"ok": not problem, "detail": problem or system}))


def _load_variant(library: Any, folder: Path) -> None:
    """Load the CPU variant of a portable build that scores best here, by its explicit path; other builds have none.

    Through the library already open: opening libggml.so by its name would give a second copy with a list of its own.
    """
    import ctypes

    variants = sorted(folder.glob("libggml-cpu-*.so"))
    scores = {file: int(ctypes.CDLL(str(file)).ggml_backend_score()) for file in variants}
    if not scores:
        return
    load = library.ggml_backend_load
    load.argtypes, load.restype = [ctypes.c_char_p], ctypes.c_void_p
    if not load(str(max(scores, key=lambda file: scores[file])).encode()):
        raise RuntimeError("no CPU variant of this portable build would load")


def _decode(library: Any, model_file: str, gpu_layers: int) -> str:
    """Compare the logits of a batch with those of single steps over the same tokens; give what is wrong, or nothing.

    A batch and a step go through different kernels, so agreement says more than finite numbers do.
    """
    model_params = library.llama_model_default_params()
    model_params.n_gpu_layers = gpu_layers
    model = library.llama_model_load_from_file(model_file.encode(), model_params)
    if not model:
        return "the library would not load the test's model"
    params = library.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 128, 64, 2, 2
    tokens = [(index * 37 + 5) % VOCABULARY for index in range(BATCH + STEPS)]
    results = []
    for first in (BATCH + STEPS, BATCH):  # all as one batch; then a batch and single steps
        context = library.llama_init_from_model(model, params)
        if not context:
            return "the library would not open a context"
        logits: list[float] = []  # of every token, flat
        for start, stop in [(0, first), *((place, place + 1) for place in range(first, BATCH + STEPS))]:
            batch = library.llama_batch_init(stop - start, 0, 1)
            batch.n_tokens = stop - start
            for index, place in enumerate(range(start, stop)):
                batch.token[index], batch.pos[index] = tokens[place], place
                batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, 0, 1
            failed = library.llama_decode(context, batch) != 0
            library.llama_batch_free(batch)
            if failed:
                return "the library would not decode"
            logits += library.llama_get_logits(context)[: (stop - start) * VOCABULARY]
        results.append(logits)
        library.llama_free(context)
    library.llama_model_free(model)
    together, stepwise = results
    if not all(-1e30 < logit < 1e30 for logit in [*together, *stepwise]):
        return "the logits are not finite"
    spread = max(together) - min(together) or 1.0
    apart = max(abs(a - b) for a, b in zip(together, stepwise, strict=True)) / spread
    return (
        ""
        if apart < 0.1
        else f"a batch and single steps disagree by {apart:.0%} of the logits' range: a kernel computes wrongly"
    )


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose file names must not hide anybody's packages
    _child(sys.argv[1])
