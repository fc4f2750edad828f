"""Machines that are not at hand."""

import pytest

from amalia_bench.target import find_target, target_names
from amalia_edge.errors import UsageError


@pytest.mark.parametrize("name", target_names())
def test_every_machine_in_the_table_has_a_bandwidth_a_source_and_less_memory_free_than_it_has(name: str) -> None:
    found = find_target(name)
    assert found.gbps > 1
    assert found.title
    assert found.source
    assert 0 < found.free < found.memory
    assert found.host is not None
    assert found.host.budget < found.free * 1e9


def test_a_jetsons_gpu_shares_its_memory() -> None:
    host = find_target("jetson-orin-nano").host
    assert host is not None
    assert (host.shared, host.jetson, len(host.gpus)) == (True, True, 1)


def test_what_is_given_counts_instead() -> None:
    found = find_target("jetson-orin-nano", gbps=102, memory=16)
    assert (found.gbps, found.memory, found.source) == (102, 16, "given with --bandwidth")
    assert found.free == pytest.approx(16 * 7 / 8)


def test_a_machine_nobody_knows_is_made_of_what_is_given() -> None:
    found = find_target("kiosk", gbps=30)
    assert (found.name, found.gbps, found.host) == ("kiosk", 30, None)


def test_a_machine_nobody_knows_needs_a_bandwidth() -> None:
    with pytest.raises(UsageError, match=r"--bandwidth GB/s, or one of .*jetson-orin-nano"):
        find_target("kiosk")


@pytest.mark.parametrize("gbps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bandwidth_that_is_none_is_refused(gbps: float) -> None:
    with pytest.raises(UsageError, match="--bandwidth"):
        find_target("kiosk", gbps=gbps)
