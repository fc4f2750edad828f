"""Which meters a machine has, and what is said where it has none."""

from pathlib import Path

import pytest

from amalia_bench.sensors import SMI_POWER, Source
from amalia_bench.sources import READABLE, WALL, Missing, choose_sources, find_sources
from amalia_edge.errors import BenchError, UsageError
from amalia_edge.machine import Ask, answers
from bench.power_machine import FakeClock, put, rapl_zone, server

MACHINES = Path(__file__).parents[1] / "machines"
RAIL = "sys/bus/i2c/devices/1-0040/hwmon/hwmon1"


def nobody(words: object) -> None:
    return None


def search(root: Path, ask: Ask = nobody) -> tuple[list[Source], list[Missing]]:
    return find_sources(root, ask, FakeClock())


def chosen(root: Path, wanted: str = "", ask: Ask = nobody) -> list[str]:
    return [source.name for source in choose_sources(*search(root, ask), wanted)]


def missing(root: Path, name: str) -> Missing:
    return next(each for each in search(root)[1] if each.name == name)


def only(root: Path) -> Source:
    (source,) = choose_sources(*search(root))
    return source


def test_a_servers_packages_and_their_memory_count_once_each(tmp_path: Path) -> None:
    source = only(server(tmp_path))
    assert source.covers.startswith("the processor (package-0 + package-1 + dram + dram)")
    for zone in sorted((tmp_path / "sys/class/powercap").iterdir()):
        (zone / "energy_uj").write_text("2000000\n")  # one joule more in each, were it all counted 7
    source._clock.sleep(1)  # type: ignore[attr-defined]
    assert source.read().joules == 4.0


def test_the_whole_platforms_counter_is_apart_from_the_packages(tmp_path: Path) -> None:
    rapl_zone(tmp_path, "intel-rapl:0", "package-0")
    rapl_zone(tmp_path, "intel-rapl:1", "psys")
    assert only(tmp_path).covers.startswith("the processor (package-0);")
    assert chosen(tmp_path, "psys") == ["psys"]


def test_a_counter_for_root_alone_comes_with_the_command_that_opens_it(tmp_path: Path) -> None:
    zone = rapl_zone(tmp_path, "intel-rapl:0", "package-0")
    (zone / "energy_uj").unlink()
    (zone / "energy_uj").mkdir()  # root reads whatever is a file, and tests may run as root
    with pytest.raises(BenchError, match="package-0 cannot be read") as caught:
        chosen(tmp_path)
    assert caught.value.advice == f"{READABLE}; or {WALL}"
    assert READABLE.startswith("sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj ")


def test_a_virtual_machine_is_told_to_measure_on_its_host(tmp_path: Path) -> None:
    put(tmp_path, {"proc/cpuinfo": "vendor_id\t: GenuineIntel\nflags\t\t: fpu hypervisor avx2"})
    with pytest.raises(BenchError, match=r"virtual machine.*measure on the host"):
        chosen(tmp_path)


def test_an_intel_without_counters_is_told_which_module_shows_them(tmp_path: Path) -> None:
    put(tmp_path, {"proc/cpuinfo": "vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2"})
    assert "modprobe intel_rapl_msr" in missing(tmp_path, "rapl").advice


def test_where_nothing_measures_everything_tried_is_named_and_a_meter_advised(tmp_path: Path) -> None:
    with pytest.raises(BenchError) as caught:
        chosen(tmp_path)
    assert all(name in caught.value.found for name in ("rails", "battery", "rapl", "nvml"))
    assert caught.value.advice == WALL
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("board", "watts"), [("orin-nano", 5.64), ("orin-nx", 5.64)])
def test_a_nano_and_an_nx_have_one_rail_that_feeds_the_others(board: str, watts: float) -> None:
    source = only(MACHINES / board)
    assert source.read().watts == watts
    assert "neither the carrier board nor the power supply" in source.covers


def test_an_agxs_three_rails_are_summed_and_no_channel_7_nor_what_they_feed() -> None:
    source = only(MACHINES / "orin-agx")
    assert source.read().watts == pytest.approx((19096 * 208 + 19096 * 64 + 5040 * 640) / 1e6)


def test_a_board_with_two_of_the_three_rails_is_not_measured(tmp_path: Path) -> None:
    for number, label in ((1, "VDD_GPU_SOC"), (2, "VDD_CPU_CV"), (3, "NC")):
        put(
            tmp_path,
            {
                f"{RAIL}/in{number}_label": label,
                f"{RAIL}/in{number}_input": "5000",
                f"{RAIL}/curr{number}_input": "100",
            },
        )
    assert missing(tmp_path, "rails").found.startswith("rails VDD_GPU_SOC, VDD_CPU_CV, without VIN_SYS_5V0")


def test_another_chips_voltages_are_no_rails(tmp_path: Path) -> None:
    files = {"name": "pmbus", "in1_label": "VDD_IN", "in1_input": "12000", "curr1_input": "1000"}
    put(tmp_path, {f"{RAIL}/{name}": text for name, text in files.items()})
    assert missing(tmp_path, "rails").found == "no INA3221 power monitor"


def test_the_kernels_two_names_of_a_monitor_are_one(tmp_path: Path) -> None:
    put(tmp_path, {f"{RAIL}/in1_label": "VDD_IN", f"{RAIL}/in1_input": "5000", f"{RAIL}/curr1_input": "1000"})
    driver = tmp_path / "sys/bus/i2c/drivers/ina3221"
    driver.mkdir(parents=True)
    (driver / "1-0040").symlink_to("../../devices/1-0040")
    assert only(tmp_path).read().watts == 5.0


def test_a_laptop_on_its_battery_is_measured_there_and_a_mouses_battery_is_not() -> None:
    source = only(MACHINES / "x86-laptop")
    assert (source.name, source.read().watts) == ("battery", 11.832)


def test_on_mains_the_processors_counters_are_taken_and_the_battery_says_what_to_do(tmp_path: Path) -> None:
    rapl_zone(tmp_path, "intel-rapl:0", "package-0")
    put(
        tmp_path,
        {f"sys/class/power_supply/BAT0/{name}": text for name, text in (("type", "Battery"), ("status", "Full"))},
    )
    assert chosen(tmp_path) == ["rapl"]
    with pytest.raises(BenchError, match="on mains: the battery says Full; pull the plug"):
        chosen(tmp_path, "battery")


def test_processor_and_gpu_are_measured_together(tmp_path: Path) -> None:
    rapl_zone(tmp_path, "intel-rapl:0", "package-0")

    def ask(words: object) -> str | None:
        return "70.0\n" if " ".join(words) == SMI_POWER else None  # type: ignore[arg-type]

    assert chosen(tmp_path, "", ask) == ["rapl", "nvml"]
    assert chosen(tmp_path, "rapl+nvml", ask) == ["rapl", "nvml"]
    assert chosen(tmp_path, "nvml", ask) == ["nvml"]


@pytest.mark.parametrize("wanted", ["sun", "+", "rapl+", "rapl+sun"])
def test_an_unknown_source_is_refused_with_those_there_are(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(UsageError, match=r"give one of rails, battery, rapl, psys, nvml, wall"):
        chosen(tmp_path, wanted)


def test_sources_that_hold_each_other_are_not_added(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="only rapl\\+nvml are of different parts"):
        chosen(tmp_path, "battery+rapl")


def test_a_missing_source_that_was_asked_for_is_named_alone(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"^energy from nvml: not measurable here: no nvidia-smi that answers"):
        chosen(rapl_zone(tmp_path, "intel-rapl:0", "package-0").parents[3], "nvml")


@pytest.mark.parametrize("name", sorted(folder.name for folder in MACHINES.iterdir() if folder.is_dir()))
def test_every_recorded_machine_is_measured_or_says_why_not(name: str) -> None:
    sources, absent = search(MACHINES / name, answers(MACHINES / name))
    assert len(sources) + len(absent) == 5
    assert all(each.found for each in absent)
