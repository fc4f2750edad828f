"""What a plan may count on is read quickly, and a recorded machine gives what libllama would find there."""

from collections.abc import Sequence
from pathlib import Path

from amalia_edge import machine, native
from amalia_edge.host import Host, _used, recorded_host, this_host
from amalia_edge.native import BackendDevice

MACHINES = Path(__file__).parents[1] / "machines"


def recorded(name: str) -> Host:
    return recorded_host(machine.look(MACHINES / name), name)


def device(name: str, kind: str) -> BackendDevice:
    return BackendDevice(name, "", kind, 1 << 30, 1 << 30)


def test_this_machine_has_memory_cores_and_the_library_s_kernels() -> None:
    host = this_host()
    assert 0 < host.budget < host.free <= host.total
    assert host.cores >= 1 and host.features == native.features()


def test_a_glance_asks_nothing_that_takes_long() -> None:
    asked: list[str] = []

    def ask(argv: Sequence[str]) -> str | None:
        asked.append(argv[0])
        return None

    machine.glance(MACHINES / "orin-nano", ask)
    assert set(asked) <= {"uname", "nproc", "sysctl", "vm_stat"}


def test_the_reserve_is_a_share_of_the_memory_within_bounds() -> None:
    reserves = [Host(total=total << 30, free=0, cores=1).reserve >> 20 for total in (1, 8, 256)]
    assert reserves == [256, 655, 2048]


def test_a_system_that_does_not_tell_its_memory_refuses_nothing() -> None:
    assert Host(total=0, free=0, cores=1).budget > 1 << 60


def test_a_jetson_has_one_pool_and_a_gpu_that_shares_it() -> None:
    host = recorded("orin-nano")
    assert host.shared and not host.headless and host.gpus[0].kind == "integrated-gpu"
    assert host.gpus[0].memory_total == host.total


def test_a_desktop_s_gpu_has_memory_of_its_own_and_counts_only_where_a_build_can_use_it() -> None:
    with_compiler, without = recorded("desktop-gpu"), recorded("desktop-gpu-no-nvcc")
    assert not with_compiler.shared and with_compiler.gpus[0].memory_total == 24564 << 20
    assert without.gpus == ()


def test_a_mac_maps_its_gpu_s_weights_and_counts_its_fast_cores() -> None:
    host = recorded("mac-m2")
    assert host.shared and host.maps_gpu and host.cores == 4


def test_the_cpu_s_weights_are_not_copied_beside_a_gpu_that_shares_its_buffers() -> None:
    assert Host(1, 1, 1).copies and not recorded("orin-nx").copies


def test_libllama_s_choice_of_gpus_is_known() -> None:
    own, shared, cpu = device("CUDA0", "gpu"), device("Vulkan0", "integrated-gpu"), device("CPU", "cpu")
    assert _used((cpu, shared, own)) == (own,)
    assert _used((cpu, shared, device("Vulkan1", "integrated-gpu"))) == (shared,)


def test_kernels_of_a_recorded_machine_are_named_as_the_library_does() -> None:
    assert {"AVX2", "AVX512", "AMX_INT8", "AVX512_VNNI", "REPACK"} <= set(recorded("amx-server-gcc12").features)
    assert {"NEON", "DOTPROD"} <= set(recorded("orin-nano").features)
