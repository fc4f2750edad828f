"""What each quantization level cost: the same tokens read by the base and by the levels, compared one by one.

The base is read beside the levels, the same rows at the same time, where memory holds all; else it is read first, and
what it said goes through a file. The default system prompt is never applied: texts are tokenized plain.
"""

import contextlib
import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amalia_bench.divergence import BaseLogits, Tokens, diverge, summarize
from amalia_bench.identity import Identity, identify
from amalia_bench.logits_file import Layout, LogitsFile, LogitsWriter, is_logits_file, windows_there
from amalia_bench.passage import Passage, passage, passage_of_file, require_same_ids
from amalia_bench.perplexity import DEFAULT_CONTEXT, LEAST_WINDOWS, WindowReader, load_config, scored
from amalia_bench.texts import Text, embedded
from amalia_edge.build import cache_folder
from amalia_edge.console import megabytes
from amalia_edge.errors import BenchError, NotComparable, UsageError
from amalia_edge.model import LoadConfig, Model

TEXTS = ("pt-PT", "en")  # where none is named, side by side
MEMORY_PER_FILE_BYTE = 2.1  # weights may be copied into another layout, the file's pages beside them
SAME_MODEL = (
    3e-4  # mean KLD of a model against its own file is less, on another device too; Q8_0's against 16 bits is more
)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class QualityConfig:
    context: int | None = None  # 512 tokens, or what the logits file was made with
    quick: bool = False
    quick_windows: int = 8
    logits: Path | None = None  # where the base's log-probabilities go, or are already
    keep_logits: bool = False
    threads: int | None = None
    gpu_layers: int = LoadConfig.gpu_layers

    def __post_init__(self) -> None:
        if self.quick_windows < LEAST_WINDOWS:
            raise UsageError("quick", f"{self.quick_windows} windows", f"at least {LEAST_WINDOWS}")

    @property
    def most(self) -> int | None:
        return self.quick_windows if self.quick else None


@dataclass(frozen=True)
class Wish:
    """Which levels are measured against which base, on which texts, and what is measured already."""

    base: Path  # a GGUF, or a logits file
    levels: Sequence[Path]
    texts: Sequence[Text] = ()  # none: ours, or the one the logits file was made of
    known: Sequence[Row] = ()


@dataclass(frozen=True)
class Estimate:
    """What a measurement will take."""

    passages: Sequence[Passage]
    models: int
    file_bytes: int = 0  # of disk still to be written
    files: Sequence[Path] = ()  # where
    seconds: float | None = None  # known after the first window


@dataclass(frozen=True)
class Watch:
    """Who is told how it goes."""

    announce: Callable[[Estimate], None] = lambda _estimate: None
    advance: Callable[[float], None] = lambda _share: None  # of the whole


@dataclass(frozen=True)
class Measured:
    """One level on one text."""

    level: Identity
    body: dict[str, Any]  # of a record; the whole record where it is not fresh
    fresh: bool = True  # not among the known


def measure_quality(
    wish: Wish, config: QualityConfig, available: int | None = None, watch: Watch | None = None
) -> Iterator[Measured]:
    """Measure every level on every text; give each figure as soon as it is there, the known ones too.

    On Ctrl-C the windows that were read by then are given as the first part of their text, then the interrupt goes on.
    """
    watch = watch or Watch()
    _require_names(wish.texts)
    levels = {path: identify(path) for path in wish.levels}
    if is_logits_file(wish.base):
        return _against_file(wish, levels, config, watch)
    base = identify(wish.base)
    for level in levels.values():
        require_same_model(base, level)
    config = dataclasses.replace(config, context=config.context or DEFAULT_CONTEXT)
    texts = wish.texts or [embedded()[name] for name in TEXTS]
    route = _side_by_side
    if config.logits or config.keep_logits or not _fit_together([base, *levels.values()], available):
        route = _through_file
    return route(dataclasses.replace(wish, texts=texts), base, levels, config, watch)


def _require_names(texts: Sequence[Text]) -> None:
    """Refuse two texts that no table could tell apart."""
    names = [text.name for text in texts]
    for name in names:
        if names.count(name) > 1:
            raise UsageError("text", f"two of the name {name}", "give each once, or rename one")


def require_same_model(base: Identity, level: Identity) -> None:
    """Refuse two files that are not levels of one model."""
    for what, ours, theirs in (
        ("vocabulary", level.vocabulary_sha256, base.vocabulary_sha256),
        ("chat template", level.template_sha256, base.template_sha256),
    ):
        if ours != theirs:
            found = f"its {what} is not that of {base.file}"
            raise NotComparable(level.file, found, "give levels that were made of one model")


def _fit_together(models: Sequence[Identity], available: int | None) -> bool:
    return not available or sum(model.bytes for model in models) * MEMORY_PER_FILE_BYTE <= available


@contextlib.contextmanager
def _open(path: Path, config: QualityConfig) -> Iterator[WindowReader]:
    load = load_config(config.context or DEFAULT_CONTEXT, config.threads, config.gpu_layers)
    with Model.open(path, load) as model, WindowReader(model) as reader:
        yield reader


class _Pace:
    """Tells how far it is, and, once a first window was read, how long the whole will take."""

    def __init__(self, watch: Watch, estimate: Estimate, rows: int, first: int) -> None:
        """Take how many rows there are to read, and after how many of them a first window is whole."""
        self._watch, self._estimate, self._rows, self._first, self._read = watch, estimate, rows, first, 0
        self._started: float | None = None

    def begin(self) -> None:
        """Start the clock: the models are loaded."""
        self._started = self._started or time.perf_counter()

    def step(self, rows: int) -> None:
        self._watch.advance(rows / self._rows)
        before, self._read = self._read, self._read + rows
        if before < self._first <= self._read and self._started is not None:
            seconds = (time.perf_counter() - self._started) / self._read * self._rows
            self._watch.announce(dataclasses.replace(self._estimate, seconds=seconds))


Found = dict[Path, list[Tokens]]


def _side_by_side(
    wish: Wish, base: Identity, levels: dict[Path, Identity], config: QualityConfig, watch: Watch
) -> Iterator[Measured]:
    """Read base and levels row by row at the same time."""
    head = _head(base)
    known, work = _split(wish, levels, head, config)
    yield from known
    if not work:
        return
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(_open(wish.base, config))
        passages = [passage(reader.model, text, _context(config), config.most) for text, _ in work]
        readers = {}
        for path in dict.fromkeys(path for _, paths in work for path in paths):
            readers[path] = stack.enter_context(_open(path, config))
            require_same_ids(readers[path].model, [text for text, _ in work], passages, config.most)
        estimate = Estimate(passages, 1 + len(readers))
        watch.announce(estimate)
        rows = sum(read.rows * (1 + len(paths)) for read, (_, paths) in zip(passages, work, strict=True))
        pace = _Pace(watch, estimate, rows, scored(_context(config)) * (1 + len(work[0][1])))
        for read, (_, paths) in zip(passages, work, strict=True):
            found: Found = {path: [] for path in paths}
            with _stopped_later() as stop:
                pace.begin()
                for told, *said in zip(
                    reader.read(read.windows), *(readers[path].read(read.windows) for path in paths), strict=True
                ):
                    for path, rows_of_level in zip(paths, said, strict=True):
                        found[path].append(diverge(BaseLogits(told.logits), rows_of_level, path.name))
                    pace.step(len(told.targets) * (1 + len(paths)))
            yield from _results(found, levels, read, head)
            stop.check()


def _through_file(
    wish: Wish, base: Identity, levels: dict[Path, Identity], config: QualityConfig, watch: Watch
) -> Iterator[Measured]:
    """Read the base first, into a file for each text, then level after level against the files."""
    head = _head(base)
    known, work = _split(wish, levels, head, config)
    yield from known
    if not work:
        return
    with _open(wish.base, config) as reader:
        texts = [text for text, _ in work]
        every = {text.name: passage(reader.model, text, _context(config), config.most) for text in wish.texts}
        places = {name: _place(config, base, read, len(every)) for name, read in every.items()}
        passages, files = [every[text.name] for text in texts], [places[text.name] for text in texts]
        layouts = [Layout(_context(config), reader.model.vocabulary.size, read.windows) for read in passages]
        there = [
            windows_there(file, layout, text.name) for file, layout, text in zip(files, layouts, texts, strict=True)
        ]
        wanted = sum(
            layout.header_bytes + (layout.windows - count) * layout.window_bytes
            for layout, count in zip(layouts, there, strict=True)
            if count < layout.windows
        )
        _require_room(files[0].parent, wanted)
        estimate = Estimate(passages, 1 + len(levels), wanted, list(places.values()))
        watch.announce(estimate)
        each = scored(_context(config))
        to_write = sum(layout.windows - count for layout, count in zip(layouts, there, strict=True))
        rows = to_write * each + sum(read.rows * len(paths) for read, (_, paths) in zip(passages, work, strict=True))
        pace = _Pace(watch, estimate, rows, each)
        for file, layout, count in zip(files, layouts, there, strict=True):
            if count:
                _require_same_base(reader, file, layout)
            if count < layout.windows:
                pace.begin()
                _write(reader, LogitsWriter(file, layout, count), count, pace)
    for path in dict.fromkeys(path for _, paths in work for path in paths):
        with _open(path, config) as reader:
            require_same_ids(reader.model, texts, passages, config.most)
            for read, file, (_, paths) in zip(passages, files, work, strict=True):
                if path in paths:
                    yield from _against(reader, path, levels[path], file, read, head, pace)
    if config.logits is None and not config.keep_logits:
        for file in places.values():
            file.unlink(missing_ok=True)


def _against_file(wish: Wish, levels: dict[Path, Identity], config: QualityConfig, watch: Watch) -> Iterator[Measured]:
    """Measure levels against a file that was made elsewhere."""
    with LogitsFile(wish.base) as file:
        if config.context is not None:
            file.require_context(config.context)
        config = dataclasses.replace(config, context=file.layout.context)
        file.require_whole(config.most)
        about = {"logits_file": file.path.name, "sha256": file.digest, "windows": file.layout.windows}
        head = {"base": about, "against": file.path.name}
        pace = None
        for path, level in levels.items():
            with _open(path, config) as reader:
                file.require_vocabulary(reader.model.vocabulary.size, level.file)
                read = passage_of_file(reader.model, file, wish.texts, config.most)
                row = _find(wish.known, level, head, read.sha256, config)
                if row is not None:
                    yield Measured(level, dict(row), fresh=False)
                    continue
                if pace is None:
                    estimate = Estimate([read], len(levels))
                    watch.announce(estimate)
                    pace = _Pace(watch, estimate, read.rows * len(levels), scored(read.context))
                yield from _against(reader, path, level, wish.base, read, head, pace)


def _against(
    reader: WindowReader, path: Path, level: Identity, base: Path, read: Passage, head: Row, pace: _Pace
) -> Iterator[Measured]:
    """Let a level read a text, and compare with what a file says of it."""
    found: Found = {path: []}
    with LogitsFile(base) as file, _stopped_later() as stop:
        pace.begin()
        for rows in reader.read(read.windows):
            found[path].append(diverge(file.base(rows), rows, path.name))
            pace.step(len(rows.targets))
    yield from _results(found, {path: level}, read, head)
    stop.check()


def _write(reader: WindowReader, writer: LogitsWriter, begin: int, pace: _Pace) -> None:
    with writer:
        for rows in reader.read(writer.layout.tokens, begin):
            writer.write(rows, reader.model.header.path.name)
            pace.step(len(rows.targets))


def _require_same_base(reader: WindowReader, file: Path, layout: Layout) -> None:
    """Refuse a file of another model, or of another level of it, by its first window."""
    with LogitsFile(file) as held:
        compared = [
            diverge(held.base(rows), rows, reader.model.header.path.name) for rows in reader.read(layout.tokens[:1])
        ]
    difference = abs(float(Tokens.joined(compared).kld.mean()))
    if difference > SAME_MODEL:
        found = f"not made by {reader.model.header.path.name}: their first windows differ (KLD {difference:.2g})"
        raise NotComparable(file.name, found, "name another file with --logits")


def _place(config: QualityConfig, base: Identity, read: Passage, texts: int) -> Path:
    """Say where the base's log-probabilities of a text go: the file that was named, or one for each of several texts."""
    if config.logits is None:
        key = hashlib.sha256(read.windows.tobytes()).hexdigest()
        return cache_folder() / "logits" / f"{base.sha256[:16]}-{key[:16]}-{read.context}.logits"
    if texts == 1:
        return config.logits
    return config.logits.with_name(f"{config.logits.stem}.{read.name.replace('/', '-')}{config.logits.suffix}")


def _require_room(folder: Path, wanted: int) -> None:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if wanted > free:
        found = f"{megabytes(wanted)} needed for the base's log-probabilities, {megabytes(free)} free"
        raise BenchError(str(folder), found, "name a file on another disk with --logits, or measure with --quick")


def _head(base: Identity) -> Row:
    return {"base": dataclasses.asdict(base), "against": base.level}


def _context(config: QualityConfig) -> int:
    assert config.context is not None
    return config.context


Work = list[tuple[Text, list[Path]]]


def _split(wish: Wish, levels: dict[Path, Identity], head: Row, config: QualityConfig) -> tuple[list[Measured], Work]:
    """Give what is known, and the texts on which something is left to measure, with the levels that lack it."""
    known, work = [], []
    for text in wish.texts:
        rows = {path: _find(wish.known, level, head, text.sha256, config) for path, level in levels.items()}
        known += [Measured(levels[path], dict(row), fresh=False) for path, row in rows.items() if row is not None]
        lacking = [path for path, row in rows.items() if row is None]
        if lacking:
            work.append((text, lacking))
    return known, work


def _find(known: Sequence[Row], level: Identity, head: Row, text: str | None, config: QualityConfig) -> Row | None:
    """Find a figure among the known: of the same files, the same text, and as many windows as are wanted, or more."""
    wanted, found = (level.sha256, head["base"]["sha256"], text, config.context), []
    for row in known:
        held = (row["model"]["sha256"], row["base"].get("sha256"), row["text_sha256"], row["context"])
        whole = row["windows_of_text"]
        if held == wanted and row["windows"] >= min(config.most or whole, whole):
            found.append(row)
    return max(found, key=lambda row: int(row["windows"]), default=None)


def _results(found: Found, levels: dict[Path, Identity], read: Passage, head: Row) -> Iterator[Measured]:
    """Sum up what was found; of a reading that was stopped, the windows that are whole."""
    each = scored(read.context)
    for path, pieces in found.items():
        windows = sum(map(len, pieces)) // each
        if windows < LEAST_WINDOWS:
            continue
        tokens = Tokens.joined(pieces).first(windows * each)
        about = {
            "text": read.name,
            "text_sha256": read.sha256,
            "tokens_sha256": hashlib.sha256(read.windows[:windows].astype("<i4").tobytes()).hexdigest(),
            "context": read.context,
            "windows": windows,
            "windows_of_text": read.windows_of_text,
            "tokens": len(tokens),
            "quick": windows < read.windows_of_text,
        }
        yield Measured(levels[path], {**head, **about, **summarize(tokens)})


class _Stop:
    """A Ctrl-C that waits until what was measured is told."""

    def __init__(self) -> None:
        self.reason: KeyboardInterrupt | None = None

    def check(self) -> None:
        if self.reason is not None:
            raise self.reason


@contextlib.contextmanager
def _stopped_later() -> Iterator[_Stop]:
    stop = _Stop()
    try:
        yield stop
    except KeyboardInterrupt as reason:
        stop.reason = reason
