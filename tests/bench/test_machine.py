"""The machine a figure belongs to."""

from pathlib import Path

import pytest

from amalia_bench.machine import peak_memory, this_machine

MACHINES = Path(__file__).parents[1] / "machines"


def test_peak_memory_is_the_kernels_high_water_mark(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t    2048 kB\nVmRSS:\t  10 kB\n")
    assert peak_memory(status) == 2048 * 1024


def test_without_proc_the_peak_comes_from_the_system_call(tmp_path: Path) -> None:
    assert peak_memory(tmp_path / "absent") > 1_000_000


def test_a_jetsons_figures_name_its_board_and_power_mode() -> None:
    board = this_machine(MACHINES / "orin-nano").board
    assert "Orin Nano" in board
    assert "mode" in board


@pytest.mark.parametrize("name", sorted(folder.name for folder in MACHINES.iterdir() if folder.is_dir()))
def test_every_recorded_machine_has_what_a_table_needs(name: str) -> None:
    seen = this_machine(MACHINES / name)
    assert seen.cpu
    assert min(seen.cores, seen.threads, seen.memory) > 0
