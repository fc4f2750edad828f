"""How to load a model: what was wished for; a plan fills in what was left open."""

from dataclasses import dataclass

from amalia_edge import native
from amalia_edge.adapter import Adapter
from amalia_edge.errors import UsageError

LARGEST_DEFAULT_CONTEXT, LARGEST_CONTEXT = 8192, 1 << 24
MOST_SEQUENCES = 256  # LLAMA_MAX_SEQ
EVERY_LAYER = -1


@dataclass(frozen=True)
class LoadConfig:
    """How to load a model; None lets the machine and the model decide."""

    context: int | None = None  # tokens of each sequence; the smaller of 8192 and what the model was trained for
    sequences: int = 1  # how many at once, each with a context of its own
    gpu_layers: int = EVERY_LAYER
    threads: int | None = None  # physical cores this process may use
    batch: int = 2048
    micro_batch: int = 512
    cache_keys: str = "f16"
    cache_values: str = "f16"
    flash_attention: str = "auto"
    mapped: bool = True
    locked: bool = False
    large_pages: bool = True  # where the system gives them: memory is read faster
    forced: bool = False  # load even what does not fit
    fit: bool = False  # take less than was wished where the wish does not fit
    adapters: tuple[Adapter, ...] = ()
    chat_template: str | None = None  # the name of one of ours, instead of the file's own

    def __post_init__(self) -> None:
        for name in ("context", "threads", "batch", "micro_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(name, f"{value}", "give a number above zero")
        if self.threads is not None and self.threads > native.MAX_THREADS:
            raise UsageError("threads", f"{self.threads}", f"at most {native.MAX_THREADS}")
        if not 1 <= self.sequences <= MOST_SEQUENCES:
            raise UsageError("sequences", f"{self.sequences}", f"1 to {MOST_SEQUENCES}")
        if self.context is not None and self.context > LARGEST_CONTEXT:
            raise UsageError("context", f"{self.context}", f"at most {LARGEST_CONTEXT}")
        if self.flash_attention in ("off", "0") and self.cache_values in ("q8_0", "q4_0"):
            raise UsageError("cache_values", f"{self.cache_values} without flash attention", "leave flash attention on")
        for name in ("cache_keys", "cache_values"):
            if getattr(self, name) not in native.CACHE_TYPES:
                raise UsageError(name, f"{getattr(self, name)!r}", "one of " + ", ".join(native.CACHE_TYPES))
        if self.flash_attention not in native.FLASH_ATTENTION:
            raise UsageError("flash_attention", f"{self.flash_attention!r}", "one of on, off, auto")
