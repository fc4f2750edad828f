"""Write a model of a published shape with random weights, at any level, and keep it: for checks of speed.

    python kernels_bench/checks/random_model.py /tmp/random-Q8_0.gguf --level Q8_0

`amalia bench shape` does the same for a while, and measures it.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / room) for room in ("edge", "convert", "kernels_bench")]

from amalia_bench.synthetic import write_synthetic  # noqa: E402


def main() -> None:
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("path", type=Path, metavar="FILE.gguf")
    words.add_argument("--level", default="Q8_0", help="such as Q8_0 or Q4_K_M")
    words.add_argument("--shape", default="eurollm-1.7b", help="a shape's name, or a config.json")
    order = words.parse_args()
    write_synthetic(order.path, order.shape, order.level)
    print(f"{order.path}: {order.path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
