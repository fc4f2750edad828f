"""`amalia bench shape` from the outside."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from amalia_bench.cli.door import bench
from amalia_bench.records import read
from amalia_bench.speed import Surroundings
from amalia_convert.plan import OutputPlan
from amalia_edge.errors import DoesNotFit, UsageError

from .shapes import small_shape

QUICK = ("-p", "0", "-n", "128", "-r", "1", "-t", "1", "-c", "512")


@pytest.fixture(autouse=True)
def known_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring a machine's bandwidth takes seconds, and is tested by itself."""
    monkeypatch.setattr("amalia_bench.shape.here", lambda _: Surroundings(bandwidth=lambda threads: 20.0))


def shape(*words: str) -> Result:
    return CliRunner().invoke(bench, ["shape", *words], catch_exceptions=False, standalone_mode=False)


def result_of(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shape(*words, "--json").stdout)["result"]
    return found


def test_a_shape_is_measured_and_a_machine_predicted_from_it(tmp_path: Path) -> None:
    keep = tmp_path / "run.jsonl"
    words = (small_shape(tmp_path), *QUICK, "--folder", str(tmp_path / "s"), "--device", "jetson-orin-nano")
    told = result_of(*words, "--records", str(keep))
    (row,), (body,) = told["rows"], told["predictions"]
    assert (row["test"], row["level"], body["device"]) == ("tg128", "Q4_K_M", "jetson-orin-nano")
    reached = min(1, row["roofline_share"] * row["engine_ts"] / row["avg_ts"])
    assert body["engine_ts"] == pytest.approx(68e9 * reached / row["bytes_per_token"])
    assert [found.get("prediction", False) for found in read(keep)] == [False, True]
    assert list((tmp_path / "s").iterdir()) == []
    assert result_of(*words, "--records", str(keep), "--resume")["rows"] == [row]
    assert len(read(keep)) == 2


def test_resume_without_a_file_says_which_option_it_needs() -> None:
    with pytest.raises(UsageError, match="--records"):
        shape("amalia-9b", "--resume")


def test_with_an_efficiency_given_nothing_is_measured(tmp_path: Path) -> None:
    told = result_of("amalia-9b", "--device", "raspberry-pi-5", "--efficiency", "0.5", "--folder", str(tmp_path))
    assert told["rows"] == []
    assert told["predictions"][0]["efficiency_source"] == "given with --efficiency"


def test_a_prediction_is_called_one(tmp_path: Path) -> None:
    text = shape("amalia-9b", "--device", "kiosk", "--bandwidth", "30", "--efficiency", "0.5").stdout
    assert "PREDICTION, not measured" in text
    assert text.strip().splitlines()[-1].endswith("give --memory GB to learn whether it fits.")
    assert max(map(len, text.splitlines()[:-1])) <= 80


def test_the_plan_alone_lists_levels_and_contexts() -> None:
    told = result_of("amalia-9b", "--plan", "-c", "4096,8192")
    assert told["memory"]["Q4_K_M"]["8192"] > told["memory"]["Q4_K_M"]["4096"] > 5e9
    assert told["rows"] == []
    lines = shape("amalia-9b", "--plan", "-c", "4096,8192").stdout.splitlines()
    assert any(line.startswith("Q4_K_M") and "5.58 GB" in line for line in lines)


def test_a_bandwidth_without_a_machine_is_refused() -> None:
    with pytest.raises(UsageError, match="--device NAME"):
        shape("amalia-9b", "--bandwidth", "30")


def test_one_bandwidth_for_two_machines_is_refused() -> None:
    with pytest.raises(UsageError, match="one --device"):
        shape("amalia-9b", "--device", "a", "--device", "b", "--bandwidth", "30")


@pytest.mark.parametrize(
    ("more", "found"),
    [
        (("-p", "16", "-n", "0"), r"without a test that writes; give one: --efficiency 0\.6, or add -n 128"),
        (("--level", "IQ2_XXS"), "IQ2_XXS: needs importance data"),
    ],
)
def test_what_gives_no_efficiency_is_refused_before_it_is_measured(
    tmp_path: Path, more: tuple[str, ...], found: str
) -> None:
    words = (small_shape(tmp_path), *QUICK, *more, "--folder", str(tmp_path / "s"), "--device", "jetson-orin-nx")
    with pytest.raises(UsageError, match=found):
        shape(*words)
    assert not (tmp_path / "s").exists()


def test_rows_without_an_efficiency_are_shown_before_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amalia_bench.shape.here", lambda _: Surroundings())
    words = (small_shape(tmp_path), *QUICK, "--folder", str(tmp_path / "s"), "--device", "jetson-orin-nx")
    told = json.loads(shape(*words, "--json").stdout)
    assert [row["test"] for row in told["result"]["rows"]] == ["tg128"]
    assert told["error"]["found"] == "no efficiency measured here for Q4_K_M"
    said = CliRunner().invoke(bench, ["shape", *words], standalone_mode=False)
    assert isinstance(said.exception, UsageError) and "tg128" in said.stdout


def test_an_alias_is_the_level_it_stands_for(tmp_path: Path) -> None:
    words = (small_shape(tmp_path), *QUICK, "--folder", str(tmp_path / "s"), "--device", "jetson-orin-nx")
    told = result_of(*words, "--level", "q4_k")
    assert [body["level"] for body in told["predictions"]] == ["Q4_K_M"]
    with pytest.raises(UsageError, match="given twice"):
        shape(*words, "--level", "q4_k", "--level", "Q4_K_M")


def test_a_level_too_large_for_the_disk_is_refused_before_another_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(plan: OutputPlan) -> None:
        if "Q8_0" in plan.path.name:
            raise DoesNotFit(plan.path.name, "no room")

    monkeypatch.setattr("amalia_bench.shape.check_disk", full)
    with pytest.raises(DoesNotFit):
        words = (small_shape(tmp_path), *QUICK, "--level", "Q4_0", "--level", "Q8_0", "--folder", str(tmp_path / "s"))
        shape(*words, "--records", str(tmp_path / "run.jsonl"))
    assert not (tmp_path / "run.jsonl").exists()


def test_a_prediction_is_kept_once_and_another_beside_it(tmp_path: Path) -> None:
    keep = tmp_path / "run.jsonl"
    for efficiency in ("0.5", "0.5", "0.6"):
        words = ("--device", "raspberry-pi-5", "--efficiency", efficiency, "--records", str(keep), "--resume")
        assert len(result_of("amalia-9b", *words)["predictions"]) == 1
    assert [row["efficiency"] for row in read(keep)] == [0.5, 0.6]


def test_the_plan_alone_of_another_machine_predicts_nothing() -> None:
    told = shape("amalia-9b", "--plan", "--device", "jetson-orin-nano").stdout
    assert "Memory on" in told and "PREDICTION" not in told
