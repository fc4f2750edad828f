"""What the kernel tells of heat and of slowing down, on recorded machines and on sensors that tell nonsense."""

from pathlib import Path

import pytest

from amalia_bench.thermal import Thermometer
from bench.power_machine import put

MACHINES = Path(__file__).parents[1] / "machines"
THROTTLE = "sys/devices/system/cpu/cpu{}/thermal_throttle/{}_throttle_count"
RAIL = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"


def zone(number: int, kind: str, temperature: str) -> dict[str, str]:
    folder = f"sys/class/thermal/thermal_zone{number}"
    return {f"{folder}/type": kind, f"{folder}/temp": temperature}


def test_a_jetsons_hottest_zone_is_its_temperature() -> None:
    assert Thermometer(MACHINES / "orin-nano").read() == 48.25


def test_the_hottest_of_the_processors_zones_counts_and_no_radios(tmp_path: Path) -> None:
    put(
        tmp_path, zone(0, "x86_pkg_temp", "61000") | zone(1, "iwlwifi_1", "90000") | zone(2, "INT3400 Thermal", "20000")
    )
    assert Thermometer(tmp_path).read() == 61.0


def test_the_boards_zone_speaks_where_the_processor_has_none(tmp_path: Path) -> None:
    assert Thermometer(put(tmp_path, zone(0, "acpitz", "52000"))).read() == 52.0


def test_the_boards_zone_is_silent_where_the_processor_has_one(tmp_path: Path) -> None:
    assert Thermometer(put(tmp_path, zone(0, "acpitz", "99000") | zone(1, "cpu-thermal", "52000"))).read() == 52.0


def test_a_chip_below_hwmon_is_read(tmp_path: Path) -> None:
    chip, disk = "sys/class/hwmon/hwmon3", "sys/class/hwmon/hwmon0"
    put(tmp_path, {f"{chip}/name": "coretemp", f"{chip}/temp1_input": "45000", f"{chip}/temp2_input": "47500"})
    put(tmp_path, {f"{disk}/name": "nvme", f"{disk}/temp1_input": "80000"})
    assert Thermometer(tmp_path).read() == 47.5


def test_tctl_which_is_raised_for_the_fan_gives_way_to_tdie(tmp_path: Path) -> None:
    chip = "sys/class/hwmon/hwmon0"
    put(tmp_path, {f"{chip}/name": "k10temp", f"{chip}/temp1_label": "Tctl", f"{chip}/temp1_input": "77000"})
    assert Thermometer(tmp_path).read() == 77.0
    put(tmp_path, {f"{chip}/temp2_label": "Tdie", f"{chip}/temp2_input": "50000"})
    assert Thermometer(tmp_path).read() == 50.0


@pytest.mark.parametrize("nonsense", ["", "-256000", "4294967295", "hot", "48.5", "\x1b[2J", "9" * 5000])
def test_an_absurd_sensor_is_passed_over(tmp_path: Path, nonsense: str) -> None:
    put(tmp_path, zone(0, "cpu-thermal", nonsense))
    thermometer = Thermometer(tmp_path)
    assert thermometer.read() is None
    put(tmp_path, zone(1, "soc-thermal", "41000"))
    assert Thermometer(tmp_path).read() == 41.0


def test_a_sensor_that_cannot_be_read_or_goes_away_is_none(tmp_path: Path) -> None:
    put(tmp_path, zone(0, "cpu-thermal", "41000"))
    thermometer = Thermometer(tmp_path)
    place = tmp_path / "sys/class/thermal/thermal_zone0/temp"
    place.unlink()
    assert thermometer.read() is None
    place.mkdir()
    assert thermometer.read() is None


def test_a_sensor_that_slept_at_first_is_heard_later(tmp_path: Path) -> None:
    put(tmp_path, zone(0, "cpu-thermal", ""))
    thermometer = Thermometer(tmp_path)
    put(tmp_path, zone(0, "cpu-thermal", "43000"))
    assert thermometer.read() == 43.0


def test_a_machine_without_sensors_has_neither_temperature_nor_alarms(tmp_path: Path) -> None:
    thermometer = Thermometer(tmp_path)
    assert (thermometer.read(), thermometer.throttles()) == (None, ())


def test_only_what_rose_since_the_last_call_is_told(tmp_path: Path) -> None:
    put(tmp_path, {THROTTLE.format(0, "core"): "7", THROTTLE.format(1, "core"): "0"})
    thermometer = Thermometer(tmp_path)
    assert thermometer.throttles() == ()
    put(tmp_path, {THROTTLE.format(0, "core"): "9", THROTTLE.format(1, "core"): "1"})
    assert thermometer.throttles() == ("core throttled 3×",)
    assert thermometer.throttles() == ()


def test_a_package_that_every_processor_shows_is_counted_once(tmp_path: Path) -> None:
    put(tmp_path, {THROTTLE.format(cpu, "package"): "0" for cpu in range(4)})
    thermometer = Thermometer(tmp_path)
    put(tmp_path, {THROTTLE.format(cpu, "package"): "2" for cpu in range(4)})
    assert thermometer.throttles() == ("package throttled 2×",)


def test_a_counter_that_starts_anew_or_turns_to_nonsense_is_no_throttling(tmp_path: Path) -> None:
    put(tmp_path, {THROTTLE.format(0, "core"): "7"})
    thermometer = Thermometer(tmp_path)
    for text in ("0", "many", ""):
        put(tmp_path, {THROTTLE.format(0, "core"): text})
        assert thermometer.throttles() == ()


def test_a_jetsons_alarms_and_over_current_events_are_named(tmp_path: Path) -> None:
    put(tmp_path, {f"{RAIL}/in1_label": "VDD_IN", f"{RAIL}/curr1_max_alarm": "0", f"{RAIL}/curr2_max_alarm": "0"})
    put(tmp_path, {"sys/class/hwmon/hwmon2/oc3_event_cnt": "4"})
    thermometer = Thermometer(tmp_path)
    put(tmp_path, {f"{RAIL}/curr1_max_alarm": "1", "sys/class/hwmon/hwmon2/oc3_event_cnt": "5"})
    assert thermometer.throttles() == ("oc3 throttled 1×", "alarm VDD_IN curr1_max")


def test_a_memory_modules_alarm_is_not_the_processors(tmp_path: Path) -> None:
    put(tmp_path, {"sys/bus/i2c/devices/0-0018/hwmon/hwmon5/temp1_crit_alarm": "1"})
    assert Thermometer(tmp_path).throttles() == ()


def test_a_processor_that_is_slowed_is_told_and_a_fan_that_turns_is_not(tmp_path: Path) -> None:
    cooling = "sys/class/thermal/cooling_device"
    put(tmp_path, {f"{cooling}0/type": "cpufreq-cpu0", f"{cooling}0/cur_state": "2"})
    put(tmp_path, {f"{cooling}1/type": "pwm-fan", f"{cooling}1/cur_state": "3"})
    put(tmp_path, {f"{cooling}2/type": "devfreq-gpu", f"{cooling}2/cur_state": "-1"})
    assert Thermometer(tmp_path).throttles() == ("slowed by cpufreq-cpu0, step 2",)


def test_a_device_under_two_names_is_heard_once(tmp_path: Path) -> None:
    put(tmp_path, {"sys/devices/virtual/thermal/cooling_device0/type": "Processor"})
    put(tmp_path, {"sys/devices/virtual/thermal/cooling_device0/cur_state": "1"})
    (tmp_path / "sys/class/thermal").mkdir(parents=True)
    (tmp_path / "sys/class/thermal/cooling_device0").symlink_to("../../devices/virtual/thermal/cooling_device0")
    assert len(list(Thermometer(tmp_path)._cooling)) == 1
    assert Thermometer(tmp_path).throttles() == ("slowed by Processor, step 1",)


def test_a_label_cannot_steer_a_terminal(tmp_path: Path) -> None:
    cooling = "sys/class/thermal/cooling_device0"
    put(tmp_path, {f"{cooling}/type": "throttle\x1b[2J", f"{cooling}/cur_state": "1"})
    assert Thermometer(tmp_path).throttles() == ("slowed by throttle[2J, step 1",)
