"""Records laid out: for each kind of measurement its tables, each of one machine and one library."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amalia_bench.choices import ABROAD, HOME, Choice, choices, file_of, is_synthetic, level_of, model_of, size_of
from amalia_bench.figures import (
    NONE,
    bracketed,
    change,
    count,
    interval,
    number,
    percent,
    rate,
    seconds,
    signed,
    significant,
)
from amalia_bench.place import Place, by_place, machine
from amalia_bench.speed_table import SETTINGS
from amalia_edge.console import megabytes, plain

Row = Mapping[str, Any]
_NUMERIC = re.compile(r"[-+−≈]?\d|–")
SYNTHETIC = "random weights"  # beside a name: speed and memory are real, words are not


@dataclass(frozen=True)
class Table:
    """Headings and cells as text; the first column names what a line is about."""

    title: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    place: str  # machine and library
    note: str = ""

    def is_text(self, at: int) -> bool:
        """Say whether a column holds words, which stand at the left."""
        return not any(_NUMERIC.match(line[at]) for line in self.lines)


def _table(title: str, columns: Mapping[str, Callable[[Any], str]], rows: Sequence[Any], where: object, note: str = "") -> Table:  # fmt: skip
    """Lay rows out; a column in which nothing was measured is left out."""
    lines = [[cell(row) for cell in columns.values()] for row in rows]
    filled = [at for at in range(len(columns)) if at == 0 or any(line[at] not in (NONE, "") for line in lines)]
    headings = list(columns)
    return Table(title, tuple(headings[at] for at in filled), tuple(tuple(line[at] for at in filled) for line in lines), str(where), note)  # fmt: skip


def _of_kind(rows: Iterable[Row], *kinds: str) -> dict[Place, list[Row]]:
    return by_place(row for row in rows if row["kind"] in kinds)


def named(row: Row) -> str:
    """Name a row's model and level, and say where its weights are random."""
    mark = f" ({SYNTHETIC})" if is_synthetic(row) else ""
    return f"{model_of(row)} {level_of(row)}".strip() + mark


def choice_tables(rows: Sequence[Row], here: str | None) -> list[Table]:
    """Set each level's size, loss and speed side by side."""
    found: dict[str, list[Choice]] = {}
    for one in choices(rows, here):
        if one.quality:
            found.setdefault(one.model, []).append(one)
    return [_choice_table(model, files, rows, here) for model, files in found.items()]


def _choice_table(model: str, files: list[Choice], rows: Sequence[Row], here: str | None) -> Table:
    def writing(one: Choice) -> str:
        return rate(one.speed, one.speed_spread)

    columns: dict[str, Callable[[Choice], str]] = {
        "level": lambda one: one.level or one.file,
        "size": lambda one: megabytes(one.nbytes),
        "KLD, Portuguese": lambda one: bracketed(one.loss(), one.loss_between()),
        "KLD, English": lambda one: bracketed(one.loss(ABROAD), one.loss_between(ABROAD)),
        "same top token": lambda one: percent(number(one.quality.get(HOME, {}), "same_top")),
        "tokens/s": writing,
        "J/token": lambda one: significant(number(one.energy or {}, "joules_per_token")),
    }
    said = [row for one in files for row in one.quality.values()]
    places = [str(where) for where in by_place(said)]
    spoken = f"loss: {'; '.join(places)}" + (f"; speed: {here}" if here and any(one.speed for one in files) else "")
    return _table(f"{model}: which level", columns, files, spoken if here != machine(said[0]) else places[0])


def speed_tables(rows: Sequence[Row]) -> list[Table]:
    return [_speed_table(told, where) for where, told in _of_kind(rows, "speed").items()]


def _speed_table(rows: Sequence[Row], where: Place) -> Table:
    columns: dict[str, Callable[[Row], str]] = {
        "model": named,
        "test": lambda row: str(row.get("test", "")),
        "threads": lambda row: str(row.get("n_threads", "")),
        "settings": _settings(rows, shown=("n_threads",)),
        "tokens/s, decode": lambda row: rate(number(row, "avg_ts"), number(row, "stddev_ts")),
        "tokens/s, engine": lambda row: rate(number(row, "engine_ts"), number(row, "engine_stddev_ts")),
        "of the roofline": _of_the_roofline,
        "first token": lambda row: seconds(number(row, "first_token_s")),
        "load": lambda row: seconds(number(row, "load_s")),
        "memory": lambda row: _size(number(row, "peak_rss")),
        "steady": _steady,
        "of another program": _against_program,
    }
    note = "Mean ± standard deviation. Decode: llama_decode alone, as llama-bench measures; engine: sampling and text included."  # fmt: skip
    if any(row.get("against") for row in rows):
        note += " Of another program: ours ÷ its rate, within each pair."
    return _table("Speed", columns, rows, where, note)


def _settings(rows: Iterable[Row], shown: Sequence[str] = ()) -> Callable[[Row], str]:
    """Make what names a row's settings, as they are typed: those that differ between the rows of its model."""
    differing: dict[str, list[str]] = {}
    for model, told in _grouped(rows, named).items():
        kept = (name for name in SETTINGS if name not in shown)
        differing[model] = [name for name in kept if len({str(row[name]) for row in told if name in row}) > 1]

    def typed(row: Row, name: str) -> str:
        value = row.get(name, "not told")
        return plain(f"{SETTINGS[name]} {('off', 'on')[value] if isinstance(value, bool) else value}")

    return lambda row: ", ".join(typed(row, name) for name in differing[named(row)])


def _against_program(row: Row) -> str:
    """Give the ratio to another program, which of our figures it is of, and that program's name."""
    other = row.get("against")
    ratio = number(row, "against", "ratio")
    if not isinstance(other, Mapping) or ratio is None:
        return NONE
    spread, ours = number(row, "against", "ratio_stddev"), "decode" if other.get("figure") == "avg_ts" else "engine"
    beyond = "" if spread is None else f" ± {spread:.3f}"
    return plain(f"{ratio:.3f}{beyond} × {other.get('name', 'a program not named')} ({ours})")


def _size(value: float | None) -> str:
    return NONE if value is None else megabytes(value)


def _steady(row: Row) -> str:
    """Say whether the machine slowed down meanwhile: throttled, or the last repetition against the first."""
    if row.get("throttled") is None and number(row, "drift") is None:
        return NONE
    drift = number(row, "drift")
    last = "" if drift is None else f"last {change(drift - 1, places=0)}"
    return ", ".join(filter(None, ("throttled" if row.get("throttled") else "", last))) or "yes"


def kernel_tables(rows: Sequence[Row]) -> list[Table]:
    columns: dict[str, Callable[[Row], str]] = {
        "type": lambda row: str(row.get("type", "")),
        "operation": lambda row: (
            str(row.get("operation", "")).replace("_", " × ").replace("mat", "matrix").replace("vec", "vector")
        ),
        "shape": _shape,
        "time": lambda row: _nanoseconds(number(row, "ns")),
        "GB/s": lambda row: significant(number(row, "gbps")),
        "of bandwidth": lambda row: percent(number(row, "bandwidth_share"), places=0),
        "GFLOP/s": lambda row: significant(number(row, "gflops")),
        "of peak": lambda row: percent(number(row, "peak_share"), places=0),
        "error": lambda row: significant(number(row, "error"), 2),
        "limit": lambda row: significant(number(row, "error_limit"), 2),
        "device": lambda row: f"{row.get('device', '')} {row.get('buffer', '')}".strip(),
    }
    note = "Error: normalised, against the same in 64-bit numbers; a kernel above its limit would have failed."
    tables = [_table("Kernels", columns, told, where, note) for where, told in _of_kind(rows, "kernels").items()]
    reading: dict[str, Callable[[Row], str]] = {
        "threads": lambda row: str(row.get("threads", "")),
        "GB/s read": lambda row: significant(number(row, "read_gbps")),
    }
    return tables + [_table("Memory bandwidth", reading, told, where) for where, told in _of_kind(rows, "bandwidth").items()]  # fmt: skip


def _shape(row: Row) -> str:
    return " × ".join(str(row[name]) for name in ("rows", "columns", "batch") if row.get(name) not in (None, 0))


def _nanoseconds(value: float | None) -> str:
    return (
        NONE if value is None else f"{significant(value / 1e3)} µs" if value < 1e6 else f"{significant(value / 1e6)} ms"
    )


def quality_tables(rows: Sequence[Row]) -> list[Table]:
    """Set Portuguese beside English for each level, then the registers, then other texts."""
    found = []
    for where, told in _of_kind(rows, "quality").items():
        for (model, against), some in _grouped(told, lambda row: (model_of(row), _against(row))).items():
            found += _quality_tables(f"{model}, against {against}", some, where)
    return found


def _against(row: Row) -> str:
    base = row.get("base")
    told = base.get("level") or base.get("logits_file") if isinstance(base, Mapping) else None
    return plain(str(row.get("against") or told or "the full model"))


def _quality_tables(title: str, rows: list[Row], where: Place) -> list[Table]:
    levels = _grouped(sorted(rows, key=size_of, reverse=True), level_of)
    files = [{str(row.get("text")): row for row in told} for told in levels.values()]
    names = dict(zip(map(id, files), levels, strict=True))
    both = (HOME, ABROAD)
    found = []
    if main := [one for one in files if set(one) & set(both)]:
        columns: dict[str, Callable[[dict[str, Row]], str]] = {"level": lambda one: names[id(one)]}
        for text in both:
            columns[f"KLD {text}"] = lambda one, text=text: bracketed(number(one.get(text, {}), "mean_kld"), interval(one.get(text, {}), "kld_ci95"))  # type: ignore[misc]  # fmt: skip
        for text in both:
            columns[f"same top {text}"] = lambda one, text=text: percent(number(one.get(text, {}), "same_top"), interval(one.get(text, {}), "same_top_ci95"))  # type: ignore[misc]  # fmt: skip
        for text in both:
            columns[f"perplexity {text}"] = lambda one, text=text: _perplexity_change(one.get(text, {}))  # type: ignore[misc]  # fmt: skip
        columns["KLD 99 % pt-PT"] = lambda one: significant(number(one.get(HOME, {}), "kld_percentiles", "99"))
        columns["RMS Δp pt-PT"] = lambda one: percent(number(one.get(HOME, {}), "rms_dp"))
        found.append(_table(title, columns, main, where, _how_measured(rows)))
    registers = sorted({text for one in files for text in one if text.startswith((f"{HOME}/", f"{ABROAD}/"))}, key=lambda text: (text.partition("/")[0] != HOME, text))  # fmt: skip
    others = sorted({text for one in files for text in one} - set(both) - set(registers))
    for said, texts in (("by register", registers), ("other texts", others)):
        if texts:
            cells: dict[str, Callable[[dict[str, Row]], str]] = {"level": lambda one: names[id(one)]}
            for text in texts:
                cells[text] = lambda one, text=text: bracketed(number(one.get(text, {}), "mean_kld"), interval(one.get(text, {}), "kld_ci95"), 2)  # type: ignore[misc]  # fmt: skip
            lines = [one for one in files if set(one) & set(texts)]
            found.append(_table(f"{title}: mean KLD, {said}", cells, lines, where, _how_measured(rows)))
    return found


def _perplexity_change(row: Row) -> str:
    ratio, between = number(row, "ppl_ratio"), interval(row, "ppl_ratio_ci95")
    return NONE if ratio is None else change(ratio - 1, (between[0] - 1, between[1] - 1) if between else None)


def _how_measured(rows: Sequence[Row]) -> str:
    contexts = ", ".join(dict.fromkeys(str(row.get("context")) for row in rows))
    quick = " Some of it with --quick: on less text." if any(row.get("quick") for row in rows) else ""
    return f"Context {contexts}; KLD in nats per token; perplexity as its change; [95 % intervals], paired token by token.{quick}"  # fmt: skip


def task_tables(rows: Sequence[Row]) -> list[Table]:
    columns: dict[str, Callable[[Row], str]] = {
        "model": named,
        "task": lambda row: plain(str(row.get("file", ""))),
        "items": lambda row: str(row.get("items", "")),
        "accuracy": lambda row: percent(number(row, "accuracy"), interval(row, "accuracy_ci95")),
        "base": lambda row: percent(number(row, "base_accuracy")),
        "change": lambda row: change(number(row, "delta"), interval(row, "delta_ci95"), 1),
    }
    return [_table("Tasks", columns, told, where) for where, told in _of_kind(rows, "tasks").items()]


def variety_tables(rows: Sequence[Row]) -> list[Table]:
    """For each prompt, the share that prefers the European wording by class and level; then its drift; then answers."""
    found = []
    for where, told in _of_kind(rows, "variety").items():
        for (model, prompt), some in _grouped(told, lambda row: (model_of(row), str(row.get("prompt")))).items():
            found += _variety_tables(f"{model}, prompt: {prompt}", sorted(some, key=size_of, reverse=True), where)
    return found


def _variety_tables(title: str, rows: list[Row], where: Place) -> list[Table]:
    classes = [("overall",), *(("classes", name) for name in rows[0].get("classes") or {})]
    classes += [("gradients", name) for name in rows[0].get("gradients") or {}]
    against = next((_against(row) for row in rows if row.get("against")), "the full model")
    heads: dict[str, Callable[[tuple[str, ...]], str]] = {
        "class": lambda keys: keys[-1].replace("_", " ") + " (gradient)" * (keys[0] == "gradients"),
        "pairs": lambda keys: count(number(rows[0], *keys, "pairs")),
    }
    share, drift = dict(heads), dict(heads)
    for at, row in enumerate(rows):
        level = level_of(row) or f"file {at + 1}"
        share[level] = lambda keys, row=row: percent(number(row, *keys, "prefers_european"), interval(row, *keys, "prefers_european_ci95"))  # type: ignore[misc]  # fmt: skip
        drift[level] = lambda keys, row=row: signed(number(row, *keys, "delta_margin"), interval(row, *keys, "delta_margin_ci95"))  # type: ignore[misc]  # fmt: skip
    found = [
        _table(f"{title}: pairs in which the European wording is likelier", share, classes, where, "[95 % intervals]")
    ]
    moved = _table(f"{title}: change of the margin, nats", drift, classes, where, f"Below nought: towards Brazilian Portuguese. [95 % intervals], paired with {against}.")  # fmt: skip
    if len(moved.headings) > 2:
        found.append(moved)
    return found + _answers(title, [row for row in rows if isinstance(row.get("generated"), Mapping)], where)


def _answers(title: str, rows: list[Row], where: Place) -> list[Table]:
    columns: dict[str, Callable[[Row], str]] = {
        "level": lambda row: level_of(row) or model_of(row),
        "answers": lambda row: count(number(row, "generated", "answers")),
        "words": lambda row: count(number(row, "generated", "words")),
        "markers": lambda row: count(number(row, "generated", "markers")),
        "for 1000 words": lambda row: bracketed(
            number(row, "generated", "per_1000_words"), interval(row, "generated", "per_1000_words_ci95"), 2
        ),
        "most": lambda row: ", ".join(
            f"{name.replace('_', ' ')} {count}"
            for name, count in sorted((row["generated"].get("by_class") or {}).items(), key=lambda one: -one[1])[:3]
        ),
    }
    return [_table(f"{title}: Brazilian markers in answers", columns, rows, where)] if rows else []


def _of_the_roofline(row: Row) -> str:
    return "in cache" if row.get("in_cache") else percent(number(row, "roofline_share"), places=0)


def energy_tables(rows: Sequence[Row]) -> list[Table]:
    columns: dict[str, Callable[[Row], str]] = {
        "model": named,
        "test": lambda row: plain(str(row.get("test", ""))) + ("" if row.get("whole", True) else ", broken off"),
        "J/token": lambda row: bracketed(number(row, "joules_per_token"), interval(row, "joules_per_token_ci95")),
        "tokens/J": lambda row: significant(number(row, "tokens_per_joule")),
        "power": lambda row: f"{significant(number(row, 'watts'))} W" if number(row, "watts") is not None else NONE,
        "idle": lambda row: (
            f"{significant(number(row, 'idle_watts'))} W" if number(row, "idle_watts") is not None else NONE
        ),
        "over": lambda row: seconds(number(row, "seconds")),
        "hottest": _hottest,
        "source": lambda row: plain(str(row.get("source", ""))),
        "alarms": _alarms,
    }
    note = "Power: all of it, at work; joules for a token: idling subtracted; [95 % interval]."
    return [_table("Energy", columns, told, where, note) for where, told in _of_kind(rows, "energy").items()]


def _alarms(row: Row) -> str:
    """Name what alarmed; each may be a name, or seconds and a name."""
    told = [alarm[-1] if isinstance(alarm, list) and alarm else alarm for alarm in row.get("alarms") or ()]
    return plain(", ".join(dict.fromkeys(map(str, told)))) or "none"


def _hottest(row: Row) -> str:
    degrees = [point[2] for point in row.get("trace") or () if len(point) > 2 and isinstance(point[2], int | float)]
    return f"{max(degrees):.0f} °C" if degrees else NONE


def shape_tables(rows: Sequence[Row]) -> list[Table]:
    """What a model of a shape does here; then what it would do on devices that are not at hand."""
    measured = [row for row in rows if row["kind"] == "shape" and not row.get("prediction")]
    columns: dict[str, Callable[[Row], str]] = {
        "shape": named,
        "size": lambda row: _size(size_of(row) or None),
        "test": lambda row: str(row.get("test", "")),
        "settings": _settings(measured),
        "tokens/s": lambda row: rate(number(row, "engine_ts"), number(row, "engine_stddev_ts")),
        "of the roofline": _of_the_roofline,
        "memory": lambda row: _size(number(row, "peak_rss")),
    }
    note = "Random weights in the model's own geometry: speed and memory are real, what it writes is noise."
    contexts = list(dict.fromkeys(context for row in measured for context in row.get("memory") or {}))
    for context in contexts:
        columns[f"at {context} tokens"] = lambda row, context=context: _size(number(row, "memory", context))  # type: ignore[misc]
    found = [_table("Before the download", columns, told, where, note) for where, told in by_place(measured).items()]
    for where, told in by_place(row for row in measured if row.get("fits")).items():
        found += [_fits_table(row, where) for row in {model_of(row): row for row in told}.values()]
    return found + _prediction_tables(rows)


def _fits_table(row: Row, where: Place) -> Table:
    fits = row["fits"]
    columns: dict[str, Callable[[str], str]] = {
        "level": plain,
        "longest context": lambda level: count(number(fits, level, "context")),
        "memory": lambda level: _size(number(fits, level, "bytes")),
    }
    return _table(f"{model_of(row)}: what fits here", columns, list(fits), where)


def _prediction_tables(rows: Sequence[Row]) -> list[Table]:
    predicted = [row for row in rows if row.get("prediction")]
    columns: dict[str, Callable[[Row], str]] = {
        "device": lambda row: plain(str(row.get("device", ""))),
        "model": lambda row: f"{model_of(row)} {level_of(row)}".strip(),
        "tokens/s, predicted": lambda row: f"≈ {significant(number(row, 'engine_ts'), 2)}",
        "GB/s": lambda row: significant(number(row, "read_gbps")),
        "efficiency": lambda row: percent(number(row, "efficiency"), places=0),
    }
    note = "Predicted, not measured: bandwidth × the efficiency measured here ÷ the bytes that a token reads."
    return [_table("Predictions", columns, told, f"predicted on {where}", note) for where, told in by_place(predicted).items()]  # fmt: skip


def _grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def files_table(rows: Sequence[Row]) -> list[Table]:
    """List the files that were measured, with their hashes."""
    models = {file_of(row): row["model"] for row in rows if isinstance(row.get("model"), Mapping)}
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "file": lambda model: plain(str(model.get("file", ""))),
        "size": lambda model: _size(number(model, "bytes")),
        "parameters": lambda model: f"{(number(model, 'parameters') or 0) / 1e6:.1f} M",
        "SHA-256": lambda model: plain(str(model.get("sha256", ""))),
    }
    return [_table("Files", columns, list(models.values()), "")] if models else []
