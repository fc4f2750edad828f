"""A GGUF repository's model card: what it is, which file to choose and why, how to run it, where its figures come from."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amalia_bench.choices import ABROAD, HOME, Choice, choices, frontier, is_fadinho, latest, model_of
from amalia_bench.figures import bracketed, change, interval, number, percent, rate, significant
from amalia_bench.pictures import most_measured
from amalia_bench.place import place
from amalia_bench.report import FADINHO, markdown_table
from amalia_bench.tables import Table
from amalia_edge.console import megabytes
from amalia_edge.errors import BenchError
from amalia_edge.gguf import Header

Row = Mapping[str, Any]
# Mean KLD below which a file is described so; the thresholds stand in the card
NEAR, SMALL, FELT = 0.005, 0.05, 0.15
WORDS = (
    (NEAR, "hard to tell from the full model"),
    (SMALL, "a small loss"),
    (FELT, "a loss that is felt: where memory allows no more"),
    (float("inf"), "a heavy loss: last resort"),
)


@dataclass(frozen=True)
class Provenance:
    """What a card says that no measurement tells."""

    license: str = ""
    base_model: str = ""  # on the Hub: user/name
    repository: str = ""  # of these files
    importance: str = ""  # the text the levels were made with
    base_unquantized: str = ""


def of_header(header: Header) -> Provenance:
    """Read what a file says of itself."""
    told = {
        key: str(header.metadata.get(key, ""))
        for key in (
            "general.license",
            "general.base_model.0.repo_url",
            "general.source.repo_url",
            "quantize.imatrix.dataset",
        )
    }
    address = told["general.base_model.0.repo_url"] or told["general.source.repo_url"]
    return Provenance(
        told["general.license"],
        address.removeprefix("https://huggingface.co/"),
        importance=told["quantize.imatrix.dataset"],
    )


def missing(provenance: Provenance) -> list[str]:
    """Name the options that would fill what the card leaves open."""
    options = {
        "--license": provenance.license,
        "--base-model": provenance.base_model,
        "--repository": provenance.repository,
    }
    return [name for name, told in options.items() if not told]


def model_card(rows: Sequence[Row], provenance: Provenance, model: str | None = None) -> str:
    """Write the card of a model's files from what was measured of them."""
    rows = latest(rows)
    here = most_measured([row for row in rows if row["kind"] == "speed"])
    files = [one for one in choices(rows, here) if not one.synthetic and one.file]
    names = list(dict.fromkeys(one.model for one in files))
    if model is None and len(names) > 1:
        raise BenchError("card", f"records of {len(names)} models", f"name one with --model: {', '.join(names[:5])}")
    files = [one for one in files if one.model == (model or names[0])] if names else []
    if not files:
        raise BenchError(
            "card",
            f"no file of {model} was measured" if model else "no file was measured",
            "amalia bench quality BASE LEVEL… --records FILE",
        )
    mine = [row for row in rows if model_of(row) == files[0].model]
    parts = [
        _front(files, provenance),
        f"# {files[0].model}, quantized\n",
        *[f"> {FADINHO}\n"] * any(map(is_fadinho, mine)),
        "## Which file should I choose?\n",
        markdown_table(_table(files, here)) + "\n",
        _reading(files),
        _running(files, provenance),
        _origin(files, mine, provenance),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _front(files: Sequence[Choice], provenance: Provenance) -> str:
    """Write the card's YAML; a JSON string is a YAML one."""
    lines = ["---", "language:", "- pt"]
    lines += [f"license: {json.dumps(provenance.license, ensure_ascii=False)}"] * bool(provenance.license)
    if provenance.base_model:
        lines += [
            f"base_model: {json.dumps(provenance.base_model, ensure_ascii=False)}",
            "base_model_relation: quantized",
        ]
    lines += [
        "pipeline_tag: text-generation",
        "tags:",
        "- gguf",
        "- llama.cpp",
        "- amalia-edge",
        "- pt-PT",
        "- quantized",
    ]
    return "\n".join([*lines, "---", ""])


def recommended(files: Sequence[Choice]) -> Choice | None:
    """Name the smallest file whose loss is small and that no other beats in both."""
    return next((one for one in frontier(files) if (one.loss() or 0.0) <= SMALL), None)


def _advice(one: Choice, files: Sequence[Choice]) -> str:
    loss = one.loss()
    if loss is None:
        return "not measured"
    if one == recommended(files):
        return "start here: the smallest file with a small loss"
    better = [other for other in frontier(files) if other.nbytes <= one.nbytes and (other.loss() or 0) < loss]
    if better:
        return f"{better[-1].level} is no larger and loses less"
    return next(words for limit, words in WORDS if loss <= limit)


def _table(files: Sequence[Choice], here: str | None) -> Table:
    spoken = any(one.speed for one in files)
    against = _against(_said(files))
    lines = []
    for one in files:
        cells = [one.file, megabytes(one.nbytes), bracketed(one.loss(), one.loss_between())]
        cells += [
            percent(number(one.quality.get(HOME, {}), "same_top")),
            _perplexity(one, HOME),
            _perplexity(one, ABROAD),
        ]
        lines.append((*cells, *[rate(one.speed, one.speed_spread)] * spoken, _advice(one, files)))
    headings = (
        "file",
        "size",
        "KLD [95 %]",
        "same top token",
        "perplexity, Portuguese",
        "perplexity, English",
        *["tokens/s"] * spoken,
        "advice",
    )
    note = f"Loss is measured against {against}; speed on {here}." if spoken else f"Loss is measured against {against}."
    return Table("", headings, tuple(lines), "", note)


def _perplexity(one: Choice, text: str) -> str:
    row = one.quality.get(text, {})
    ratio, between = number(row, "ppl_ratio"), interval(row, "ppl_ratio_ci95")
    return change(None if ratio is None else ratio - 1, (between[0] - 1, between[1] - 1) if between else None)


def _said(files: Sequence[Choice]) -> list[Row]:
    """Give the rows whose losses stand in the card."""
    return [row for one in files for row in one.quality.values()]


def _against(rows: Sequence[Row]) -> str:
    found = list(dict.fromkeys(str(row.get("against")) for row in rows if row.get("against")))
    return " and ".join(found) or "nothing yet"


def _reading(files: Sequence[Choice]) -> str:
    best = recommended(files)
    start = f"Start with **{best.file}**. " if best else ""
    quick = (
        " Some of it was measured on part of the text (`--quick`)."
        if any(row.get("quick") for row in _said(files))
        else ""
    )
    return (
        f"{start}KLD is the mean Kullback-Leibler divergence from the full model on European Portuguese, in nats per token: "
        f"up to {NEAR} a file is hard to tell from it, up to {SMALL} the loss is small, above {FELT} it is heavy. "
        f"“Same top token” is how often both would write the same. Intervals are 95 %.{quick}\n"
    )


def _running(files: Sequence[Choice], provenance: Provenance) -> str:
    """Say how the file to start with is run: by llama.cpp, and by amalia-edge, of which there is a checkout only."""
    one = recommended(files) or files[-1]
    file, repository = shlex.quote(one.file), provenance.repository
    name = shlex.quote(f"{repository}:{one.level or one.file}") if repository else file
    question = '"Explica o que é a maré."'
    commands = [
        f"amalia pull {name}" if repository else "",
        f"amalia doctor {name}   # whether it fits this machine",
        f"amalia run {name} {question}",
    ]
    theirs = f"llama-cli -hf {name}" if repository and one.level else f"llama-cli -m {file}"
    return (
        "## Run it\n\nThe files are ordinary GGUF: llama.cpp and what is built on it reads them.\n\n"
        f"```\n{theirs} -p {question}\n```\n\n"
        "So does amalia-edge; in its checkout `make setup` builds it for your machine and puts `amalia` into `.venv/bin`:\n\n"
        "```\n" + "\n".join(filter(None, commands)) + "\n```\n"
    )


def _origin(files: Sequence[Choice], rows: Sequence[Row], provenance: Provenance) -> str:
    """Say which files these are, what they were made from, and where they were measured."""
    lines = ["## Where this comes from", ""]
    lines += [f"- Made from `{_code(provenance.base_model)}`."] * bool(provenance.base_model)
    lines += [f"- Importance data from `{_code(provenance.importance)}`."] * bool(provenance.importance)
    texts = dict.fromkeys(f"{row.get('text')} (`{str(row.get('text_sha256'))[:12]}`, context {row.get('context')}, {row.get('tokens')} tokens)" for row in _said(files) if "/" not in str(row.get("text")))  # fmt: skip
    lines += [f"- Texts: {', '.join(texts)}."] * bool(texts)
    for where in dict.fromkeys(map(place, rows)):
        kinds = ", ".join(dict.fromkeys(row["kind"] for row in rows if place(row) == where))
        lines.append(
            f"- {kinds.capitalize()} measured on {where}." + f" Compiled in: {where.features}." * bool(where.features)
        )
    versions = ", ".join(dict.fromkeys(str(row.get("amalia_version")) for row in rows))
    lines += [f"- Figures: amalia bench {versions}; every one can be measured again with `amalia bench all`.", ""]
    hashes = {row["model"]["file"]: row["model"]["sha256"] for row in rows if isinstance(row.get("model"), Mapping) and row["model"].get("sha256")}  # fmt: skip
    table = Table(
        "", ("file", "SHA-256"), tuple((one.file, hashes[one.file]) for one in files if one.file in hashes), ""
    )
    return "\n".join(lines) + "\n" + (markdown_table(table) + "\n" if table.lines else "")


def _code(text: str) -> str:
    return text.replace("`", "'")


__all__ = ["Provenance", "missing", "model_card", "of_header", "recommended", "significant"]
