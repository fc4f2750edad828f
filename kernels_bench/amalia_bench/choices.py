"""The files one may choose among: what records say of each level of a model, its size, its loss and its speed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from amalia_bench.figures import interval, number
from amalia_bench.place import machine, place
from amalia_edge.console import plain

Row = Mapping[str, Any]
HOME, ABROAD = "pt-PT", "en"  # the text that counts, and the one it is held against


@dataclass
class Choice:
    """One file: a model at a level, and the latest that was measured of it."""

    model: str
    level: str
    file: str
    nbytes: int
    parameters: int
    synthetic: bool = False  # random weights of a shape: speed and memory are real, words are not
    quality: dict[str, Row] = field(default_factory=dict)  # by text
    writing: Row | None = None  # the speed of generation
    reading: Row | None = None  # the speed of the prompt
    energy: Row | None = None

    def loss(self, text: str = HOME) -> float | None:
        return number(self.quality.get(text, {}), "mean_kld")

    def loss_between(self, text: str = HOME) -> tuple[float, float] | None:
        return interval(self.quality.get(text, {}), "kld_ci95")

    @property
    def speed(self) -> float | None:
        """Give the tokens written in a second: by the engine that people use, else by decode alone."""
        row = self.writing or {}
        return number(row, "engine_ts") or number(row, "avg_ts")

    @property
    def speed_spread(self) -> float | None:
        row = self.writing or {}
        return number(row, "engine_stddev_ts" if number(row, "engine_ts") else "stddev_ts")


def choices(rows: Iterable[Row], on: str | None = None) -> list[Choice]:
    """Gather each file's figures, models in their order, each one's largest file first; speeds of machine `on` only.

    Of a model and a text all losses are measured in one way, the one of most files: they stand in one column.
    """
    found: dict[tuple[str, str, int], Choice] = {}
    models: dict[str, int] = {}
    rows = list(rows)
    ways = _ways(rows)
    for row in rows:
        if row.get("prediction") or row["kind"] not in ("speed", "shape", "quality", "energy"):
            continue
        model, level, size = model_of(row), level_of(row), size_of(row)
        models.setdefault(model, len(models))
        key = (model, level, size)
        one = found.setdefault(key, Choice(model, level, file_of(row), size, _parameters_of(row), is_synthetic(row)))
        if row["kind"] == "quality":
            if _way(row) == ways[_column(row)]:
                one.quality[str(row.get("text"))] = row
        elif on is not None and machine(row) != on:
            continue
        elif row["kind"] == "energy":
            one.energy = row if _is_of_writing(row) else one.energy
        elif number(row, "n_depth"):
            continue  # behind a full context all are slower
        elif number(row, "n_gen") and not number(row, "n_prompt"):
            one.writing = _faster(one.writing, row)
        elif number(row, "n_prompt") and not number(row, "n_gen"):
            one.reading = _faster(one.reading, row)
    return sorted(found.values(), key=lambda one: (models[one.model], -one.nbytes))


def _ways(rows: Iterable[Row]) -> dict[tuple[str, str], tuple[object, ...]]:
    """Choose for each column the way most files were measured in; of equals the whole text, then the later."""
    files: dict[tuple[str, str], dict[tuple[object, ...], set[tuple[str, int]]]] = {}
    for row in rows:
        if row["kind"] == "quality":
            column = files.setdefault(_column(row), {})
            column[_way(row)] = column.pop(_way(row), set()) | {(level_of(row), size_of(row))}  # the latest last
    return {
        name: max(reversed(column), key=lambda way, column=column: (len(column[way]), not way[-1]))  # type: ignore[misc]
        for name, column in files.items()
    }


def _column(row: Row) -> tuple[str, str]:
    return model_of(row), str(row.get("text"))


def _way(row: Row) -> tuple[object, ...]:
    """Say how a loss was measured; two of which this is not equal cannot be compared."""
    return _base_of(row), row.get("text_sha256"), row.get("context"), bool(row.get("quick"))


def _base_of(row: Row) -> object:
    base = row.get("base")
    told = base.get("sha256") or base.get("logits_file") if isinstance(base, Mapping) else None
    return told or row.get("against")


def _is_of_writing(row: Row) -> bool:
    """Say whether energy was measured while answers were written, to the end, and told by its source."""
    written = str(row.get("test", "")).startswith("tg") and row.get("whole", True)
    return bool(written) and number(row, "joules_per_token") is not None


def _faster(known: Row | None, row: Row) -> Row:
    """Keep the settings with which a machine is fastest."""
    return row if known is None or (number(row, "avg_ts") or 0) >= (number(known, "avg_ts") or 0) else known


def latest(rows: Iterable[Row]) -> list[Row]:
    """Leave out what was measured again later, at the same place with the same settings."""
    kept: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = _what(row)
        if row.get("whole", True) or key not in kept:  # what was broken off does not stand for what is whole
            kept.pop(key, None)
            kept[key] = row
    return list(kept.values())


def _what(row: Row) -> tuple[Any, ...]:
    """Say what a row is a measurement of; two rows of which this is equal measured the same thing."""
    model = row.get("model") if isinstance(row.get("model"), Mapping) else {}
    assert isinstance(model, Mapping)
    names = ("test", "n_threads", "n_batch", "n_ubatch", "type_k", "type_v", "n_gpu_layers", "gpu_layers", "flash_attn", "large_pages", "n_prompt", "n_gen", "n_depth",
             "text", "text_sha256", "context", "quick", "file", "file_sha256", "prompt", "pairs_sha256", "source", "device",
             "buffer", "type", "operation", "rows", "columns", "batch", "threads", "shape", "level", "prediction")  # fmt: skip
    told = tuple(str(row.get(name)) for name in names)
    return (row["kind"], place(row), model.get("sha256") or file_of(row), level_of(row), _base_of(row), told)


def model_of(row: Row) -> str:
    """Name the model a row belongs to, whatever its level."""
    model = row.get("model")
    told = model.get("name") if isinstance(model, Mapping) else None
    return plain(str(row.get("shape") or told or row.get("model_name") or row.get("model_type") or "model not named"))


def level_of(row: Row) -> str:
    model = row.get("model")
    told = model.get("level") if isinstance(model, Mapping) else None
    return plain(str(row.get("level") or told or row.get("model_level") or ""))


def file_of(row: Row) -> str:
    model = row.get("model")
    told = model.get("file") if isinstance(model, Mapping) else None
    return plain(str(told or str(row.get("model_filename", "")).rpartition("/")[2]))


def is_synthetic(row: Row) -> bool:
    return bool(row.get("synthetic"))


def is_fadinho(row: Row) -> bool:
    return model_of(row).lower().startswith("fadinho")


def size_of(row: Row) -> int:
    model = row.get("model")
    told = number(model, "bytes") if isinstance(model, Mapping) else None
    return int(told or number(row, "model_size") or 0)


def _parameters_of(row: Row) -> int:
    model = row.get("model")
    told = number(model, "parameters") if isinstance(model, Mapping) else None
    return int(told or number(row, "model_n_params") or 0)


def frontier(found: Iterable[Choice], text: str = HOME) -> list[Choice]:
    """Give the choices of which no other is both as small and better, the smallest first."""
    ordered = sorted((one for one in found if one.loss(text) is not None), key=lambda one: (one.nbytes, one.loss(text)))
    kept: list[Choice] = []
    for one in ordered:
        if not kept or (one.loss(text) or 0.0) < (kept[-1].loss(text) or 0.0):
            kept.append(one)
    return kept
