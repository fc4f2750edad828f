"""A whole run of `amalia bench speed`: what a file of records holds already is left out, the rest becomes rows one by one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from amalia_bench import records
from amalia_bench.against import Rival, beside
from amalia_bench.bandwidth import measure_bandwidth
from amalia_bench.identity import identify
from amalia_bench.machine import Machine, room
from amalia_bench.records import Row
from amalia_bench.speed import Opener, Surroundings, Trial, measure_speed
from amalia_bench.speed_row import Key, key_of, make_key, speed_record
from amalia_bench.subject import open_remote
from amalia_bench.thermal import Thermometer
from amalia_edge.device import usable_cores


def here(machine: Machine, wanted: Sequence[Trial] = ()) -> Surroundings:
    """Look at all there is to look at on this machine."""
    layers = max((abs(trial.config.load.gpu_layers) for trial in wanted), default=0)
    return Surroundings(room(machine, layers), Thermometer(), lambda threads: measure_bandwidth(threads).read_gbps)


def split(
    wanted: Sequence[Trial], known: Sequence[Row], machine: Machine, rival: str = ""
) -> tuple[list[Row], list[Trial]]:
    """Give the known rows that answer what is wanted, and the trials that are left."""
    by_key = {key_of(row): row for row in known if row["kind"] == "speed" and "model" in row}
    rows, left = [], []
    for trial in wanted:
        keys = {case: _key(trial, index, machine, rival) for index, case in enumerate(trial.cases)}
        rows += [by_key[key] for key in keys.values() if key in by_key]
        cases = tuple(case for case, key in keys.items() if key not in by_key)
        if cases:
            left.append(replace(trial, cases=cases))
    return rows, left


def _key(trial: Trial, index: int, machine: Machine, rival: str) -> Key:
    load = trial.config.load
    return make_key(
        identify(trial.path).sha256, machine.cpu, rival, load, trial.cases[index], load.threads or usable_cores()
    )


def run_speed(
    wanted: Sequence[Trial],
    machine: Machine,
    *,
    opener: Opener = open_remote,
    surroundings: Surroundings | None = None,
    rival: Rival | None = None,
    keep: Path | None = None,
    watch: Callable[[], None] = lambda: None,
) -> Iterator[Row]:
    """Measure, and give each row after it was appended to `keep`."""
    for measurement in measure_speed(
        wanted, beside(rival, opener) if rival else opener, surroundings or here(machine, wanted), watch
    ):
        row = speed_record(measurement, machine, identify(measurement.facts.path))
        if keep is not None:
            records.append(keep, row)
        yield row
