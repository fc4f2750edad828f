"""How large the last-level caches are."""

from pathlib import Path

from amalia_bench.cache import UNKNOWN, last_level_caches


def put(root: Path, cpu: int, index: int, level: int, size: str, shared: str, kind: str = "Unified") -> None:
    folder = root / f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
    folder.mkdir(parents=True)
    for name, text in {"level": str(level), "size": size, "shared_cpu_list": shared, "type": kind}.items():
        (folder / name).write_text(text + "\n")


def test_a_cache_that_cores_share_counts_once(tmp_path: Path) -> None:
    for cpu in range(4):
        put(tmp_path, cpu, 2, 2, "1024K", str(cpu))
        put(tmp_path, cpu, 3, 3, "32M", "0-3")
    assert last_level_caches(tmp_path) == 32 << 20


def test_two_sockets_have_two_caches(tmp_path: Path) -> None:
    put(tmp_path, 0, 3, 3, "30720K", "0")
    put(tmp_path, 1, 3, 3, "30720K", "1")
    assert last_level_caches(tmp_path) == 60 << 20


def test_where_there_is_no_third_level_the_second_is_the_last(tmp_path: Path) -> None:
    put(tmp_path, 0, 0, 1, "32K", "0", "Data")
    put(tmp_path, 0, 1, 1, "48K", "0", "Instruction")
    put(tmp_path, 0, 2, 2, "512K", "0-3")
    assert last_level_caches(tmp_path) == 512 << 10


def test_a_cache_of_instructions_holds_no_weights(tmp_path: Path) -> None:
    put(tmp_path, 0, 0, 1, "32K", "0", "Data")
    put(tmp_path, 1, 1, 1, "48K", "1", "Instruction")
    assert last_level_caches(tmp_path) == 32 << 10


def test_a_system_that_does_not_say_is_taken_to_have_large_ones(tmp_path: Path) -> None:
    assert last_level_caches(tmp_path) == UNKNOWN


def test_a_size_nobody_can_read_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path, 0, 3, 3, "", "0")
    put(tmp_path, 0, 2, 2, "2M", "0")
    assert last_level_caches(tmp_path) == 2 << 20
