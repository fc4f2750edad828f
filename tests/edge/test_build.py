"""Building without a compiler: the order of tries, the wheel's contents, the words of a failure, the command line."""

import base64
import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from amalia_edge import build as builder
from amalia_edge import decision
from amalia_edge.build import (
    Progress,
    assemble,
    build_until_it_runs,
    cxx_of,
    failing_lines,
    library_files,
    main,
    obtain,
    quants_command,
    steps,
    with_wheelhouse,
    without_options,
    zig_wrapper,
)
from amalia_edge.decision import Build, Wish, decide
from amalia_edge.errors import LibraryMissing
from amalia_edge.machine import look
from amalia_edge.selftest import SelfTest

MACHINES = Path(__file__).parent.parent / "machines"
SCRIPT = Path(builder.__file__)
LAPTOP = decide(look(MACHINES / "x86-laptop"))
GOOD = SelfTest(True, "", 1.0, "AVX2")
CRASH = SelfTest(False, "SIGILL", 1.0, "no message")
NO_NUMPY = SelfTest(False, "", 1.0, "No module named numpy")


def tried(results: list[SelfTest], count: int = 3) -> tuple[list[int], Build]:
    """Run the loop over builds told apart by their jobs, and give those that were installed."""
    installed: list[int] = []
    builds = [replace(LAPTOP, jobs=number) for number in range(1, count + 1)]
    answers = iter(results)
    chosen, _ = build_until_it_runs(builds, lambda build: installed.append(build.jobs), lambda: next(answers))
    return installed, chosen


def test_a_build_that_passes_its_self_test_is_the_last() -> None:
    assert tried([GOOD])[0] == [1]


def test_a_build_that_crashes_is_followed_by_the_safe_one_and_the_person_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    installed, chosen = tried([CRASH, GOOD])
    assert installed == [1, 2] and chosen.jobs == 2
    assert "repeated with safe flags: the self-test died of SIGILL" in capsys.readouterr().err


def test_a_build_that_fails_for_another_reason_is_not_repeated() -> None:
    with pytest.raises(LibraryMissing, match="No module named numpy"):
        tried([NO_NUMPY, GOOD])


def test_builds_that_all_crash_end_in_an_error() -> None:
    with pytest.raises(LibraryMissing, match="SIGILL"):
        tried([CRASH, CRASH], count=2)


def test_a_gpu_build_is_followed_by_a_safe_one_and_then_by_the_cpu_alone() -> None:
    desktop = look(MACHINES / "desktop-gpu")
    order = steps(desktop, Wish())
    assert [(step.safe, step.gpu) for step in order] == [(False, True), (True, True), (True, False)]
    assert [decide(desktop, step).backend for step in order] == ["cuda", "cuda", "cpu"]


def test_a_safe_build_is_not_tried_twice() -> None:
    assert len(steps(look(MACHINES / "x86-laptop"), Wish(safe=True))) == 1


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "llama_cpp" / "lib").mkdir(parents=True)
    (folder / "llama_cpp" / "__init__.py").write_text("")
    (folder / "llama_cpp" / "py.typed").write_text("")
    (folder / "llama_cpp" / "lib" / "left-over.so").write_text("from an older build")
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 0.3.36\n")
    (folder / "LICENSE.md").write_text("MIT")
    return folder


def test_a_wheel_s_record_matches_its_bytes(source: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(assemble(source, {"libllama.so": b"code"}, LAPTOP))) as wheel:
        rows = list(csv.reader(io.StringIO(wheel.read("llama_cpp_python-0.3.36.dist-info/RECORD").decode())))
        assert {row[0] for row in rows} == set(wheel.namelist())
        for name, digest, size in rows[:-1]:
            data = wheel.read(name)
            expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert (digest, int(size)) == (f"sha256={expected}", len(data))


def test_a_wheel_holds_our_libraries_and_none_that_lay_about(source: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(assemble(source, {"libllama.so": b"code"}, LAPTOP))) as wheel:
        assert wheel.read("llama_cpp/lib/libllama.so") == b"code"
        assert "llama_cpp/lib/left-over.so" not in wheel.namelist()


def test_a_wheel_says_how_it_was_made(source: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(assemble(source, {}, LAPTOP))) as wheel:
        made = json.loads(wheel.read("llama_cpp/lib/build.json"))
    assert made["key"] == LAPTOP.key and made["format"] == 1 and made["compiler"].startswith("zig ")
    assert "-ffp-contract=off" in made["flags"] and "-DGGML_NATIVE=ON" in made["flags"]


def test_the_same_wheel_is_the_same_bytes(source: Path) -> None:
    assert assemble(source, {"libllama.so": b"code"}, LAPTOP) == assemble(source, {"libllama.so": b"code"}, LAPTOP)


def test_a_library_is_taken_under_the_names_that_are_looked_for_and_a_variant_under_one(tmp_path: Path) -> None:
    for name in ("libllama.so", "libllama.so.0", "libllama.so.0.5.0", "libggml-cpu-haswell.so", "libggml-cpu-haswell.so.0",
                 "libggml.0.dylib", "libggml.dylib", "libggml.0.25.3.dylib", "libx.a"):  # fmt: skip
        (tmp_path / name).write_text("")
    assert set(library_files(tmp_path)) == {
        "libllama.so", "libllama.so.0", "libggml-cpu-haswell.so", "libggml.0.dylib", "libggml.dylib"}  # fmt: skip


def test_a_wheel_s_name_is_one_pip_takes() -> None:
    name, version, tag, *rest = LAPTOP.wheel.removesuffix(".whl").split("-")
    assert (name, version, rest) == ("llama_cpp_python", "0.3.36", ["py3", "none", "linux_x86_64"])
    assert tag[0].isdigit() and LAPTOP.key in tag


def test_a_kept_wheel_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = tmp_path / "amalia" / "wheels" / LAPTOP.key / LAPTOP.wheel
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"wheel")
    assert obtain(LAPTOP, Wish(), ["no-pip"]) == kept


def test_a_wheelhouse_is_filled_from_the_cache_and_then_used_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = tmp_path / "cache" / "amalia" / "wheels" / LAPTOP.key / LAPTOP.wheel
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"wheel")
    house = tmp_path / "house"
    house.mkdir()
    for need in decision.NEEDS:
        (house / f"{need}-1-py3-none-any.whl").write_bytes(b"")
    obtain(LAPTOP, Wish(wheelhouse=house), ["no-pip"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    assert obtain(LAPTOP, Wish(wheelhouse=house), ["no-pip"]) == house / LAPTOP.wheel


def test_a_portable_wheel_in_the_wheelhouse_is_better_than_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    laptop, wish = look(MACHINES / "x86-laptop"), Wish(wheelhouse=tmp_path)
    assert not with_wheelhouse(laptop, wish).portable
    (tmp_path / decide(laptop, Wish(portable=True)).wheel).write_bytes(b"")
    assert with_wheelhouse(laptop, wish).portable
    assert not with_wheelhouse(laptop, replace(wish, rebuild=True)).portable
    (tmp_path / decide(laptop).wheel).write_bytes(b"")
    assert not with_wheelhouse(laptop, wish).portable


def test_a_machine_without_the_index_is_told_about_the_wheelhouse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pip = [sys.executable, "-c", "import sys; sys.exit('ERROR: No matching distribution found for cmake==4.4.4')"]
    with pytest.raises(LibraryMissing, match=r"pip: No matching distribution .*--wheelhouse"):
        obtain(LAPTOP, Wish(), pip)
    assert not list((tmp_path / "amalia").rglob("*.whl"))


def wrapped(tmp_path: Path, *words: str) -> list[str]:
    script = tmp_path / "zig-cc"
    script.write_text(zig_wrapper("printf '%s\\n' cc", "aarch64-linux-gnu.2.28"))
    script.chmod(0o755)
    return subprocess.run([str(script), *words], capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_wrapper_passes_words_on_as_they_are(tmp_path: Path) -> None:
    words = ["-DNAME=a b", "-march=native", "it's.c", "-O3"]
    assert wrapped(tmp_path, *words) == ["cc", "-target", "aarch64-linux-gnu.2.28", *words]


@pytest.mark.parametrize(
    ("arm", "zig"),
    [
        ("-march=armv8-a", "-mcpu=generic+v8a"),
        ("-march=armv8.2-a+dotprod+fp16", "-mcpu=generic+v8_2a+dotprod+fullfp16"),
        ("-march=armv8.6-a+dotprod+fp16+i8mm+nosve", "-mcpu=generic+v8_6a+dotprod+fullfp16+i8mm-sve"),
        ("-march=armv9.2-a+sve2+sme", "-mcpu=generic+v9_2a+sve2+sme"),
    ],
)
def test_the_wrapper_spells_an_arm_architecture_as_zig_does(tmp_path: Path, arm: str, zig: str) -> None:
    assert wrapped(tmp_path, arm)[-1] == zig


@pytest.mark.parametrize(
    ("c", "cxx"),
    [
        ("gcc", "g++"),
        ("/usr/bin/gcc-13", "/usr/bin/g++-13"),
        ("clang-18", "clang++-18"),
        ("cc", "c++"),
        ("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++"),
    ],
)
def test_a_c_compiler_names_its_cpp_compiler(c: str, cxx: str) -> None:
    assert cxx_of(c) == cxx


def test_our_quantizers_are_made_for_this_machine_where_the_build_is() -> None:
    """Only an x86 needs to be told: baseline Arm has all the vectors that quants.c uses."""
    laptop, board = look(MACHINES / "x86-laptop"), look(MACHINES / "orin-nano")
    builds = [LAPTOP, *(decide(laptop, wish) for wish in (Wish(portable=True), Wish(safe=True))), decide(board)]
    said = ["-march=native" in quants_command(build, "cc", Path("bin")) for build in builds]
    assert said == [True, False, False, False]


def test_our_quantizers_are_compiled_beside_the_libraries_of_a_wheel(tmp_path: Path) -> None:
    mac = decide(look(MACHINES / "mac-m2"))
    for build, name in ((LAPTOP, "libamalia-quants.so"), (mac, "libamalia-quants.dylib")):
        command = quants_command(build, "cc", tmp_path)
        assert command[-1] == str(tmp_path / name) and "-ffp-contract=off" in command
        (tmp_path / name).write_text("")
        assert name in library_files(tmp_path)


def test_a_failure_shows_the_error_and_not_the_command_s_screens() -> None:
    log = "$ cmake\n[1/9] zig-c++ -long\nFAILED: a.o\nx.cpp:3:1: error: no member named 'y'\nninja: build stopped.\n"
    assert failing_lines(log) == ["FAILED: a.o", "x.cpp:3:1: error: no member named 'y'", "ninja: build stopped."]


def test_a_failed_build_is_one_page_with_advice_and_leaves_no_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = tmp_path / "tools"
    (tools / "bin").mkdir(parents=True)
    (tools / "bin" / "ninja").write_text("")
    (tools / "cmake.py").write_text(
        "import sys; print('c++: fatal error: Killed signal terminated program cc1plus'); sys.exit(1)"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(builder, "_tools", lambda build, pip: tools)
    monkeypatch.setattr(builder, "_source", lambda tools, pip: tmp_path)
    with pytest.raises(
        LibraryMissing, match=r"\.log: the build failed; too little memory: run setup again with --jobs 1"
    ):
        obtain(LAPTOP, Wish(), [])
    page = capsys.readouterr().err
    assert "What was tried:" in page and "-ffp-contract=off" in page and "Killed signal" in page
    assert len(page.splitlines()) < 45
    assert not list(tmp_path.rglob("*.whl"))


def test_progress_tells_the_time_left() -> None:
    assert Progress.line(39, 78, 60.0) == "  compiling [############............] 39/78, about 1:00 left"


def test_without_a_terminal_progress_is_a_line_every_twenty_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    progress = Progress(clock=lambda: now[0])
    for second in range(1, 50):
        now[0] = float(second)
        progress.show(second, 100)
    progress.end()
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_options_are_left_out_with_their_values() -> None:
    words = ["--venv", ".venv", "--cpu", "--project=.[all]", "--jobs", "2"]
    assert without_options(words, ("--venv", "--project")) == ["--cpu", "--jobs", "2"]


def test_explain_says_the_decision_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["--explain", "--cpu"]) == 0
    assert "-ffp-contract=off" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_wrong_word_ends_in_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--compiler", "/no/such/compiler"]) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith("amalia: --compiler: /no/such/compiler is not a compiler")
    )


def test_it_runs_by_its_path_with_nothing_installed(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-E", str(SCRIPT), "--explain", "--cpu"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr
    assert "Native" in done.stderr


def test_an_installed_build_of_a_newer_format_is_named_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llama_cpp" / "lib").mkdir(parents=True)
    (tmp_path / "llama_cpp" / "__init__.py").write_text("")
    (tmp_path / "llama_cpp" / "lib" / "build.json").write_text('{"format": 2}')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "llama_cpp", raising=False)
    with pytest.raises(LibraryMissing, match="format 2, and this version reads up to 1"):
        builder.installed_build()
