"""Where a figure was measured."""

import dataclasses

from amalia_bench.place import by_place, machine, place
from bench.example_records import HERE, JETSON, LIBRARY, row, speed_body


def test_a_place_names_machine_library_and_compiler() -> None:
    told = str(place(row("speed", speed_body())))
    assert told == "A CPU @ 2.0 GHz, 2 cores, 16.00 GB; llama-cpp-python 0.3.36 built by zig 0.16.0"


def test_a_boards_power_mode_is_part_of_its_machine() -> None:
    assert "mode 25W" in machine(row("speed", speed_body(), machine=JETSON))


def test_free_memory_makes_no_other_machine() -> None:
    fuller = dataclasses.replace(HERE, available=1)
    assert machine(row("speed", speed_body())) == machine(row("speed", speed_body(), machine=fuller))


def test_another_compilers_library_is_another_place() -> None:
    other = dataclasses.replace(LIBRARY, compiler="gcc 12.2")
    assert len(by_place([row("speed", speed_body()), row("speed", speed_body(), library=other)])) == 2


def test_a_row_of_the_first_format_names_its_processor() -> None:
    old = {
        "kind": "speed",
        "cpu_info": "Old CPU",
        "gpu_info": "",
        "build_commit": "llama-cpp-python 0.3.36",
        "compiler": "zig",
    }
    assert str(place(old)) == "Old CPU; llama-cpp-python 0.3.36 built by zig"


def test_nothing_in_a_machines_name_steers_a_terminal() -> None:
    assert "\x1b" not in machine(row("speed", speed_body(), machine=dataclasses.replace(HERE, cpu="CPU\x1b[2J")))
