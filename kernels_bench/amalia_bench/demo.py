"""The whole line on the embedded model, as `make demo` shows it: convert, answer, measure, and one table."""

import sys
from pathlib import Path

from rich.table import Table

from amalia_bench.machine import this_machine
from amalia_bench.speed import Measurement, SpeedConfig, measure_speed, trials
from amalia_bench.speed_table import rate
from amalia_bench.subject import open_remote
from amalia_convert.conversion import ConvertConfig, convert
from amalia_convert.receipt import Receipt
from amalia_edge.console import megabytes, out, progress
from amalia_edge.errors import AmaliaError
from amalia_edge.model import Model
from amalia_edge.sampler import SamplingConfig
from amalia_edge.store import models_folder

SOURCE, LEVELS = "fadinho", ("Q8_0", "Q4_K_M")
QUESTION = "O que é um azulejo?"
REPETITIONS = 3
NEXT = """
fadinho is a toy of 7.6 million parameters: it proves that the line works, and says nothing about quality.
The real AMÁLIA has 9 billion. What to type next:

  amalia doctor        what this machine is, and what could go wrong
  amalia convert amalia-llm/AMALIA-9B-0626-DPO        18.3 GB to read, 5.6 GB to keep (--stream keeps no more than that)
  amalia run AMALIA-9B-0626-DPO "Quem foi Amália Rodrigues?"

or, with any ready GGUF, amalia run FILE.gguf "...". Both programs are in .venv/bin of this checkout."""


def main() -> int:
    try:
        demonstrate()
    except AmaliaError as error:
        print(f"amalia: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def demonstrate() -> None:
    """Run the line once, saying what is done."""
    _say(f"1. {SOURCE}: safetensors in, GGUF at {' and '.join(LEVELS)} out, one pass")
    receipts = convert(ConvertConfig(SOURCE, LEVELS, models_folder(), replace=True))
    for receipt in receipts:
        out.print(f"   {receipt.output}  {megabytes(receipt.nbytes)}", markup=False)
    paths = [models_folder() / receipt.output for receipt in receipts]
    _say(f"\n2. libllama loads both, and each answers: {QUESTION}")
    for receipt, path in zip(receipts, paths, strict=True):
        out.print(f"   {receipt.level}: ", end="")
        answer(path)
    _say("\n3. Speed, models in turns")
    table, machine = summary(receipts, measure(paths)), this_machine()
    out.print(table)
    out.print(
        f"\n{machine.cpu}, {machine.cores} cores: mean ± standard deviation of {REPETITIONS} runs, greedy, text included."
    )
    out.print(NEXT, markup=False)


def answer(path: Path) -> None:
    with Model.open(path) as model:
        for piece in model.chat([{"role": "user", "content": QUESTION}], SamplingConfig(temperature=0, limit=96)):
            print(piece.text, end="", flush=True)
    print()


def measure(paths: list[Path]) -> dict[tuple[Path, str], Measurement]:
    """Measure prompt and generation of every file, under a bar."""
    wanted = trials(paths, SpeedConfig(repetitions=REPETITIONS))
    with progress("measuring", sum(trial.steps for trial in wanted), in_bytes=False) as bar:
        done = measure_speed(wanted, open_remote, watch=lambda: bar.advance(1))
        return {(measurement.facts.path, measurement.case.name): measurement for measurement in done}


def summary(receipts: list[Receipt], measured: dict[tuple[Path, str], Measurement]) -> Table:
    config = SpeedConfig()
    table = Table("level", box=None, pad_edge=False, padding=(0, 3, 0, 3))
    for heading in ("size", "bits per weight", *(f"{case.name} tokens/s" for case in config.cases)):
        table.add_column(heading, justify="right")
    for receipt in receipts:
        path = models_folder() / receipt.output
        speeds = [measured[path, case.name].engine for case in config.cases]
        rates = [rate(timing.mean_tps, timing.stdev_tps) for timing in speeds]
        table.add_row(receipt.level, megabytes(receipt.nbytes), f"{receipt.bits_per_weight:.2f}", *rates)
    return table


def _say(line: str) -> None:
    out.print(line, style="bold", markup=False)


if __name__ == "__main__":
    sys.exit(main())
