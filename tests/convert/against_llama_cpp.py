"""Compare our conversions of the tests' checkpoints with llama.cpp's own two steps. A development script, not a test.

    python tests/convert/against_llama_cpp.py CONVERT_HF_TO_GGUF.py PYTHON LLAMA_QUANTIZE [--levels Q8_0,Q4_K_M] [--only qwen2,…]

PYTHON is one that has torch and transformers. Every metadata value and every tensor is compared: at F32, F16 and BF16 with the
converter's own output, at the other levels with what llama-quantize makes of the converter's file in the checkpoint's
precision. Prints a table of what differs, and ends with 1 if a tensor does; convert/README.md gives the reasons for the rest.

llama.cpp recognises a byte-level tokenizer by a hash of some ids, and knows none of a tokenizer made for tests: there it is
told the name we found.
"""

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf

sys.path.insert(0, str(Path(__file__).parents[1]))
from amalia_convert.conversion import ConvertConfig, convert
from checkpoints import CARD, CHECKPOINTS, write_checkpoint

PRECISE = ("F32", "F16", "BF16")
LEVELS = "Q8_0,Q6_K,Q5_K_M,Q5_K_S,Q5_1,Q5_0,Q4_K_M,Q4_K_S,Q4_1,Q4_0,IQ4_NL,IQ4_XS,Q3_K_L,Q3_K_M,Q3_K_S,Q2_K"
TOLD = """
import runpy, sys
from pathlib import Path
pre, script = sys.argv[1:3]
sys.argv = sys.argv[2:]
sys.path.insert(0, str(Path(script).parent))
from conversion import base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
runpy.run_path(script, run_name="__main__")
"""


def main(script: Path, python: str, program: str, levels: list[str], names: list[str]) -> int:
    rows, apart, files = defaultdict[tuple[str, str, str], list[str]](list), 0, 0
    for name in names:
        with tempfile.TemporaryDirectory() as place:
            for level, ours, theirs in pairs(Path(place) / name, script, [python, program], levels):
                files += 1
                for key, one, other in differences(gguf.GGUFReader(ours), gguf.GGUFReader(theirs)):
                    apart += key.startswith("tensor ")
                    rows[key, other, one].append(f"{name} {level}")
    print("| key | theirs | ours | where |", "|---|---|---|---|", sep="\n")
    for (key, other, one), where in rows.items():
        print(f"| `{key}` | {other} | {one} | {summary(where, files)} |")
    print(f"\n{files} files compared, {apart} tensors differ")
    return int(apart > 0)


def pairs(folder: Path, script: Path, programs: list[str], levels: list[str]) -> Iterator[tuple[str, Path, Path]]:
    """Convert a checkpoint both ways; give each level with our file and theirs."""
    python, program = programs
    tiny = CHECKPOINTS[folder.name]
    write_checkpoint(folder, tiny)
    card = CARD.replace("version: 1.0", 'version: "1.0"')  # gguf's writer breaks on a number there
    (folder / "README.md").write_text(card, "utf-8")
    receipts = convert(ConvertConfig(str(folder), (*PRECISE, *levels), folder.parent / "ours"))
    ours = {receipt.level: folder.parent / "ours" / receipt.output for receipt in receipts}
    pre = gguf.GGUFReader(ours["F32"]).fields["tokenizer.ggml.pre"].contents()
    for level in PRECISE:
        theirs = folder.parent / f"{level}.gguf"
        run(python, "-c", TOLD, pre, str(script), str(folder), "--outtype", level.lower(), "--outfile", str(theirs))
        yield level, ours[level], theirs
    for level in levels:
        theirs = folder.parent / "theirs.gguf"
        run(program, str(folder.parent / f"{tiny.dtype}.gguf"), str(theirs), level, "2")
        yield level, ours[level], theirs


def run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}\n{' '.join(words[-6:])}: ended with {done.returncode}")


def differences(ours: gguf.GGUFReader, theirs: gguf.GGUFReader) -> Iterator[tuple[str, str, str]]:
    """Give what differs: its name, our value, theirs."""
    one, other = fields(ours), fields(theirs)
    for key in [*other, *(key for key in one if key not in other)]:
        if one.get(key) != other.get(key):
            yield key, show(one.get(key)), show(other.get(key))
    orders = [key for key in one if key in other], [key for key in other if key in one]
    for mine, their in zip(*orders, strict=True):
        if mine != their:
            yield "order of the keys", f"here `{mine}`", f"here `{their}`"
            break
    left, right = tensors(ours), tensors(theirs)
    for name in [*right, *(name for name in left if name not in right)]:
        if left.get(name) != right.get(name):
            yield f"tensor {name}", left.get(name, ("absent",))[0], right.get(name, ("absent",))[0]


def fields(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {
        key: ([kind.name for kind in field.types], field.contents())
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.")
    }


def tensors(reader: gguf.GGUFReader) -> dict[str, tuple[str, bytes]]:
    return {tensor.name: (tensor.tensor_type.name, tensor.data.tobytes()) for tensor in reader.tensors}


def show(value: Any) -> str:
    return "absent" if value is None else f"{value[1]!s:.60}".replace("\n", "\\n").replace("|", "\\|")


def summary(where: list[str], files: int) -> str:
    if len(where) == files:
        return "everywhere"
    names = sorted({one.split()[0] for one in where})
    return f"{', '.join(names)} ({len(where)} files)"


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("script", type=Path)
    words.add_argument("python")
    words.add_argument("program")
    words.add_argument("--levels", default=LEVELS)
    words.add_argument("--only", default=",".join(CHECKPOINTS))
    told = words.parse_args()
    sys.exit(main(told.script, told.python, told.program, told.levels.split(","), told.only.split(",")))
