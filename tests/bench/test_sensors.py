"""Meters: what each tells, and that nonsense is never taken for power."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amalia_bench.sensors import HOT, SMI_ALL, SMI_POWER, Battery, Nvidia, Rails, Rapl
from bench.power_machine import FakeClock, put, rapl_zone

NONSENSE = ["", "-1", "watts", "1.5e3", "nan", "0x10", "\x1b[2J", "9" * 400]
RAIL = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"


def rapl(folder: Path, clock: FakeClock) -> Rapl:
    return Rapl("rapl", "all", [folder], clock)


def set_energy(folder: Path, energy: int | str) -> None:
    (folder / "energy_uj").write_text(f"{energy}\n")


def battery(root: Path, number: int = 0, status: str = "Discharging", **files: int) -> Path:
    folder = f"sys/class/power_supply/BAT{number}"
    put(root, {f"{folder}/status": status} | {f"{folder}/{name}": str(value) for name, value in files.items()})
    return root / folder


def test_a_counters_joules_begin_at_the_first_reading(tmp_path: Path) -> None:
    clock, folder = FakeClock(), rapl_zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    source = rapl(folder, clock)
    clock.sleep(1)
    set_energy(folder, 17_500_000)
    assert source.read().joules == 12.5


def test_a_counter_that_is_full_goes_on_from_zero(tmp_path: Path) -> None:
    clock, folder = FakeClock(), rapl_zone(tmp_path, "intel-rapl:0", "package-0", 99_000_000, range_uj=100_000_000)
    source = rapl(folder, clock)
    clock.sleep(1)
    set_energy(folder, 4_000_000)
    reading = source.read()
    assert (reading.joules, reading.alarms) == (5.0, ())


def test_a_counter_that_was_reset_gives_no_energy_of_its_range(tmp_path: Path) -> None:
    clock, folder = FakeClock(), rapl_zone(tmp_path, "intel-rapl:0", "package-0", 50_000_000_000)
    source = rapl(folder, clock)
    clock.sleep(1)
    set_energy(folder, 50_020_000_000)  # 20 W
    assert source.read().joules == 20.0
    clock.sleep(1)
    set_energy(folder, 3_000_000)
    reading = source.read()
    assert reading.joules == pytest.approx(40.0)  # as in the second before
    assert reading.alarms == ("the counter of package-0 began anew",)


def test_a_counter_that_jumps_gives_no_energy_no_machine_could_take(tmp_path: Path) -> None:
    clock, folder = FakeClock(), rapl_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    source = rapl(folder, clock)
    clock.sleep(1)
    set_energy(folder, 200_000_000_000)
    assert source.read().joules == 0.0


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_counter_of_nonsense_is_no_figure_and_is_named(tmp_path: Path, nonsense: str) -> None:
    folder = rapl_zone(tmp_path, "intel-rapl:0", "package-0")
    source = rapl(folder, FakeClock())
    set_energy(folder, nonsense)
    reading = source.read()
    assert (reading.joules, reading.watts) == (None, None)
    assert "package-0" in reading.why


def test_a_rails_power_is_its_voltage_times_its_current(tmp_path: Path) -> None:
    put(tmp_path, {f"{RAIL}/in1_input": "5000", f"{RAIL}/curr1_input": "1128"})
    put(tmp_path, {f"{RAIL}/in2_input": "19096", f"{RAIL}/curr2_input": "64"})
    source = Rails([(tmp_path / RAIL, 1), (tmp_path / RAIL, 2)], "both")
    assert source.read().watts == pytest.approx(5.64 + 1.222144)


@pytest.mark.parametrize("nonsense", [*NONSENSE, "99999999999"])
def test_a_rail_of_nonsense_is_no_figure(tmp_path: Path, nonsense: str) -> None:
    put(tmp_path, {f"{RAIL}/in1_label": "VDD_IN", f"{RAIL}/in1_input": "5000", f"{RAIL}/curr1_input": nonsense})
    reading = Rails([(tmp_path / RAIL, 1)], "all").read()
    assert reading.watts is None
    assert reading.why


def test_a_batterys_power_is_as_its_gauge_says(tmp_path: Path) -> None:
    assert Battery([battery(tmp_path, power_now=11_832_000)]).read().watts == 11.832


def test_a_gauge_that_puts_a_minus_before_what_leaves_is_understood(tmp_path: Path) -> None:
    assert Battery([battery(tmp_path, power_now=-11_832_000)]).read().watts == 11.832


def test_a_gauge_without_power_has_current_and_voltage(tmp_path: Path) -> None:
    assert Battery([battery(tmp_path, current_now=-800_000, voltage_now=15_000_000)]).read().watts == 12.0


def test_a_gauge_with_energy_alone_is_read_by_difference(tmp_path: Path) -> None:
    source = Battery([battery(tmp_path, energy_now=41_230_000)])
    battery(tmp_path, energy_now=41_220_000)
    assert source.read().joules == 36.0  # 10 mWh


def test_only_the_battery_that_is_emptied_counts(tmp_path: Path) -> None:
    both = [battery(tmp_path, 0, power_now=9_000_000), battery(tmp_path, 1, "Not charging", power_now=1)]
    assert Battery(both).read().watts == 9.0


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown", ""])
def test_on_mains_a_battery_tells_nothing_and_says_so(tmp_path: Path, status: str) -> None:
    reading = Battery([battery(tmp_path, 0, status, power_now=9_000_000)]).read()
    assert reading.watts is None
    assert "on mains" in reading.why


def test_an_empty_or_absurd_gauge_is_no_figure(tmp_path: Path) -> None:
    for watts in (0, 10**17):
        assert Battery([battery(tmp_path, power_now=watts)]).read().watts is None


def test_a_driver_tells_every_gpus_power_and_the_hottest() -> None:
    rows = "350.10, 61, Not Active, Not Active, Not Active\n 49.90, 70, Not Active, Active, Not Active\n"
    reading = Nvidia(lambda words: rows if " ".join(words) == SMI_ALL else None).read()
    assert (reading.watts, reading.celsius) == (400.0, 70.0)
    assert reading.alarms == ("GPU slowed: sw thermal slowdown",)
    assert HOT[1] == "sw_thermal_slowdown"


def test_a_driver_that_knows_fewer_fields_is_asked_for_power_alone() -> None:
    reading = Nvidia(lambda words: "72.5\n" if " ".join(words) == SMI_POWER else None).read()
    assert (reading.watts, reading.celsius, reading.alarms) == (72.5, None, ())


@pytest.mark.parametrize(
    "answer", [None, "", "[N/A]\n", "[Not Supported], 50\n", "100.0\n[N/A]\n", "-5.0\n", "no\x1b[2J\n"]
)
def test_a_driver_that_tells_no_power_is_no_figure(answer: str | None) -> None:
    reading = Nvidia(lambda words: answer).read()
    assert reading.watts is None
    assert reading.why


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=40))
def test_no_bytes_in_a_sensor_are_an_error(tmp_path: Path, content: bytes) -> None:
    put(tmp_path, {f"{RAIL}/in1_input": "5000", f"{RAIL}/curr1_input": "5"})
    folder = battery(tmp_path, power_now=1)
    (folder / "power_now").write_bytes(content)
    (tmp_path / RAIL / "curr1_input").write_bytes(content)
    zone = tmp_path / "zone"
    put(zone, {"name": "package-0"})
    (zone / "energy_uj").write_bytes(content)
    for source in (Battery([folder]), Rails([(tmp_path / RAIL, 1)], ""), rapl(zone, FakeClock())):
        reading = source.read()
        assert (reading.joules or 0) >= 0
        assert (reading.watts or 0) >= 0
