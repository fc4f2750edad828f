"""The gate to libllama and libggml: the only file that imports llama_cpp, and where C's abbreviations stop.

Nothing is loaded before the first call of `library()`. Every return code is checked here; libllama's log goes to
`logging` under `amalia.native`, and its last complaints end up in our error messages.
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from amalia_edge.decision import VERSION
from amalia_edge.errors import LibraryMissing, ModelCorrupt, ModelUnsupported
from amalia_edge.large_pages import prefer_large_pages

log = logging.getLogger("amalia.native")
interrupts: list[BaseException] = []  # Ctrl-C that arrived while C was calling us
complaints: deque[str] = deque(maxlen=4)  # what libllama last warned of; the reason behind a null pointer
failure_expected = False  # its complaints are no news then

CACHE_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2}  # enum ggml_type
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1, "0": 0, "1": 1}  # enum llama_flash_attn_type
LOG_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}  # enum ggml_log_level
DEVICE_KINDS = ("cpu", "gpu", "integrated-gpu", "accelerator", "meta")  # enum ggml_backend_dev_type
MAX_THREADS = 512  # GGML_MAX_N_THREADS


class ThreadpoolParameters(ctypes.Structure):
    _fields_ = (
        ("cpumask", ctypes.c_bool * MAX_THREADS),
        ("n_threads", ctypes.c_int),
        ("priority", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


@dataclass(frozen=True)
class BackendDevice:
    """One device as libllama sees it."""

    name: str
    description: str
    kind: str
    memory_total: int
    memory_free: int


@lru_cache(maxsize=1)
def library() -> Any:
    """Load libllama through its bindings, once, after checking that it is the version we know."""
    try:
        found = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        raise LibraryMissing("llama-cpp-python", "not installed", "run: amalia setup") from None
    if found != VERSION:
        raise LibraryMissing("llama-cpp-python", f"version {found}, wanted {VERSION}", "run: amalia setup")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import llama_cpp.llama_cpp as bindings
    except (ImportError, OSError, RuntimeError, FileNotFoundError, AttributeError) as problem:
        raise LibraryMissing("llama-cpp-python", f"does not load ({problem})", "run: amalia setup --rebuild") from None
    _check_layouts(bindings)
    _declare(bindings)
    bindings.llama_log_set(_on_log, ctypes.c_void_p(0))
    bindings.llama_backend_init()
    _load_cpu_variant(bindings)
    return bindings


def _check_layouts(bindings: Any) -> None:
    """Compare each struct with the library's own defaults: a layout that drifted reads nonsense here, not later."""
    model, context = bindings.llama_model_default_params(), bindings.llama_context_default_params()
    chain, quantize = bindings.llama_sampler_chain_default_params(), bindings.llama_model_quantize_default_params()
    sound = {
        "llama_model_params": model.use_extra_bufts and not model.vocab_only and not model.no_alloc,
        "llama_context_params": (context.n_ctx, context.n_batch, context.n_ubatch) == (512, 2048, 512)
        and context.type_k == context.type_v == CACHE_TYPES["f16"]
        and context.offload_kqv
        and not context.embeddings,
        "llama_sampler_chain_params": isinstance(chain.no_perf, bool),
        "llama_model_quantize_params": quantize.nthread == 0 and not quantize.pure and not quantize.dry_run,
    }
    for name, good in sound.items():
        if not good:
            raise LibraryMissing(
                f"llama-cpp-python: {name}", "layout differs from its bindings", "run: amalia setup --rebuild"
            )


def _declare(bindings: Any) -> None:
    """Bind what llama_cpp leaves out, through libllama's handle: opening libggml by name would load a second copy."""
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
    declarations: dict[str, tuple[Any, list[Any]]] = {
        "llama_attach_threadpool": (None, [pointer, pointer, pointer]),
        "llama_detach_threadpool": (None, [pointer]),
        "ggml_threadpool_params_default": (ThreadpoolParameters, [ctypes.c_int]),
        "ggml_quantize_chunk": (size, [ctypes.c_int, pointer, pointer, number, number, number, pointer]),
        "ggml_quantize_requires_imatrix": (ctypes.c_bool, [ctypes.c_int]),
        "ggml_row_size": (size, [ctypes.c_int, number]),
        "ggml_blck_size": (number, [ctypes.c_int]),
        "ggml_backend_dev_count": (size, []),
        "ggml_backend_dev_get": (pointer, [size]),
        "ggml_backend_dev_name": (ctypes.c_char_p, [pointer]),
        "ggml_backend_dev_description": (ctypes.c_char_p, [pointer]),
        "ggml_backend_dev_type": (ctypes.c_int, [pointer]),
        "ggml_backend_dev_memory": (None, [pointer, ctypes.POINTER(size), ctypes.POINTER(size)]),
        "ggml_backend_dev_by_type": (pointer, [ctypes.c_int]),
        "ggml_backend_dev_backend_reg": (pointer, [pointer]),
        "ggml_backend_reg_get_proc_address": (pointer, [pointer, ctypes.c_char_p]),
        "ggml_backend_load": (pointer, [ctypes.c_char_p]),
    }
    handle = bindings._lib
    for name, (result, arguments) in declarations.items():
        function = getattr(handle, name)
        function.restype, function.argtypes = result, arguments


def _load_cpu_variant(bindings: Any) -> None:
    """In a portable build, load the best CPU variant by its explicit path; ggml's own search would run planted files."""
    handle = bindings._lib
    if handle.ggml_backend_dev_by_type(0):
        return
    scores = {}
    for path in sorted(library_folder().glob("libggml-cpu-*")):
        try:
            scores[path] = int(ctypes.CDLL(str(path)).ggml_backend_score())
        except (OSError, AttributeError):
            continue
    best = max(scores, key=lambda path: scores[path], default=None)
    if best is None or scores[best] == 0 or not handle.ggml_backend_load(str(best).encode()):
        raise LibraryMissing("llama-cpp-python", "no CPU variant for this machine", "run: amalia setup --rebuild")


def library_folder() -> Path:
    """Give the folder of the shared libraries, without loading them."""
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise LibraryMissing("llama-cpp-python", "not installed", "run: amalia setup")
    return Path(found.origin).parent / "lib"


def features() -> tuple[str, ...]:
    """Name what is really compiled in: the devices, and the instruction sets the CPU's kernels use."""
    line = library().llama_print_system_info().decode("utf-8", "replace")  # "CPU : AVX2 = 1 | AMX_INT8 = 1 | … | "
    return tuple(re.sub(r"\s*=\s*1$", "", part.strip()) for part in re.split(r"[|:]", line) if part.strip())


def devices() -> list[BackendDevice]:
    handle = library()._lib
    found = []
    for index in range(handle.ggml_backend_dev_count()):
        device = handle.ggml_backend_dev_get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        handle.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        found.append(
            BackendDevice(
                handle.ggml_backend_dev_name(device).decode("utf-8", "replace"),
                handle.ggml_backend_dev_description(device).decode("utf-8", "replace").strip(),
                DEVICE_KINDS[handle.ggml_backend_dev_type(device)],
                total.value,
                free.value,
            )
        )
    return found


def open_model(
    path: Path | Sequence[Path], config: "ModelSettings", progress: Callable[[float], None] | None = None
) -> Any:
    """Load a model from its file, or from all its parts in order; its header must have been checked before."""
    bindings = library()
    paths = (path,) if isinstance(path, Path) else tuple(path)
    name = paths[0].name
    parameters = bindings.llama_model_default_params()
    parameters.n_gpu_layers = config.gpu_layers
    nothing = (ctypes.c_void_p * 1)()  # a list that ends at once: with no layer there, a GPU is not touched
    if config.gpu_layers == 0:
        parameters.devices = ctypes.cast(nothing, ctypes.c_void_p)
    parameters.use_extra_bufts = not config.forced  # what does not fit is not copied into another order too
    modes = {
        (False, False): bindings.LLAMA_LOAD_MODE_NONE,
        (True, False): bindings.LLAMA_LOAD_MODE_MMAP,
        (False, True): bindings.LLAMA_LOAD_MODE_MLOCK,
        (True, True): bindings.LLAMA_LOAD_MODE_MMAP_MLOCK,
    }
    parameters.load_mode = modes[config.mapped, config.locked]

    interrupts.clear()

    def on_progress(share: float, _data: Any) -> bool:
        try:
            if share == 0 and config.large_pages:  # the memory is there, and nothing in it yet
                prefer_large_pages()
            if progress is not None:
                progress(share)
        except BaseException as reason:  # Ctrl-C arrives here: C can only be told to stop, and the reason kept
            interrupts.append(reason)
        return not interrupts

    callback = bindings.llama_progress_callback(on_progress)
    parameters.progress_callback = callback
    with reasons() as why, held_interrupts(interrupts.append):
        encoded = (ctypes.c_char_p * len(paths))(*map(os.fsencode, paths))
        pointer = bindings.llama_model_load_from_splits(encoded, len(paths), parameters)
        if interrupts:
            if pointer:
                bindings.llama_model_free(pointer)
            raise interrupts[0]
        if not pointer:
            raise ModelCorrupt(name, f"libllama refuses it: {why()}", "convert or download it again")
    if bindings.llama_model_has_encoder(pointer) or not bindings.llama_model_has_decoder(pointer):
        bindings.llama_model_free(pointer)
        raise ModelUnsupported(name, "a model that does not write text", "give a model that generates")
    return pointer


@contextlib.contextmanager
def open_vocabulary(path: Path) -> Iterator[Any]:
    """Load a model file without its weights, for its vocabulary."""
    bindings = library()
    parameters = bindings.llama_model_default_params()
    parameters.vocab_only = True
    with reasons() as why:
        pointer = bindings.llama_model_load_from_file(os.fsencode(path), parameters)
        if not pointer:
            raise ModelCorrupt(path.name, f"libllama refuses its vocabulary: {why()}", "convert it again")
    try:
        yield pointer
    finally:
        bindings.llama_model_free(pointer)


class ModelSettings(Protocol):
    """What of a LoadConfig concerns the weights."""

    @property
    def gpu_layers(self) -> int: ...
    @property
    def mapped(self) -> bool: ...
    @property
    def locked(self) -> bool: ...
    @property
    def forced(self) -> bool: ...
    @property
    def large_pages(self) -> bool: ...


@contextlib.contextmanager
def held_interrupts(keep: Callable[[BaseException], None]) -> Iterator[None]:
    """Hand Ctrl-C to `keep` while C calls us: raised on the first line of a callback, before its `try`, it would be lost."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or not _in_main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda _number, _frame: keep(KeyboardInterrupt()))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def reasons() -> Iterator[Callable[[], str]]:
    """Collect what libllama complains of inside the block, to say why a call gave a null pointer."""
    complaints.clear()
    yield lambda: "; ".join(complaints) or "libllama gave no reason"


def expect_failure(expected: bool) -> None:
    """While libllama is made to fail, by us and on purpose, what it says of it is of interest to nobody but developers."""
    global failure_expected
    failure_expected = expected


def _on_message(level: int, message: bytes, _data: Any) -> None:
    if sys.is_finalizing():
        return
    try:
        text = message.decode("utf-8", "replace").strip(" .\n")
        if text and level in LOG_LEVELS:
            log.log(logging.DEBUG if failure_expected else LOG_LEVELS[level], text)
            if level == 4:
                complaints.append(text)
    except KeyboardInterrupt as reason:  # C cannot pass it on: whoever called C does
        interrupts.append(reason)


_on_log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_on_message)
