"""A recorded machine answers like the real one, and says nothing about whose it is."""

import gzip
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from amalia_edge.errors import UsageError
from amalia_edge.machine import COMMANDS, Ask, Compiler, Gpu, identify, look, record

MACHINES = Path(__file__).parent.parent / "machines"
NAMES = sorted(file.parent.name for file in MACHINES.glob("*/machine.json"))


def answering(**said: str) -> Ask:
    commands = {words.replace("_", " "): text for words, text in said.items()}
    return lambda argv: commands.get(" ".join(argv))


def unpacked(file: Path, folder: Path) -> Path:
    with tarfile.open(file) as tar:
        for entry in tar:
            data = tar.extractfile(entry)
            assert data is not None
            (folder / entry.name).parent.mkdir(parents=True, exist_ok=True)
            (folder / entry.name).write_bytes(data.read())
    return folder / "machine"


@pytest.mark.parametrize("name", NAMES)
def test_a_machine_recorded_again_is_the_same_machine(name: str, tmp_path: Path) -> None:
    file = record(MACHINES / name, tmp_path / "again.tar.gz")
    assert look(unpacked(file, tmp_path)) == look(MACHINES / name)


def test_this_very_machine_can_be_recorded_and_looked_at(tmp_path: Path) -> None:
    here, there = look(), look(unpacked(record(Path("/"), tmp_path / "here.tar.gz"), tmp_path))
    assert (here.arch, here.features, here.cores, here.threads, here.compilers) == (
        there.arch, there.features, there.cores, there.threads, there.compilers)  # fmt: skip


def test_a_recording_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    first = record(MACHINES / "orin-nano", tmp_path / "a.tar.gz").read_bytes()
    assert record(MACHINES / "orin-nano", tmp_path / "b.tar.gz").read_bytes() == first


def test_a_recording_leaves_out_serial_numbers_and_users(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nSerial\t\t: 10000000deadbeef\n")
    file = record(tmp_path, tmp_path / "m.tar.gz", answering(**{"xcode-select -p": "/Users/ines/Xcode"}))
    inside = gzip.decompress(file.read_bytes())
    assert b"deadbeef" not in inside and b"ines" not in inside and b"processor" in inside


def test_recording_a_mac_without_tools_does_not_ask_clang_which_would_open_a_window(tmp_path: Path) -> None:
    asked = []

    def ask(argv: Sequence[str]) -> str | None:
        asked.append(argv[0])
        return "Darwin arm64" if argv[0] == "uname" else None

    record(tmp_path, tmp_path / "m.tar.gz", ask)
    look(tmp_path, ask)
    assert "clang" not in asked and "gcc" not in asked and "sysctl" in asked


def test_a_newer_format_is_named_and_refused(tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text(json.dumps({"format": 2, "commands": {}}))
    with pytest.raises(UsageError, match=r"machine\.json: format 2, and this version reads up to 1"):
        look(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"commands": {}}', '{"format": 1, "commands": 3}'])
def test_a_broken_recording_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "machine.json").write_text(text)
    with pytest.raises(UsageError, match="no recorded machine"):
        look(tmp_path)


def test_no_recorded_machine_says_more_than_is_asked_for() -> None:
    for name in NAMES:
        commands = json.loads((MACHINES / name / "machine.json").read_text())["commands"]
        assert set(commands) <= set(COMMANDS), name


def test_a_hybrid_laptop_has_twelve_cores_and_sixteen_threads() -> None:
    laptop = look(MACHINES / "x86-laptop")
    assert (laptop.cores, laptop.threads) == (12, 16)


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def cores(capacities: Sequence[int]) -> dict[str, str]:
    """Give the files of so many cores, one processor each, by how fast the kernel says they are."""
    folder = "sys/devices/system/cpu"
    files = {f"{folder}/cpu{number}/cpu_capacity": f"{speed}\n" for number, speed in enumerate(capacities)}
    for number in range(len(capacities)):
        files |= {f"{folder}/cpu{number}/topology/core_id": f"{number}\n"}
        files |= {f"{folder}/cpu{number}/topology/physical_package_id": "0\n"}
    return files


@pytest.mark.parametrize(
    ("name", "fast"), [("x86-laptop", 4), ("mac-m2", 4), ("orin-nano", 6), ("amx-server-gcc12", 4), ("desktop-gpu", 8)]
)
def test_slow_cores_hyper_threads_and_what_a_group_denies_are_not_counted(name: str, fast: int) -> None:
    assert look(MACHINES / name).fast_cores == fast


def test_little_cores_are_not_counted(tmp_path: Path) -> None:
    board = written(tmp_path, cores([1024, 1024, 1000, 400, 400]))
    assert look(board, answering(nproc="5")).fast_cores == 3


def test_cores_that_this_process_may_not_use_are_not_counted(tmp_path: Path) -> None:
    files = cores([1024] * 8) | {f"sys/devices/system/cpu/cpu{n}/topology/core_id": f"{n % 4}\n" for n in range(8)}
    server = written(tmp_path, {**files, "proc/self/status": "Name:\tx\nCpus_allowed_list:\t0-1,4\n"})
    seen = look(server, answering(nproc="8"))
    assert (seen.cores, seen.threads, seen.fast_cores) == (4, 3, 2)  # 0 and 4 are one core's two threads


def test_numa_nodes_are_counted(tmp_path: Path) -> None:
    files = {f"sys/devices/system/node/node{number}/cpulist": "0\n" for number in (0, 1)}
    assert look(written(tmp_path, files), answering()).nodes == 2 and look(MACHINES / "mac-m2").nodes == 1


def test_what_a_group_has_taken_already_is_not_free_but_its_files_pages_are(tmp_path: Path) -> None:
    meminfo = {"proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n"}
    group = {
        "memory.max": "4000000000\n",
        "memory.current": "1500000000\n",
        "memory.stat": "anon 9\nactive_file 100000000\ninactive_file 400000000\n",
    }
    container = written(tmp_path, meminfo | {f"sys/fs/cgroup/{name}": text for name, text in group.items()})
    seen = look(container, answering())
    assert (seen.memory, seen.available) == (4_000_000_000, 3_000_000_000)
    again = look(unpacked(record(container, tmp_path / "m.tar.gz", answering()), tmp_path / "again"))
    assert again.available == seen.available


def test_under_the_first_version_s_groups_what_is_taken_is_not_free_either(tmp_path: Path) -> None:
    meminfo = {"proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n"}
    group = {
        "limit_in_bytes": "4000000000\n",
        "usage_in_bytes": "1500000000\n",
        "stat": "inactive_file 7\nactive_file 7\ntotal_inactive_file 400000000\ntotal_active_file 100000000\n",
    }
    container = written(
        tmp_path, meminfo | {f"sys/fs/cgroup/memory/memory.{name}": text for name, text in group.items()}
    )
    assert look(container, answering()).available == 3_000_000_000
    again = look(unpacked(record(container, tmp_path / "m.tar.gz", answering()), tmp_path / "again"))
    assert again.available == 3_000_000_000


def test_a_quota_in_no_time_is_none(tmp_path: Path) -> None:
    assert look(written(tmp_path, {"sys/fs/cgroup/cpu.max": "100 0\n"}), answering()).threads == 1


def test_swap_in_compressed_memory_is_told_from_swap_on_a_disk() -> None:
    assert look(MACHINES / "orin-nano").zram == 6 * 650249 * 1024
    assert look(MACHINES / "orin-nano-headless").zram == look(MACHINES / "x86-laptop").zram == 0


def test_a_desktop_is_seen_by_its_manager_or_by_its_sockets(tmp_path: Path) -> None:
    assert look(MACHINES / "orin-nano").desktop and not look(MACHINES / "orin-nano-headless").desktop
    assert not look(tmp_path, answering()).desktop
    written(tmp_path, {"run/user/1000/wayland-0": ""})
    assert look(tmp_path, answering()).desktop
    assert look(unpacked(record(tmp_path, tmp_path / "m.tar.gz", answering()), tmp_path / "again")).desktop


def test_of_a_process_s_own_status_only_its_processors_are_recorded(tmp_path: Path) -> None:
    here = written(tmp_path, {"proc/self/status": "Name:\tines\nUid:\t1000\nCpus_allowed_list:\t0-3\n"})
    again = unpacked(record(here, tmp_path / "m.tar.gz", answering()), tmp_path / "again")
    assert (again / "proc/self/status").read_text() == "Cpus_allowed_list:\t0-3\n"


def test_power_modes_are_the_board_s_own() -> None:
    nano, agx = (look(MACHINES / name).jetson for name in ("orin-nano", "orin-agx"))
    assert nano and agx and (2, "MAXN_SUPER") in nano.power_modes and (0, "MAXN") in agx.power_modes


def test_a_gcc_without_its_gpp_is_no_compiler() -> None:
    assert look(MACHINES / "x86-laptop").compilers == ()


def test_a_container_has_what_its_group_allows() -> None:
    server = look(MACHINES / "amx-server-gcc12")
    assert (server.threads, server.memory) == (4, 16 << 30)  # 3.5 CPUs rounded up; the host has 8 and 32 GB


def test_the_limit_of_a_group_further_up_counts(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/kiosk.slice/amalia.service\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n")
    for group, limit in (("kiosk.slice", "2000000000"), ("kiosk.slice/amalia.service", "max")):
        (tmp_path / "sys/fs/cgroup" / group).mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup" / group / "memory.max").write_text(limit + "\n")
    assert look(tmp_path, answering()).available == 2000000000


def test_a_machine_that_answers_nothing_is_still_described(tmp_path: Path) -> None:
    nothing = look(tmp_path, answering())
    assert (nothing.system, nothing.cores, nothing.threads, nothing.gpus, nothing.jetson) == ("", 1, 1, (), None)


def test_amx_and_vnni_are_named_as_people_know_them() -> None:
    assert look(MACHINES / "amx-server-gcc12").kernels == ("AVX", "AVX2", "AVX-512", "VNNI", "BF16", "AMX")
    assert look(MACHINES / "mac-m2").kernels == ("NEON", "dot product", "FP16", "I8MM")


def test_a_mac_counts_what_it_can_free_as_available() -> None:
    mac = look(MACHINES / "mac-m2")
    assert (mac.memory, mac.available) == (16 << 30, (210345 + 251120 + 9320 + 8123) * 16384)


def test_a_mac_has_one_compiler_although_gcc_answers() -> None:
    assert look(MACHINES / "mac-m2").compilers == (Compiler("apple-clang", "15.0.0", "clang"),)


def test_a_jetson_names_its_board_without_the_device_tree_s_final_zero() -> None:
    board = look(MACHINES / "orin-nano").jetson
    assert board is not None
    assert board.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert (board.soc, board.l4t, board.jetpack, board.power_mode) == ("tegra234", "36.4.7", "6", "25W")


def test_a_power_mode_is_named_by_the_board_s_own_table_where_the_tool_is_silent() -> None:
    assert "nvpmodel -q" not in json.loads((MACHINES / "orin-nx/machine.json").read_text())["commands"]
    board = look(MACHINES / "orin-nx").jetson
    assert board is not None and board.power_mode == "25W"  # number 3 here, number 1 on the Nano


def test_a_gpu_whose_driver_cannot_tell_its_capability_has_none() -> None:
    smi = "nvidia-smi --query-gpu=name,compute_cap,memory.total --format=csv,noheader"
    ask: Ask = {"uname -sm": "Linux x86_64", smi: "Tesla K80, [N/A], 11441 MiB\n"}.get  # type: ignore[assignment]
    assert look(Path("/nowhere"), lambda argv: ask(" ".join(argv))).gpus == (Gpu("Tesla K80", "", "11441 MiB"),)


@pytest.mark.parametrize(
    ("said", "kind", "version"),
    [
        ("gcc (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright", "gcc", "12.2.0"),
        ("gcc-14 (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)", "gcc", "14.2.1"),
        ("x86_64-linux-gnu-gcc-11 (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0", "gcc", "11.4.0"),
        ("Ubuntu clang version 18.1.3 (1ubuntu1)", "clang", "18.1.3"),
        ("Apple clang version 15.0.0 (clang-1500.3.9.4)", "apple-clang", "15.0.0"),
    ],
)
def test_a_compiler_is_known_by_its_first_line(said: str, kind: str, version: str) -> None:
    assert identify(lambda argv: said, "cc") == Compiler(kind, version, "cc")
