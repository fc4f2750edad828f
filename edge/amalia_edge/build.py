"""Build llama-cpp-python for the machine this runs on: look at it, decide, say why, build, keep the wheel, try it.

Standard library only, and runnable by its path before anything is installed:

    python3 edge/amalia_edge/build.py --venv .venv --project '.[all,dev]'    an environment, the project, the library
    python3 edge/amalia_edge/build.py                                        the library, for the Python that runs this
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # run by its path: this folder's names must not hide anybody's modules; its parent makes `amalia_edge` importable
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    if not (3, 10) <= tuple(sys.version_info[:2]) <= (3, 14) and not os.environ.get("AMALIA_HANDED_OVER"):
        import subprocess

        # plain syntax up to here, so that an old Python reaches this line
        for name in ("python3.13", "python3.12", "python3.11", "python3.10", "python3.14"):
            try:
                fits = (
                    subprocess.call([name, "-c", "pass"], stderr=subprocess.DEVNULL) == 0
                )  # a pyenv shim may exist and fail
            except OSError:
                fits = False
            if fits:
                os.environ["AMALIA_HANDED_OVER"] = "1"
                os.execvp(name, [name, *sys.argv])
        sys.exit("setup: this is Python " + sys.version.split()[0] + "; 3.10 to 3.14 is needed, and none was found")

import argparse
import base64
import contextlib
import hashlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from amalia_edge.decision import (
    CMAKE,
    FORMAT,
    NEEDS,
    NINJA,
    QUANTS,
    SOURCE_BACKEND,
    SOURCE_SHA256,
    ZIG,
    Build,
    Wish,
    decide,
)
from amalia_edge.decision import VERSION as VERSION  # where the gate to the library looks for it
from amalia_edge.environment import OFFLINE, find_pip, install_into, last_line, make_environment
from amalia_edge.errors import AmaliaError, LibraryMissing, UsageError
from amalia_edge.machine import Machine, look
from amalia_edge.selftest import SelfTest, self_test


@dataclass(frozen=True)
class Outcome:
    build: Build
    test: SelfTest
    wheel: Path
    seconds: float


def setup(wish: Wish, machine: Machine | None = None) -> Outcome:
    """Build or find the wheel for this machine, install and try it; repeat with safe flags if it dies."""
    began = time.monotonic()
    machine = machine or look()
    wish = with_wheelhouse(machine, wish)
    pip = find_pip(cache_folder())
    wheels: dict[str, Path] = {}

    def install(build: Build) -> None:
        wheels[build.key] = obtain(build, wish, pip)
        install_wheel(build, wheels[build.key], wish, pip)

    build, test = build_until_it_runs([decide(machine, step) for step in steps(machine, wish)], install, self_test)
    return Outcome(build, test, wheels[build.key], time.monotonic() - began)


def with_wheelhouse(machine: Machine, wish: Wish) -> Wish:
    """Take a portable wheel from the wheelhouse where it has none made for this very machine, unless one was asked for."""
    if wish.wheelhouse is None or wish.rebuild or wish.safe or wish.compiler or wish.portable:
        return wish
    own = decide(machine, wish)
    if own.backend != "cpu" or (wish.wheelhouse / own.wheel).is_file() or kept_wheel(own).is_file():
        return wish
    portable = replace(wish, portable=True)
    if machine.libc == "musl" or not (wish.wheelhouse / decide(machine, portable).wheel).is_file():
        return wish
    say("The wheelhouse has a portable wheel and none for this very machine; it is used (--rebuild builds one).")
    return portable


def kept_wheel(build: Build) -> Path:
    return cache_folder() / "wheels" / build.key / build.wheel


def steps(machine: Machine, wish: Wish) -> list[Wish]:
    """Give what to try, in order: the wish, then safe flags, then safe flags without the GPU."""
    safe = replace(wish, safe=True, portable=False)
    tries = [wish, safe] if not wish.safe else [wish]
    return [*tries, replace(safe, gpu=False)] if decide(machine, wish).backend != "cpu" else tries


def build_until_it_runs(
    builds: Sequence[Build], install: Callable[[Build], None], test: Callable[[], SelfTest]
) -> tuple[Build, SelfTest]:
    """Install each build in turn until one passes its self-test; only a build that is to blame is built differently."""
    result = None
    for build in builds:
        if result is not None:
            say(f"The build is repeated with safe flags: {result}.")
        explain(build)
        install(build)
        result = test()
        if result.ok:
            say(f"It works: {result}.")
            return build, result
        if not result.blames_build:
            break
    raise LibraryMissing("llama-cpp-python", str(result), "send the log and the output of amalia doctor with a report")


def explain(build: Build) -> None:
    say(f"llama-cpp-python {VERSION} for this machine:")
    for reason in build.reasons:
        say(f"  {reason}")
    say(f"  Flags: {' '.join(build.describe()['flags'])}")
    for hint in build.hints:
        say(f"Hint: {hint}")


def obtain(build: Build, wish: Wish, pip: list[str]) -> Path:
    """Give the wheel: from the wheelhouse, from the cache, or built now; it is left in both."""
    kept = kept_wheel(build)
    shelf = wish.wheelhouse / build.wheel if wish.wheelhouse else None
    found = next((file for file in (shelf, kept) if file and file.is_file() and not wish.rebuild), None)
    if found:
        say(f"A wheel built this way is kept: {found}")
    else:
        with _alone(cache_folder() / "build" / f"{build.key}.lock"):
            if wish.rebuild or not kept.is_file():  # another setup may have built it while this one waited
                make_wheel(build, kept, pip)
        found = kept
    if wish.wheelhouse and shelf:
        if found != shelf:
            _place(shelf, found.read_bytes())
        _stock(wish.wheelhouse, wish, pip)
    return found


def install_wheel(build: Build, wheel: Path, wish: Wish, pip: list[str]) -> None:
    """Install the wheel and what it needs, unless this Python has the very same already."""
    extra = ["--constraint", str(wish.constraint)] if wish.constraint else []
    if wish.wheelhouse:
        extra += ["--find-links", str(wish.wheelhouse)]
    missing = [need for module, need in NEEDS.items() if not _importable(module)]
    if missing:
        _install_needs([*pip, "install", *extra, *missing], offline_first=wish.wheelhouse is not None)
    if wish.rebuild or (installed_build() or {}).get("key") != build.key:
        _run_pip([*pip, "install", "--no-deps", "--force-reinstall", "--no-index", str(wheel)])


def _install_needs(command: list[str], offline_first: bool) -> None:
    """Try a wheelhouse alone first: without a network pip would spend minutes on retries."""
    if offline_first:
        with contextlib.suppress(LibraryMissing):
            return _run_pip([*command, "--no-index"])
    return _run_pip(command)


def installed_build() -> Mapping[str, Any] | None:
    """Give the build.json of the llama-cpp-python this Python has; None where there is none, or not from here."""
    importlib.invalidate_caches()
    spec = importlib.util.find_spec("llama_cpp")  # finds, imports nothing
    if spec is None or not spec.origin:
        return None
    file = Path(spec.origin).parent / "lib" / "build.json"
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("format"), int):
        return None
    if said["format"] > FORMAT:
        raise LibraryMissing(
            str(file), f"format {said['format']}, and this version reads up to {FORMAT}", "run amalia setup"
        )
    return said


def make_wheel(build: Build, wheel: Path, pip: list[str]) -> None:
    """Fetch tools and source, compile, assemble; a wheel is there whole or not at all."""
    tools = _tools(build, pip)
    source = _source(tools, pip)
    folder = (
        cache_folder() / "build" / build.key
    )  # kept while unfinished, so that an interrupted build goes on where it was
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    compile_libraries(build, Workshop(tools, source, folder, log))
    libraries = {name: file.read_bytes() for name, file in library_files(folder / "bin").items()}
    if not any(name.startswith("libllama.") for name in libraries):
        raise LibraryMissing("the build", "it ended without libllama", f"read {log}")
    _place(wheel, assemble(source, libraries, build))
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Workshop:
    tools: Path  # cmake, ninja and zig, as installed from the index
    source: Path  # llama-cpp-python's source
    folder: Path  # where cmake builds
    log: Path


def compile_libraries(build: Build, shop: Workshop) -> None:
    """Configure llama.cpp alone, build the one target that pulls in all we install, and our quantizers beside it."""
    cmake = [sys.executable, "-m", "cmake"]
    settings = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_MAKE_PROGRAM": str(_tool(shop.tools, "ninja")),
        "BUILD_SHARED_LIBS": "ON",
        "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
        "CMAKE_INSTALL_RPATH": "@loader_path" if "macosx" in build.platform else "$ORIGIN",
        **({} if "macosx" in build.platform else {f"CMAKE_{kind}_LINKER_FLAGS": "-s" for kind in ("SHARED", "MODULE")}),
        "LLAMA_OPENSSL": "OFF",
        # llama.cpp's command line code, 60 of 140 files, which the wheel would leave out anyway
        **{f"LLAMA_BUILD_{part}": "OFF" for part in ("COMMON", "TOOLS", "TESTS", "EXAMPLES", "SERVER", "APP")},
        **dict(build.defines),
        **_compiler_settings(build, shop.folder, shop.tools),
    }
    environment = {
        name: value for name, value in os.environ.items() if name not in _MISLEADING and not name.startswith("CMAKE_")
    }
    environment |= {"PYTHONPATH": str(shop.tools), "NINJA_STATUS": "[%f/%t] ", "LC_ALL": "C", **dict(build.env)}
    environment |= {"ZIG_GLOBAL_CACHE_DIR": str(shop.folder / "zig"), "ZIG_LOCAL_CACHE_DIR": str(shop.folder / "zig")}
    defines = [f"-D{name}={value}" for name, value in settings.items()]
    configure = [
        *cmake,
        "-S",
        str(shop.source / "vendor" / "llama.cpp"),
        "-B",
        str(shop.folder),
        "-G",
        "Ninja",
        *defines,
    ]
    compile_ = [*cmake, "--build", str(shop.folder), "--target", "llama", "--parallel", str(build.jobs)]
    own = quants_command(build, settings["CMAKE_C_COMPILER"], shop.folder / "bin")
    with shop.log.open("wb") as log:
        for command in (configure, compile_, own):
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            if _follow(command, environment, log) != 0:
                log.flush()
                raise _failure(build, shop.log)


def quants_command(build: Build, compiler: str, folder: Path) -> list[str]:
    """Give the command that compiles quants.c; Arm's vectors need no word, x86's beyond SSE2 do."""
    defines = dict(build.defines)
    words = [*build.flags, "-std=c11", "-O3", "-fno-math-errno", "-fPIC", "-shared"]
    if build.platform.endswith("x86_64") and defines.get("GGML_NATIVE") == "ON":
        words.append("-march=native")
    if "macosx" not in build.platform:
        return [compiler, *words, "-s", str(QUANTS), "-o", str(folder / "libamalia-quants.so")]
    words += ["-arch", defines["CMAKE_OSX_ARCHITECTURES"]]
    if "CMAKE_OSX_DEPLOYMENT_TARGET" in defines:
        words.append(f"-mmacosx-version-min={defines['CMAKE_OSX_DEPLOYMENT_TARGET']}")
    return [compiler, *words, str(QUANTS), "-o", str(folder / "libamalia-quants.dylib")]


# These change what a compiler or cmake does without being seen in our flags, and so in the key.
_MISLEADING = {
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "LDFLAGS",
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "LIBRARY_PATH",
    "CUDAFLAGS",
}


def _compiler_settings(build: Build, folder: Path, tools: Path) -> dict[str, str]:
    flags = {"CMAKE_C_FLAGS": " ".join(build.flags), "CMAKE_CXX_FLAGS": " ".join(build.flags)}
    if build.compiler.kind != "zig":
        c = build.compiler.path
        cxx = cxx_of(c)
        if not shutil.which(cxx):
            raise LibraryMissing(
                c, f"its C++ side, {cxx}, is not there", "install it (g++ or clang++), or use --compiler zig"
            )
        host = {"CMAKE_CUDA_HOST_COMPILER": cxx} if build.backend == "cuda" else {}
        return {**flags, **host, "CMAKE_C_COMPILER": c, "CMAKE_CXX_COMPILER": cxx}
    zig = tools / "ziglang" / "zig"
    wrappers = {name: folder / f"zig-{name}" for name in ("cc", "c++", "ar", "ranlib")}
    for name, file in wrappers.items():
        compiles = name in ("cc", "c++")
        file.write_text(
            zig_wrapper(f"{shlex.quote(str(zig))} {name}", build.target)
            if compiles
            else f'#!/bin/sh\nexec {shlex.quote(str(zig))} {name} "$@"\n'
        )
        file.chmod(0o755)
    return {
        **flags,
        "CMAKE_C_COMPILER": str(wrappers["cc"]),
        "CMAKE_CXX_COMPILER": str(wrappers["c++"]),
        "CMAKE_AR": str(wrappers["ar"]),
        "CMAKE_RANLIB": str(wrappers["ranlib"]),
    }


def zig_wrapper(zig: str, target: str) -> str:
    """Write the script cmake takes for clang: zig spells an Arm architecture `-mcpu=generic+v8_2a+fullfp16`."""
    return f"""#!/bin/sh
for word do
  shift
  case $word in
    -march=armv*)
      word=$(printf %s "$word" | sed -e 's/^-march=armv\\([0-9]\\)\\.\\([0-9]\\)-a/-mcpu=generic+v\\1_\\2a/' \\
        -e 's/^-march=armv\\([0-9]\\)-a/-mcpu=generic+v\\1a/' -e 's/+fp16/+fullfp16/' \\
        -e 's/+no\\([a-z0-9]*\\)/-\\1/g') ;;
  esac
  set -- "$@" "$word"
done
exec {zig} -target {target} "$@"
"""


def cxx_of(c: str) -> str:
    """Name the C++ compiler that belongs to a C compiler: gcc-13 → g++-13, clang-18 → clang++-18, cc → c++."""
    folder, slash, name = c.rpartition("/")
    for kind, pair in (("clang", "clang++"), ("gcc", "g++"), ("cc", "c++")):
        if kind in name:
            return folder + slash + pair.join(name.rsplit(kind, 1))
    return c


def _follow(command: list[str], environment: dict[str, str], log: Any) -> int:
    """Run a step, its words into the log, its progress to the person."""
    progress = Progress()
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                step = re.match(rb"\[(\d+)/(\d+)\] ", line)
                if step:
                    progress.show(int(step.group(1)), int(step.group(2)))
        except BaseException:
            process.terminate()
            raise
        finally:
            progress.end()
    return process.returncode


class Progress:
    """Tell how far the compiler is: one moving line on a terminal, a line every 20 seconds elsewhere."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._told = clock()
        self._moving = sys.stderr.isatty()

    def show(self, done: int, total: int) -> None:
        now = self._clock()
        line = self.line(done, total, now - self._began)
        if self._moving:
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()
        elif now - self._told >= 20:
            self._told = now
            say(line)

    def end(self) -> None:
        if self._moving:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    @staticmethod
    def line(done: int, total: int, seconds: float) -> str:
        full = round(24 * done / total)
        minutes, rest = divmod(round(seconds / done * (total - done)), 60)
        return f"  compiling [{'#' * full}{'.' * (24 - full)}] {done}/{total}, about {minutes}:{rest:02d} left"


# What a compiler's last words mean, and what would do.
_ADVICE = (
    (
        r"No space left on device|error: NoSpaceLeft",
        "free about 2 GB in the cache folder (XDG_CACHE_HOME moves it), then run setup again",
    ),
    (r"Killed|Cannot allocate memory|OutOfMemory|out of memory", "too little memory: run setup again with --jobs 1"),
    (
        r"unsupported GNU version|unsupported clang version",
        "nvcc is older than this compiler: install one it knows and name it (--compiler gcc-12)",
    ),
    (r"Unsupported gpu architecture", "this nvcc does not know the GPU: install a newer CUDA toolkit, or use --cpu"),
    (r"CMAKE_CUDA_COMPILER|Failed to find nvcc", "the CUDA toolkit is not complete: install it again, or use --cpu"),
    (
        r"Text file busy|Permission denied|noexec",
        "the cache folder does not run programs: set XDG_CACHE_HOME to one that does",
    ),
)


def _failure(build: Build, log: Path) -> LibraryMissing:
    """Say on one page what was tried, what the compiler said last, and what to do."""
    text = log.read_text(encoding="utf-8", errors="replace")
    advice = next((advice for pattern, advice in _ADVICE if re.search(pattern, text)), "")
    if not advice:
        other = "gcc" if build.compiler.kind == "zig" else "zig"
        advice = f"try another compiler (--compiler {other})" + (
            ", or the CPU alone (--cpu)" if build.backend == "cuda" else ""
        )
    say("")
    say("The build failed. What was tried:")
    explain(build)
    say("The last lines of the log:")
    for line in failing_lines(text):
        say(f"  | {line}")
    return LibraryMissing(str(log), "the build failed", advice)


def failing_lines(text: str, count: int = 18) -> list[str]:
    """Choose the lines that tell why: from the first error on, without compiler commands, which are screens long."""
    lines = [
        line[:150]
        for line in text.splitlines()
        if line.strip() and not line.startswith(("$ ", "[")) and len(line) < 1000
    ]
    first = next(
        (place for place, line in enumerate(lines) if re.search(r"\b(error|Error|FAILED)\b", line)), len(lines) - count
    )
    return lines[max(0, first) :][:count]


def library_files(folder: Path) -> dict[str, Path]:
    """Name what a wheel gets: each library as `.so` and under the name its users look for, never a third time in full.

    A wheel has no links, so every name is a copy.
    """
    wanted = re.compile(r"lib[\w+-]+(\.so(\.\d+)?|(\.\d+)?\.dylib)")
    plugin = re.compile(r"libggml-cpu-.*\.so\.\d+")  # opened by path, and by `.so` only
    names = sorted(
        file.name for file in folder.glob("lib*") if wanted.fullmatch(file.name) and not plugin.fullmatch(file.name)
    )
    return {name: folder / name for name in names}


def assemble(source: Path, libraries: Mapping[str, bytes], build: Build) -> bytes:
    """Make the wheel: the bindings as they come, our libraries, and build.json, which says how these were made."""
    info = f"llama_cpp_python-{VERSION}.dist-info"
    package = source / "llama_cpp"
    files = {
        f"llama_cpp/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in package.rglob("*")
        if path.suffix in (".py", ".typed")
    }
    files |= {f"llama_cpp/lib/{name}": data for name, data in libraries.items()}
    files["llama_cpp/lib/build.json"] = (json.dumps(build.describe(), indent=2) + "\n").encode()
    files[f"{info}/METADATA"] = (source / "PKG-INFO").read_bytes()
    files[f"{info}/licenses/LICENSE.md"] = (source / "LICENSE.md").read_bytes()
    files[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: amalia-edge\nRoot-Is-Purelib: false\n"
        f"Tag: py3-none-{build.platform}\nBuild: 1amalia{build.key}\n"
    ).encode()
    rows = [f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in sorted(files.items())]
    files[f"{info}/RECORD"] = "".join([*rows, f"{info}/RECORD,,\n"]).encode()
    with tempfile.TemporaryFile() as raw:
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            for name, data in files.items():
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
        raw.seek(0)
        return raw.read()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amalia"


def _tools(build: Build, pip: list[str]) -> Path:
    """Install cmake, ninja and, where it is the compiler, zig, into a folder of the cache that nothing else uses."""
    wanted = [CMAKE, NINJA, *([ZIG] if build.compiler.kind == "zig" else [])]
    name = "-".join(["tools", *(part.replace("==", "-") for part in wanted)])
    folder = cache_folder() / "build" / name
    if not folder.is_dir():
        say(
            "Fetching "
            + " and ".join(
                ["cmake, ninja", *(["a compiler (zig, about 100 MB)"] if build.compiler.kind == "zig" else [])]
            )
            + " ..."
        )
        install_into(folder, wanted, pip)
    return folder


def _tool(tools: Path, name: str) -> Path:
    found = next(
        (file for file in (tools / "bin" / name, tools / name / "data" / "bin" / name) if file.is_file()), None
    )
    if found is None:
        raise LibraryMissing(str(tools), f"{name} is not in it", "remove this folder and run setup again")
    return found


def _source(tools: Path, pip: list[str]) -> Path:
    """Fetch llama-cpp-python's source through pip, which checks its hash, and unpack it once."""
    folder = cache_folder() / "build" / f"llama_cpp_python-{VERSION}"
    if folder.is_dir():
        return folder
    say(f"Fetching the source of llama-cpp-python {VERSION} ...")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".source-", dir=folder.parent) as name:
        place = Path(name)
        install_into(place / "backend", [SOURCE_BACKEND], pip)  # here and not among the tools: it depends on the Python
        path = os.pathsep.join([str(place / "backend"), str(tools)])  # it will not answer without finding cmake
        wanted = place / "source.txt"
        wanted.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SOURCE_SHA256}\n")
        options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--require-hashes", "--dest", name]
        _run_pip([*pip, "download", *options, "--requirement", str(wanted)], {"PYTHONPATH": path})
        archive = next(place.glob("*.tar.gz"))
        with tarfile.open(archive) as tar:  # its hash is the one this file names
            if hasattr(tarfile, "data_filter"):
                tar.extractall(place, filter="data")
            else:
                tar.extractall(place)
        with contextlib.suppress(OSError):  # another setup may have been quicker
            (place / folder.name).rename(folder)
    return folder


def _stock(wheelhouse: Path, wish: Wish, pip: list[str]) -> None:
    """Put the wheels that llama-cpp-python needs beside it, so that the folder is enough without a network."""
    if any(not list(wheelhouse.glob(f"{module}-*.whl")) for module in NEEDS):
        extra = ["--constraint", str(wish.constraint)] if wish.constraint else []
        _run_pip([*pip, "download", "--only-binary", ":all:", *extra, "--dest", str(wheelhouse), *NEEDS.values()])


def _run_pip(command: list[str], environment: Mapping[str, str] | None = None) -> None:
    quiet = [*command, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        quiet, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL, capture_output=True
    )
    if done.returncode != 0:
        raise LibraryMissing("pip", last_line(done.stderr + done.stdout), OFFLINE)


def _importable(module: str) -> bool:
    importlib.invalidate_caches()
    return importlib.util.find_spec(module) is not None


def _place(file: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    neighbour = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with neighbour.open("wb") as raw:
            raw.write(data)
            raw.flush()
            os.fsync(raw.fileno())
        neighbour.replace(file)
    finally:
        neighbour.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one setup at a time build a key; a second one waits and then finds the wheel."""
    import fcntl  # not on Windows, which never gets here

    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("Another setup is building the same; waiting for it ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """Describe the command line; `amalia setup` takes the same words."""
    words = argparse.ArgumentParser(prog="amalia setup", description="Build llama-cpp-python for this machine.")
    words.add_argument("--compiler", default="", metavar="NAME", help="zig, gcc, clang or a path (default: what fits)")
    words.add_argument(
        "--portable", action="store_true", help="a CPU build that runs on other machines of this architecture"
    )
    words.add_argument("--cpu", action="store_true", help="leave a GPU out")
    words.add_argument("--safe", action="store_true", help="no instruction set beyond AVX2 or plain Armv8")
    words.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="compilers at once (default: by CPUs and memory)"
    )
    words.add_argument("--wheelhouse", type=Path, metavar="DIR", help="take wheels from here, and leave them here")
    words.add_argument("--rebuild", action="store_true", help="build even if a wheel is kept")
    words.add_argument("--explain", action="store_true", help="say what would be built and why, and stop")
    words.add_argument("--constraints", dest="constraint", type=Path, metavar="FILE", help="pip constraints")
    words.add_argument(
        "--venv", type=Path, metavar="DIR", help="first make a virtual environment there, and build for it"
    )
    words.add_argument(
        "--project", metavar="PATH", help="with --venv: the project to install in it, such as '.[all,dev]'"
    )
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Run setup and give its exit code; a failure is one line, and 5 where the library could not be built."""
    words = list(sys.argv[1:] if argv is None else argv)
    order = parser().parse_args(words)
    try:
        return _make_venv_and_go_on(order, words) if order.venv else _go(order)
    except AmaliaError as error:
        say(f"amalia: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("amalia: stopped; setup goes on from here when run again")
        return 130


def _go(order: argparse.Namespace) -> int:
    if order.jobs < 0:
        raise UsageError("--jobs", str(order.jobs), "give a number of at least 1")
    wish = Wish(
        compiler=order.compiler,
        portable=order.portable,
        gpu=not order.cpu,
        safe=order.safe,
        jobs=order.jobs,
        wheelhouse=order.wheelhouse,
        rebuild=order.rebuild,
        constraint=order.constraint,
    )
    if order.explain:
        explain(decide(look(), wish))
        return 0
    outcome = setup(wish)
    made = f"{outcome.build.backend}, {outcome.build.compiler.kind}"
    print(f"llama-cpp-python {VERSION} ({made}) is installed; {outcome.seconds:.0f} s.")
    return 0


def _make_venv_and_go_on(order: argparse.Namespace, words: list[str]) -> int:
    """Make the environment, install the project in it, and let its Python go on: that one will use the wheel."""
    _refuse_early(order)
    python = make_environment(order.venv.absolute(), cache_folder())
    if order.project:
        say(f"Installing the project in {order.venv} ...")
        extra = ["--constraint", str(order.constraint)] if order.constraint else []
        links = ["--find-links", str(order.wheelhouse)] if order.wheelhouse else []
        _run_pip([*find_pip(cache_folder(), str(python)), "install", *extra, *links, "--editable", order.project])
    rest = without_options(words, ("--venv", "--project"))
    return subprocess.call([str(python), str(Path(__file__).resolve()), *rest])


def _refuse_early(order: argparse.Namespace) -> None:
    """Find out before anything is fetched whether this machine can be built for at all."""
    decide(
        look(),
        Wish(compiler=order.compiler, portable=order.portable, gpu=not order.cpu, safe=order.safe, jobs=order.jobs),
    )


def without_options(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Leave out options and their values, in both spellings: `--venv DIR` and `--venv=DIR`."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or any(word.startswith(f"{name}=") for name in names):
            skip = False
        elif word in names:
            skip = True
        else:
            kept.append(word)
    return kept


if __name__ == "__main__":
    sys.exit(main())
