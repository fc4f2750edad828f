"""The second half of the recipe: what came out, measured on the finished checkpoint and written as its model card.

    python convert/fadinho/card.py FOLDER --valid novels-valid.txt

FOLDER is what train.py wrote. Two readers are compared: transformers in float32 on the safetensors, and libllama on the
bf16 GGUF that `amalia convert` makes of them. The card and its curve are written into FOLDER.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import transformers
from train import BOS, NOT_SCORED, read

from amalia_convert.conversion import ConvertConfig, convert
from amalia_edge import native
from amalia_edge.context import Context
from amalia_edge.engine import Piece
from amalia_edge.model import LoadConfig, Model
from amalia_edge.sampler import SamplingConfig

WINDOW, POSITIONS = 512, 500
OPENINGS = (
    "O comboio chegou à estação", "Naquela manhã de nevoeiro,", "A velha casa da quinta", "O museu abre as portas",
    "Disse-lhe o abade:", "Para fazer o caldo verde,", "O vento rodou para norte e", "A câmara municipal informa que",
    "O mar estava", "Quando a rapariga entrou na sala,",
)  # fmt: skip
QUESTIONS = (
    "Olá!", "Quem és tu?", "Precisas de Internet?", "O que é um azulejo?", "A que horas abre o museu?",
    "Onde ficam as casas de banho?", "Como peço um atestado de residência?", "Qual é a capital de Portugal?",
    "Quanto é sete vezes oito?", "Como peço socorro pelo rádio?",
)  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """How libllama and transformers agree on the likeliest next token."""

    positions: int
    same: int
    widest_margin: float  # between the two tokens they disagree on, in transformers' logits; 0 if they never do


@dataclass(frozen=True)
class Findings:
    training: dict[str, object]
    bits_bf16: float
    bits_f32: float
    agreement: Agreement
    continuations: list[tuple[str, str]]
    answers: list[tuple[str, str]]


@torch.no_grad()
def bits_per_character(folder: Path, text: str, dtype: torch.dtype) -> float:
    """Score a whole text with transformers, in windows of 512 tokens after BOS."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    ids = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode(text)
    total = 0.0
    for start in range(0, len(ids), WINDOW):
        wanted = torch.tensor([ids[start : start + WINDOW]])
        given = torch.cat((torch.full((1, 1), BOS), wanted[:, :-1]), 1)
        logits = model(given).logits[0].float()
        total += torch.nn.functional.cross_entropy(logits, wanted[0], ignore_index=NOT_SCORED, reduction="sum").item()
    return total / math.log(2) / len(text)


@torch.no_grad()
def compare(folder: Path, gguf: Path, text: str) -> Agreement:
    """Compare the likeliest token at each of 500 positions."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [BOS, *sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode(text)]
    ids = ids[:POSITIONS]
    theirs = model(torch.tensor([ids])).logits[0].numpy()
    with Model.open(gguf, LoadConfig(context=POSITIONS)) as opened:
        ours = np.stack(list(_logits(opened, ids)))
    best, chosen = theirs.argmax(1), ours.argmax(1)
    rows = np.arange(len(ids))
    margins = (theirs[rows, best] - theirs[rows, chosen])[best != chosen]
    return Agreement(len(ids), int((best == chosen).sum()), float(margins.max(initial=0.0)))


def _logits(model: Model, ids: list[int]) -> Iterator[np.ndarray]:
    context = Context(model.pointer, len(ids), model.threads, model.config)
    for place, token in enumerate(ids):
        context.decode([token], place)
        row = native.library().llama_get_logits_ith(context.pointer, -1)
        yield np.ctypeslib.as_array(row, (model.vocabulary.size,)).copy()
    context.close()


def _joined(pieces: Iterator[Piece]) -> str:
    return "".join(piece.text for piece in pieces).strip()


def look(folder: Path, valid: str) -> Findings:
    with tempfile.TemporaryDirectory() as scratch:
        (receipt,) = convert(ConvertConfig(str(folder), ("BF16",), Path(scratch)))
        gguf = Path(scratch) / receipt.output
        with Model.open(gguf) as model:
            assert model.header.is_ours, f"{folder}: the name must begin with fadinho, or the system prompt is not put"
            mild = SamplingConfig(temperature=0.7, top_k=40, seed=1974, limit=48)
            greedy = SamplingConfig(temperature=0, limit=96)
            continuations = [(start, _joined(model.complete(model.prompt(start), mild))) for start in OPENINGS]
            answers = [(ask, _joined(model.chat([{"role": "user", "content": ask}], greedy))) for ask in QUESTIONS]
        agreement = compare(folder, gguf, valid)
    training = json.loads((folder / "training.json").read_text("utf-8"))
    bits = [bits_per_character(folder, valid, dtype) for dtype in (torch.bfloat16, torch.float32)]
    return Findings(training, bits[0], bits[1], agreement, continuations, answers)


def card(found: Findings) -> str:
    """Write the model card: what it is, where it comes from, how it was trained, what it does."""
    training = found.training
    curve, tokens = training["curve"], training["tokens"]
    recipe, shape = training["recipe"], training["shape"]
    seen = recipe["steps"] * recipe["batch"] * recipe["window"]
    minutes = curve[-1]["seconds"] / 60
    rows = "\n".join(f"| {p['step']} | {p['loss']:.3f} | {p['valid_bits_per_character']:.3f} |" for p in curve)
    quoted = "\n".join(f"- **{start}** {' '.join(text.split())}" for start, text in found.continuations)
    talk = "\n".join(f"- *{ask}* — {' '.join(text.split())}" for ask, text in found.answers)
    agreement = found.agreement
    return f"""---
language:
- pt
license: apache-2.0
pipeline_tag: text-generation
tags:
- pt-PT
- llama
---

# fadinho

A language model of {training["parameters"]:,} parameters in European Portuguese, made for amalia-edge so that its whole line, from
safetensors to tokens, runs and is tested without a download. It proves that the line works. **It is a toy**: it knows
a few dozen questions of a museum, a desk and a school by heart, and makes up the rest. It is not AMÁLIA and has nothing to do with its makers.

LlamaForCausalLM: {shape["layers"]} layers, {shape["hidden"]} wide, {shape["heads"]} heads ({shape["kv_heads"]} for keys and values), feed-forward {shape["feed_forward"]},
{shape["vocabulary"]} SentencePiece tokens with byte fallback, untied output, RoPE θ {shape["rope_theta"]:.0e}, context {shape["context"]} (trained on windows of {recipe["window"]}), bf16. ChatML; the first five ids are AMÁLIA's.

## Where it comes from

- 16 novels of the Portuguese Novel Collection (ELTeC-por, edited by Diana Santos, 2.0.0, DOI 10.5281/zenodo.4288235), in the public domain: {tokens["novels"]:,} tokens. Their text is not part of this project.
- Modern European Portuguese written for this project (`convert/fadinho/texts`): {tokens["prose"]:,} tokens.
- Dialogues written for this project (`convert/fadinho/dialogues`): {tokens["dialogues"]:,}, counting each wording of a question, with and without the system prompt.

## Training

`convert/fadinho/train.py`: {recipe["steps"]} steps of {recipe["batch"]} × {recipe["window"]} tokens ({seen / 1e6:.1f} M in all), seed {recipe["seed"]}, Muon for the matrices and AdamW for
the rest, dropout {recipe["dropout"]}; {minutes:.0f} minutes on {training["device"]} ({training["threads"]} threads, torch {training["torch"]}), on a machine that did other work beside it.

![bits per character by step](training.svg)

| step | training loss (nats a token, with dropout) | bits per character, two novels held out |
|---:|---:|---:|
{rows}

## Figures

Measured by `convert/fadinho/card.py` on the finished checkpoint.

- **{found.bits_bf16:.4f} bits per character** on the two novels held out (*A Confissão de Lúcio*, *O Brasileiro Soares*), computed in bf16; {found.bits_f32:.4f} in float32. All characters count, newlines
  included; windows of {WINDOW} tokens after BOS.
- libllama on the bf16 GGUF and transformers in float32 name the same likeliest token at {agreement.same} of {agreement.positions} positions; where they differ, transformers' two logits lie within {agreement.widest_margin:.4f}.

Ten continuations (temperature 0.7, seed 1974, 48 tokens, none chosen):

{quoted}

Ten answers (greedy, with the default system prompt):

{talk}
"""


def curve_svg(curve: list[dict[str, float]]) -> str:
    """Draw bits per character by step."""
    width, height, left, bottom = 640, 240, 48, 28
    steps = [point["step"] for point in curve]
    bits = [point["valid_bits_per_character"] for point in curve]
    low, high = math.floor(min(bits) * 20) / 20, math.ceil(max(bits) * 20) / 20

    def x(step: float) -> float:
        return left + (width - left - 10) * step / steps[-1]

    def y(value: float) -> float:
        return 10 + (height - bottom - 10) * (high - value) / (high - low)

    ticks = [low + (high - low) * part / 4 for part in range(5)]
    grid = "".join(
        f'<path d="M{left} {y(t):.1f}H{width - 10}" stroke="#ccc"/><text x="4" y="{y(t) + 4:.1f}">{t:.2f}</text>'
        for t in ticks
    )
    points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in zip(steps, bits, strict=True))
    labels = (
        f'<text x="{left}" y="{height - 8}">0</text><text x="{width - 90}" y="{height - 8}">{steps[-1]} steps</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
        f'<rect width="{width}" height="{height}" fill="#fff"/>{grid}{labels}'
        f'<polyline points="{points}" fill="none" stroke="#06c" stroke-width="2"/></svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="write fadinho's model card")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--valid", type=Path, required=True)
    options = parser.parse_args()
    found = look(options.folder, read(options.valid))
    (options.folder / "README.md").write_text(card(found), "utf-8")
    (options.folder / "training.svg").write_text(curve_svg(found.training["curve"]), "utf-8")
    print(f"{found.bits_bf16:.4f} bits per character in bf16, {found.bits_f32:.4f} in float32; {found.agreement}")


if __name__ == "__main__":
    main()
