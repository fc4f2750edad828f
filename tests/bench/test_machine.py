"""The machine a figure belongs to."""

from pathlib import Path

import pytest

from amalia_bench.machine import loaded_library, peak_memory, room, this_machine

MACHINES = Path(__file__).parents[1] / "machines"


def test_peak_memory_is_the_kernels_high_water_mark(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t    2048 kB\nVmRSS:\t  10 kB\n")
    assert peak_memory(status) == 2048 * 1024


def test_without_proc_the_peak_comes_from_the_system_call(tmp_path: Path) -> None:
    assert peak_memory(tmp_path / "absent") > 1_000_000


def test_models_must_share_the_gpus_memory_where_layers_go_there() -> None:
    found = this_machine(MACHINES / "desktop-gpu")
    assert room(found, 0, MACHINES / "desktop-gpu") == found.available
    assert 0 < room(found, -1, MACHINES / "desktop-gpu") < found.available


def test_memory_that_is_shared_is_the_machines() -> None:
    board = this_machine(MACHINES / "orin-nano")
    assert room(board, -1, MACHINES / "orin-nano") == board.available


def test_the_library_is_named_with_how_it_was_built() -> None:
    library = loaded_library()
    assert library.ggml[:1].isdecimal()
    assert bool(library.flags) == bool(library.compiler)


def test_a_jetsons_figures_name_its_board_and_power_mode() -> None:
    board = this_machine(MACHINES / "orin-nano").board
    assert "Orin Nano" in board
    assert "mode" in board


@pytest.mark.parametrize("name", sorted(folder.name for folder in MACHINES.iterdir() if folder.is_dir()))
def test_every_recorded_machine_has_what_a_table_needs(name: str) -> None:
    seen = this_machine(MACHINES / name)
    assert seen.cpu
    assert min(seen.cores, seen.threads, seen.memory) > 0
