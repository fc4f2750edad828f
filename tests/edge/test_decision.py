"""Every branch of the decision, taken from recorded machines: which compiler, which backend, which flags, and what to install."""

from dataclasses import replace
from pathlib import Path

import pytest

from amalia_edge import decision
from amalia_edge.decision import Build, Wish, decide
from amalia_edge.errors import LibraryMissing, UsageError
from amalia_edge.machine import Compiler, Machine, look

MACHINES = Path(__file__).parent.parent / "machines"
EVERY = sorted(file.parent.name for file in MACHINES.glob("*/machine.json"))
ON_LINUX = [name for name in EVERY if name != "mac-m2"]


def on(name: str) -> Machine:
    return look(MACHINES / name)


def build(name: str, **wish: object) -> Build:
    return decide(on(name), Wish(**wish), ask=lambda argv: None)  # type: ignore[arg-type]


def said(build: Build) -> str:
    return " ".join([*build.reasons, *build.hints])


@pytest.mark.parametrize("name", EVERY)
def test_floating_point_contraction_is_off_everywhere_and_rpc_is_left_out(name: str) -> None:
    chosen = build(name)
    assert "-ffp-contract=off" in chosen.flags and ("GGML_RPC", "OFF") in chosen.defines


@pytest.mark.parametrize("name", EVERY)
def test_a_decision_says_why(name: str) -> None:
    assert all(reason.endswith(".") for reason in build(name).reasons) and len(build(name).reasons) >= 4


def test_a_cpu_on_linux_is_built_for_with_the_compiler_from_the_index() -> None:
    laptop = build("x86-laptop")
    assert (laptop.compiler.kind, laptop.backend, dict(laptop.defines)["GGML_NATIVE"]) == ("zig", "cpu", "ON")


def test_zig_is_given_a_target_because_without_one_it_builds_for_the_cpu_it_runs_on() -> None:
    assert build("x86-laptop").target == "x86_64-linux-gnu.2.28"
    assert build("x86-laptop", safe=True).target == "x86_64-linux-gnu.2.28"


def test_a_system_older_than_the_oldest_target_gets_its_own() -> None:
    assert decide(replace(on("x86-laptop"), libc="glibc 2.17")).target == "x86_64-linux-gnu.2.17"


def test_a_system_with_musl_gets_musl() -> None:
    assert decide(replace(on("x86-laptop"), libc="musl")).target == "x86_64-linux-musl"


def test_amx_is_kept_with_zig() -> None:
    assert not any("amx" in flag for flag in build("amx-server-gcc12").flags)


def test_amx_is_left_out_with_a_gcc_that_breaks_it_and_the_person_is_told() -> None:
    chosen = build("amx-server-gcc12", compiler="gcc")
    assert {"-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16"} <= set(chosen.flags)
    assert "AMX is left out: gcc 12.2.0" in said(chosen)


@pytest.mark.parametrize(
    ("version", "sound"),
    [
        ("11.5.0", False),
        ("12.3.0", False),
        ("12.4.0", True),
        ("13.0.1", False),
        ("13.2.0", False),
        ("13.3.0", True),
        ("14.1.0", True),
    ],
)
def test_gcc_is_sound_with_amx_from_12_4_and_13_3_on(version: str, sound: bool) -> None:
    server = replace(on("amx-server-gcc12"), compilers=(Compiler("gcc", version, "gcc"),))
    assert ("-mno-amx-tile" not in decide(server, Wish(compiler="gcc")).flags) == sound


def test_a_gpu_with_nvcc_gets_cuda_for_its_own_architecture_and_a_system_compiler() -> None:
    desktop = build("desktop-gpu")
    assert (desktop.backend, desktop.compiler.kind) == ("cuda", "gcc")
    assert dict(desktop.defines)["CMAKE_CUDA_ARCHITECTURES"] == "89"
    assert desktop.env == (("CUDACXX", "nvcc"),)


def test_a_gpu_without_nvcc_gets_the_cpu_and_one_line_that_says_what_to_install() -> None:
    desktop = build("desktop-gpu-no-nvcc")
    assert (desktop.backend, len(desktop.hints)) == ("cpu", 1)
    assert "RTX 4090" in desktop.hints[0] and "install the CUDA toolkit" in desktop.hints[0]


def test_nvcc_without_a_gpu_gets_the_cpu_and_one_line() -> None:
    desktop = decide(replace(on("desktop-gpu"), gpus=()))
    assert (desktop.backend, len(desktop.hints)) == ("cpu", 1) and "no NVIDIA GPU answers" in desktop.hints[0]


def test_a_gpu_without_a_system_compiler_says_so() -> None:
    desktop = decide(replace(on("desktop-gpu"), compilers=()))
    assert desktop.backend == "cpu" and "install g++" in desktop.hints[0]


def test_an_nvcc_too_old_for_the_gpu_is_not_tried() -> None:
    desktop = decide(replace(on("desktop-gpu"), nvcc=Compiler("nvcc", "11.5", "nvcc")))
    assert desktop.backend == "cpu" and "install CUDA 11.8 or later" in desktop.hints[0]


def test_two_kinds_of_gpu_are_both_compiled_for() -> None:
    desktop = on("desktop-gpu")
    both = replace(desktop, gpus=(*desktop.gpus, replace(desktop.gpus[0], name="RTX 3090", capability="8.6")))
    assert dict(decide(both).defines)["CMAKE_CUDA_ARCHITECTURES"] == "86;89"


@pytest.mark.parametrize("wish", [{"gpu": False}, {"compiler": "zig"}, {"portable": True}])
def test_a_gpu_is_left_out_when_the_wish_excludes_it_and_the_reason_is_given(wish: dict[str, object]) -> None:
    assert build("desktop-gpu", **wish).backend == "cpu" and "is left out" in said(build("desktop-gpu", **wish))


@pytest.mark.parametrize(
    ("name", "jetpack"), [("orin-nano", "JetPack 6"), ("orin-nx", "JetPack 6"), ("orin-agx", "JetPack 7")]
)
def test_a_jetson_orin_gets_cuda_87_without_virtual_memory(name: str, jetpack: str) -> None:
    board = build(name)
    assert board.backend == "cuda" and board.env == (("CUDACXX", "/usr/local/cuda/bin/nvcc"),)
    assert {("CMAKE_CUDA_ARCHITECTURES", "87"), ("GGML_CUDA_NO_VMM", "ON")} <= set(board.defines)
    assert jetpack in said(board)


def test_a_jetson_without_its_toolkit_is_told_to_install_jetpack() -> None:
    board = decide(replace(on("orin-nano"), nvcc=None))
    assert board.backend == "cpu" and "nvidia-jetpack" in board.hints[0]


def test_a_jetson_of_another_generation_gets_the_cpu() -> None:
    board = on("orin-nano")
    assert board.jetson is not None
    assert decide(replace(board, jetson=replace(board.jetson, soc="tegra194"))).backend == "cpu"


def test_l4t_38_is_refused_on_orin() -> None:
    board = on("orin-nano")
    assert board.jetson is not None
    with pytest.raises(LibraryMissing, match="does not support Orin; install JetPack 6"):
        decide(replace(board, jetson=replace(board.jetson, l4t="38.2.0")))


def test_a_mac_gets_metal_from_apple_s_clang() -> None:
    mac = build("mac-m2")
    assert (mac.compiler.kind, mac.backend, dict(mac.defines)["GGML_METAL"]) == ("apple-clang", "metal", "ON")


def test_a_mac_without_a_compiler_is_told_the_one_command() -> None:
    with pytest.raises(LibraryMissing, match="xcode-select --install"):
        decide(replace(on("mac-m2"), compilers=()))


def test_a_python_under_rosetta_is_refused() -> None:
    with pytest.raises(LibraryMissing, match="Rosetta"):
        decide(replace(on("mac-m2"), arch="x86_64"))


@pytest.mark.parametrize(
    ("system", "arch", "advice"),
    [("Windows", "x86_64", "WSL2"), ("FreeBSD", "x86_64", "Linux"), ("Linux", "armv7l", "64-bit")],
)
def test_what_cannot_be_built_for_is_said_plainly(system: str, arch: str, advice: str) -> None:
    with pytest.raises(LibraryMissing, match=advice) as refused:
        decide(replace(on("x86-laptop"), system=system, arch=arch))
    assert refused.value.exit_code == 5


def test_the_cpu_of_a_jetson_is_named_to_zig_by_what_it_says_it_has() -> None:
    board = build("orin-nano", gpu=False)
    assert dict(board.defines)["GGML_CPU_ARM_ARCH"] == "armv8.2-a+dotprod+fp16"
    assert dict(board.defines)["GGML_NATIVE"] == "OFF"


@pytest.mark.parametrize("name", ON_LINUX)
def test_a_portable_build_names_an_old_glibc_and_brings_every_cpu_variant(name: str) -> None:
    chosen = build(name, portable=True)
    assert chosen.target.endswith("-linux-gnu.2.28") and chosen.platform.startswith("manylinux_2_28_")
    assert {("GGML_NATIVE", "OFF"), ("GGML_BACKEND_DL", "ON"), ("GGML_CPU_ALL_VARIANTS", "ON")} <= set(chosen.defines)


def test_a_portable_wheel_is_the_same_for_every_machine_of_an_architecture() -> None:
    assert build("x86-laptop", portable=True).key == build("amx-server-gcc12", portable=True).key


def test_a_portable_build_needs_zig() -> None:
    with pytest.raises(UsageError, match="old glibc"):
        build("amx-server-gcc12", portable=True, compiler="gcc")


def test_safe_flags_use_nothing_beyond_avx2_and_nothing_the_cpu_lacks() -> None:
    safe = dict(build("amx-server-gcc12", safe=True).defines)
    assert (safe["GGML_NATIVE"], safe["GGML_AVX2"]) == ("OFF", "ON") and not any("512" in name for name in safe)
    old = replace(on("x86-laptop"), features=("avx", "sse4_2"))
    assert dict(decide(old, Wish(safe=True)).defines)["GGML_AVX2"] == "OFF"


def test_safe_flags_on_arm_are_plain_armv8() -> None:
    assert dict(build("orin-nx", safe=True, gpu=False).defines)["GGML_CPU_ARM_ARCH"] == "armv8-a"


def test_memory_limits_the_jobs_where_it_is_shorter_than_the_cpus() -> None:
    nano = build("orin-nano")
    assert nano.jobs == 2 and "memory" in nano.reasons[-1]  # 5.5 GB free, 2.5 GB for each nvcc, 6 CPUs
    assert build("amx-server-gcc12").jobs == 4
    assert decide(replace(on("orin-nano"), available=1)).jobs == 1


def test_jobs_can_be_asked_for() -> None:
    assert build("orin-nano", jobs=5).jobs == 5


def test_a_compiler_can_be_named_by_its_path() -> None:
    chosen = decide(on("x86-laptop"), Wish(compiler="/opt/gcc-14"), ask=lambda argv: "gcc (GCC) 14.2.0")
    assert chosen.compiler == Compiler("gcc", "14.2.0", "/opt/gcc-14")


def test_a_compiler_that_does_not_answer_is_refused() -> None:
    with pytest.raises(UsageError, match="--compiler: icc is not a compiler that answers here"):
        build("x86-laptop", compiler="icc")


def test_the_key_changes_with_everything_the_result_depends_on() -> None:
    laptop = on("x86-laptop")
    others = [
        decide(laptop, Wish(safe=True)),
        decide(laptop, Wish(portable=True)),
        decide(replace(laptop, features=("avx",))),
        decide(replace(laptop, cpu="another")),
        build("amx-server-gcc12", compiler="gcc"),
        build("desktop-gpu"),
        decide(replace(on("desktop-gpu"), nvcc=Compiler("nvcc", "12.8", "nvcc"))),
    ]
    assert len({decide(laptop).key, *(other.key for other in others)}) == 8


def test_the_key_changes_with_our_quantizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build("x86-laptop").key
    monkeypatch.setattr(decision, "QUANTS", tmp_path / "quants.c")
    decision.QUANTS.write_text("another")
    assert build("x86-laptop").key != before


def test_the_key_does_not_change_with_what_the_result_does_not_depend_on() -> None:
    laptop = on("x86-laptop")
    assert (
        decide(replace(laptop, available=10**9, threads=1, distribution="Arch Linux", libc="glibc 2.41")).key
        == decide(laptop).key
    )
