"""Convert from a local Hub with --stream and from its cache, compare the bytes, and watch how much disk streaming takes.

python tests/convert/random_checkpoint.py CHECKPOINT --layers 6 --shards 4
python tests/convert/stream_disk.py CHECKPOINT [--to Q4_K_M,Q8_0] [--cut-after BYTES]
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from hub_server import HubServer

NAME = "org/random"
COMMAND = (sys.executable, "-c", "from amalia_edge.cli.door import main; main()", "convert", NAME)
SPARE = 64_000_000  # bytes that streaming may take beside its outputs


def allocated(*folders: Path) -> int:
    """Count the disk's blocks below some folders."""
    total = 0
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                total += path.lstat().st_blocks * 512
            except FileNotFoundError:  # renamed or gone between the two calls
                continue
    return total


def hashes(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("*.gguf"))}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("checkpoint", type=Path)
    words.add_argument("--to", default="Q4_K_M,Q8_0")
    words.add_argument("--cut-after", type=int, help="cut every connection after so many bytes")
    told = words.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        repository = place / "repositories" / NAME
        repository.parent.mkdir(parents=True)
        repository.symlink_to(told.checkpoint.absolute())
        with HubServer(place / "repositories") as hub:
            hub.cut_after = told.cut_after
            home, out = place / "home", place / "streamed"
            began, most = time.monotonic(), 0
            streaming = (*COMMAND, "--stream", "--to", told.to, "--out", str(out))
            with subprocess.Popen(streaming, env=hub.environment(home)) as child:
                while child.poll() is None:
                    most = max(most, allocated(home, out))
                    time.sleep(0.02)
            seconds = time.monotonic() - began
            assert child.returncode == 0
            outputs, kept = allocated(out), allocated(home)
            streamed = hashes(out)
            sent = hub.nbytes_sent
            hub.cut_after = None
            cached = (*COMMAND, "--no-stream", "--to", told.to, "--out", str(place / "cached"))
            subprocess.run(cached, env=hub.environment(home), check=True)
            same = hashes(place / "cached") == streamed
        shutil.rmtree(place / "cached")
    size = sum(path.stat().st_size for path in told.checkpoint.glob("*.safetensors"))
    print(f"checkpoint {size / 1e6:.0f} MB, sent {sent / 1e6:.0f} MB in {seconds:.1f} s")
    print(f"outputs {outputs / 1e6:.1f} MB; the most disk in use {most / 1e6:.1f} MB: {(most - outputs) / 1e6:+.1f} MB")
    print(f"left in the Hub's cache {kept / 1e6:.2f} MB; the same bytes as from the cache: {same}")
    sys.exit(not same or most > outputs + SPARE)


if __name__ == "__main__":
    main()
