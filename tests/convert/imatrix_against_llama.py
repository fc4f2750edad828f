"""Compare our importance data with llama-imatrix's, of one model and one text. A development script, not a test.

    python tests/convert/imatrix_against_llama.py LLAMA_IMATRIX MODEL.gguf TEXT [CTX_SIZE]

The relative difference of two entries is |ours - theirs| / theirs. Sums of squares and counts are compared, over all columns
of each tensor; what only one of the two collected is an error. Ends with 1 if any entry differs by more than 1e-3.

Kernels differ from build to build: with LLAMA_CPP_LIB_PATH set to the folder of llama-imatrix's libraries both compute alike,
and only the collecting is compared.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amalia_convert.imatrix import ImatrixConfig, collect_imatrix
from amalia_edge.gguf import read_header

TOLERANCE = 1e-3
TINY = 1e-30  # keeps a column that nothing met from dividing by zero


def main(program: str, model: str, text: str, ctx_size: str = "512") -> int:
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.gguf", Path(folder) / "theirs.gguf"
        summary = collect_imatrix(ImatrixConfig(model, (Path(text),), ours, chunk_size=int(ctx_size)))
        words = [program, "-m", model, "-f", text, "-o", str(theirs), "-c", ctx_size]
        subprocess.run(words, check=True, capture_output=True)
        return compare(tensors(ours), tensors(theirs), summary.chunks)


def tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read every tensor of a file of importance data, in the file's order."""
    content = path.read_bytes()
    found = read_header(path, model=False).tensors
    return {tensor.name: np.frombuffer(content, "<f4", tensor.nbytes // 4, tensor.offset) for tensor in found}


def compare(ours: dict[str, NDArray[np.float32]], theirs: dict[str, NDArray[np.float32]], chunks: int) -> int:
    if list(ours) != list(theirs):
        print("not the same tensors, or not in the same order:", *sorted(ours.keys() ^ theirs.keys()))
        return 1
    every = []
    for name, values in theirs.items():
        apart = np.abs(ours[name].astype(np.float64) - values) / np.maximum(np.abs(values), TINY)
        print(f"{apart.max():.2e}  {name}")
        every.append(apart)
    apart = np.concatenate(every)
    worst, most = apart.max(), np.quantile(apart, 0.999)
    print(
        f"{len(theirs)} tensors, {len(apart)} entries, {chunks} chunks: at most {worst:.2e} apart, 99.9 % within {most:.2e}"
    )
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
