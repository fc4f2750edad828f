"""How much the product's build gains over gcc 12's without AMX: the same model, the same code, two libraries in turns.

    make setup
    .venv/bin/python kernels_bench/checks/random_model.py /tmp/random-Q8_0.gguf
    .venv/bin/python kernels_bench/checks/amx_against_gcc.py /tmp/random-Q8_0.gguf --gcc-venv /tmp/gcc

The first run builds llama-cpp-python with the system's gcc into the folder of --gcc-venv: about ten minutes on two cores.
Wanted: prompt ≥ 2.4 ×, generation ≥ 1.6 ×. Ends with 1 where it is less.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from alternate import ROOT, amalia, compare, in_turns, pick

WANTED_PROMPT, WANTED_GENERATION = 2.4, 1.6


def gcc_python(folder: Path) -> str:
    """Give the interpreter of the gcc build, which is made if it is not there."""
    python = folder / "bin" / "python"
    if (
        not python.exists()
        or subprocess.run([python, "-c", "import llama_cpp.llama_cpp"], capture_output=True).returncode
    ):
        build = [sys.executable, str(ROOT / "edge" / "amalia_edge" / "build.py"), "--compiler", "gcc", "--cpu"]
        made = subprocess.run([*build, "--venv", str(folder), "--project", f"{ROOT}[bench]"])
        if made.returncode:
            sys.exit("the gcc build failed; see above")
    return str(python)


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("model", help="a GGUF file at Q8_0")
    words.add_argument("--gcc-venv", type=Path, required=True, help="where the gcc build is, or is to be made")
    words.add_argument("--product", default=sys.executable, help="the interpreter of the product's build")
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("-p", "--prompt", type=int, default=512)
    words.add_argument("-n", "--generated", type=int, default=64)
    words.add_argument("-t", "--threads", help="[default: physical cores]")
    order = words.parse_args()
    common = [order.model, "-p", str(order.prompt), "-n", str(order.generated), "-r", "1"]
    common += ["-t", order.threads] if order.threads else []
    sides = [amalia(order.product, common, "product"), amalia(gcc_python(order.gcc_venv), common, "gcc")]
    rounds = in_turns(sides, order.rounds)
    for side, rows in zip(sides, rounds[0], strict=True):
        print(
            f"{side.name}: {rows[0]['cpu_info']}, {rows[0]['n_threads']} threads, {rows[0]['compiler']}, {rows[0]['features']}"
        )
    features = [set(rows[0]["features"].split()) for rows in rounds[0]]
    if "AMX_INT8" not in features[0] or "AMX_INT8" in features[1]:
        sys.exit("not comparable: AMX must be in the product's build, and not in gcc's (is this a machine with AMX?)")
    enough = []
    for what, case, wanted in (
        ("prompt", (order.prompt, 0), WANTED_PROMPT),
        ("generation", (0, order.generated), WANTED_GENERATION),
    ):
        ours, theirs = ([pick(rows[side], *case)["avg_ts"] for rows in rounds] for side in (0, 1))
        enough.append(compare(f"{what} {case[0] or case[1]}, tokens/s", ours, theirs, wanted))
    sys.exit(0 if all(enough) else 1)


if __name__ == "__main__":
    main()
