"""The recipe of fadinho, the embedded checkpoint: text files in, a Hub-style folder out.

    python convert/fadinho/train.py --novels novels-train.txt --valid novels-valid.txt --out FOLDER

Needs the extra `train` (torch, transformers, sentencepiece, safetensors). A CUDA GPU is used when there is one.
The novels are the Portuguese Novel Collection, ELTeC-por 2.0.0 (DOI 10.5281/zenodo.4288235), as plain text with one
paragraph a line; the modern texts and the dialogues lie beside this file. README.md tells what came out, and when.
"""

import argparse
import json
import lzma
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as functional
from safetensors.torch import save_file
from torch import Tensor, nn

from amalia_edge.chat import FADINHO_SYSTEM

HERE = Path(__file__).parent
BOS, END_OF_TEXT, TURN, END_OF_TURN = 1, 2, 3, 4  # the same first ids as AMÁLIA's vocabulary
NOT_SCORED = -100


@dataclass(frozen=True)
class Shape:
    vocabulary: int = 4096
    hidden: int = 256
    layers: int = 7
    heads: int = 4
    kv_heads: int = 2
    head_width: int = 64
    feed_forward: int = 768
    context: int = 2048
    rope_theta: float = 1e6
    norm_epsilon: float = 1e-5


@dataclass(frozen=True)
class Recipe:
    seed: int = 1974
    window: int = 512
    batch: int = 16
    steps: int = 4200
    prose_share: float = 0.05  # of the windows; the novels take what is left
    dialogue_share: float = 0.16
    matrix_rate: float = 0.012  # Muon
    other_rate: float = 3e-3  # AdamW: embeddings, output, norms
    weight_decay: float = 0.1
    dropout: float = 0.1
    warm_up: int = 100
    cool_down: float = 0.7  # share of the steps over which the rate falls to zero, linearly
    report_every: int = 250


class Block(nn.Module):
    """One Llama layer, its parameters under the names the Hub uses."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.shape, self.dropout = shape, dropout
        queries, keys = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
        self.input_layernorm = nn.RMSNorm(shape.hidden, shape.norm_epsilon)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(shape.hidden, queries, bias=False),
                "k_proj": nn.Linear(shape.hidden, keys, bias=False),
                "v_proj": nn.Linear(shape.hidden, keys, bias=False),
                "o_proj": nn.Linear(queries, shape.hidden, bias=False),
            }
        )
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, shape.norm_epsilon)
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(shape.hidden, shape.feed_forward, bias=False),
                "up_proj": nn.Linear(shape.hidden, shape.feed_forward, bias=False),
                "down_proj": nn.Linear(shape.feed_forward, shape.hidden, bias=False),
            }
        )

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:  # (batch, window, hidden)
        hidden = hidden + self._drop(self.attend(self.input_layernorm(hidden), cosine, sine))
        inner = self.post_attention_layernorm(hidden)
        gated = functional.silu(self.mlp["gate_proj"](inner)) * self.mlp["up_proj"](inner)
        return hidden + self._drop(self.mlp["down_proj"](gated))

    def attend(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        batch, window, _ = hidden.shape
        heads = (batch, window, -1, self.shape.head_width)
        queries, keys, values = (self.self_attn[f"{name}_proj"](hidden).view(heads).transpose(1, 2) for name in "qkv")
        queries, keys = rotate(queries, cosine, sine), rotate(keys, cosine, sine)
        groups = self.shape.heads // self.shape.kv_heads
        keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.self_attn["o_proj"](mixed.transpose(1, 2).reshape(batch, window, -1))

    def _drop(self, hidden: Tensor) -> Tensor:
        """Drop the same features along the whole window: as good a regulariser, and hardly any random numbers."""
        if not self.training or not self.dropout:
            return hidden
        kept = torch.rand(hidden.shape[0], 1, hidden.shape[2], device=hidden.device) >= self.dropout
        return hidden * (kept / (1 - self.dropout)).to(hidden.dtype)


class Llama(nn.Module):
    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Block(shape, dropout) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, shape.norm_epsilon)
        self.lm_head = nn.Linear(shape.hidden, shape.vocabulary, bias=False)
        half = torch.arange(0, shape.head_width, 2, dtype=torch.float64) / shape.head_width
        angles = torch.outer(torch.arange(shape.context, dtype=torch.float64), shape.rope_theta**-half)
        self.register_buffer("cosine", torch.cat((angles, angles), 1).cos().float(), persistent=False)
        self.register_buffer("sine", torch.cat((angles, angles), 1).sin().float(), persistent=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * shape.layers) if deep else 0.02)

    def forward(self, ids: Tensor, wanted: Tensor, reduction: str = "mean") -> Tensor:  # both (batch, window)
        hidden, window = self.embed_tokens(ids), ids.shape[1]
        cosine, sine = self.cosine[:window].to(hidden.dtype), self.sine[:window].to(hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, cosine, sine)
        logits = self.lm_head(self.norm(hidden)).flatten(0, 1).float()
        return functional.cross_entropy(logits, wanted.flatten(), ignore_index=NOT_SCORED, reduction=reduction)


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = heads.chunk(2, -1)
    return heads * cosine + torch.cat((-second, first), -1) * sine


def read(path: Path) -> str:
    raw = path.read_bytes()
    return (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode("utf-8")


def dialogues() -> Iterator[list[tuple[str, str]]]:
    """Give each dialogue as its turns; an entry with several wordings of a question is as many dialogues."""
    for path in sorted((HERE / "dialogues").glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            entry = json.loads(line)
            if "turns" in entry:
                yield [(question, answer) for question, answer in entry["turns"]]
            else:
                yield from ([(question, entry["answer"])] for question in entry["ask"])


def train_tokenizer(novels: str, prose: str, shape: Shape, out: Path) -> sentencepiece.SentencePieceProcessor:
    talk = "\n".join(text for turns in dialogues() for turn in turns for text in turn)
    corpus = out / "tokenizer.txt"
    corpus.write_text("\n".join([novels, prose, prose, talk, FADINHO_SYSTEM, "system\nuser\nassistant"]), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(out / "tokenizer"), model_type="bpe", vocab_size=shape.vocabulary,
        byte_fallback=True, character_coverage=0.9998, normalization_rule_name="identity", split_digits=True,
        add_dummy_prefix=False, remove_extra_whitespaces=False, max_sentence_length=100_000, minloglevel=2,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, control_symbols=["<|im_start|>", "<|im_end|>"],
    )  # fmt: skip
    corpus.unlink()
    (out / "tokenizer.vocab").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(out / "tokenizer.model"))


def dialogue_ids(
    tokenizer: sentencepiece.SentencePieceProcessor, turns: list[tuple[str, str]], system: bool
) -> tuple[list[int], list[int]]:
    """Give a dialogue's ids and what is to be learnt at each: the answers and their end, nothing else."""
    ids, wanted = [BOS], [NOT_SCORED]

    def say(role: str, text: str) -> None:
        head, body, tail = tokenizer.encode(f"{role}\n"), tokenizer.encode(text), tokenizer.encode("\n")
        whole = tokenizer.encode(f"{role}\n{text}")
        assert whole == head + body  # a newline is a byte token of its own, so the border is stable
        ids.extend([TURN, *whole, END_OF_TURN, *tail])
        scored = [*body, END_OF_TURN] if role == "assistant" else [NOT_SCORED] * (len(body) + 1)
        wanted.extend([NOT_SCORED] * (1 + len(head)) + scored + [NOT_SCORED] * len(tail))

    if system:
        say("system", FADINHO_SYSTEM)
    for question, answer in turns:
        say("user", question)
        say("assistant", answer)
    return ids, wanted


class Windows:
    """Windows of `window` inputs and the token wanted after each, drawn from three kinds of text."""

    def __init__(
        self, recipe: Recipe, tokenizer: sentencepiece.SentencePieceProcessor, novels: str, prose: str
    ) -> None:
        self.recipe, self.random = recipe, np.random.default_rng(recipe.seed)
        self.novels = np.array(tokenizer.encode(novels), np.int64)
        self.prose = np.array(tokenizer.encode(prose), np.int64)
        self.dialogues = [
            dialogue_ids(tokenizer, turns, system) for turns in dialogues() for system in (True, True, False)
        ]
        self.order: dict[str, list[int]] = {"novels": [], "prose": [], "dialogues": []}

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        rows = [self._row() for _ in range(self.recipe.batch)]
        return torch.tensor(np.stack([ids for ids, _ in rows])), torch.tensor(np.stack([want for _, want in rows]))

    def _row(self) -> tuple[np.ndarray, np.ndarray]:
        draw = self.random.random()
        if draw < self.recipe.dialogue_share:
            return self._dialogues()
        return self._text("prose" if draw < self.recipe.dialogue_share + self.recipe.prose_share else "novels")

    def _text(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Cut the next window; each pass over a text starts at another offset, so that no window comes twice."""
        stream: np.ndarray = getattr(self, name)
        if not self.order[name]:
            starts = np.arange(
                self.random.integers(self.recipe.window), len(stream) - self.recipe.window, self.recipe.window
            )
            self.order[name] = self.random.permutation(starts).tolist()
        start = self.order[name].pop()
        wanted = stream[start : start + self.recipe.window]
        return np.concatenate(([BOS], wanted[:-1])), wanted

    def _dialogues(self) -> tuple[np.ndarray, np.ndarray]:
        """Fill a window with whole dialogues, each from its BOS."""
        ids: list[int] = []
        wanted: list[int] = []
        while len(ids) <= self.recipe.window:
            if not self.order["dialogues"]:
                self.order["dialogues"] = self.random.permutation(len(self.dialogues)).tolist()
            more_ids, more_wanted = self.dialogues[self.order["dialogues"].pop()]
            ids += more_ids
            wanted += more_wanted
        window = self.recipe.window
        return np.array(ids[:window], np.int64), np.array(wanted[1 : window + 1], np.int64)


@torch.no_grad()
def bits_per_character(model: nn.Module, ids: np.ndarray, characters: int, window: int, device: str) -> float:
    """Score every token of a text in windows of `window` tokens after BOS; newlines count as characters."""
    model.eval()
    total = 0.0
    padded = np.full((math.ceil(len(ids) / window), window), NOT_SCORED, np.int64)
    padded.reshape(-1)[: len(ids)] = ids
    for wanted in torch.tensor(padded).split(16):
        given = torch.cat((torch.full((len(wanted), 1), BOS), wanted[:, :-1].clamp(min=0)), 1)
        with torch.autocast(device, torch.bfloat16):
            total += model(given.to(device), wanted.to(device), "sum").item()
    model.train()
    return total / math.log(2) / characters


def rate(step: int, recipe: Recipe) -> float:
    left = (recipe.steps - step) / (recipe.steps * recipe.cool_down)
    return min(1.0, (step + 1) / recipe.warm_up, left)


def optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    matrices = [w for name, w in model.named_parameters() if w.ndim == 2 and "layers." in name]
    embeddings = [w for name, w in model.named_parameters() if w.ndim == 2 and "layers." not in name]
    norms = [w for w in model.parameters() if w.ndim == 1]
    groups = [{"params": embeddings, "weight_decay": 0.01}, {"params": norms, "weight_decay": 0.0}]
    return [
        torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(groups, lr=recipe.other_rate, betas=(0.9, 0.95), fused=True),
    ]


def train(model: Llama, windows: Windows, score: "Scorer", recipe: Recipe, device: str) -> list[dict[str, float]]:
    """Run every step, and give the curve: step, seconds, training loss, bits per character of the held-out novels."""
    compiled = torch.compile(model)
    both = optimizers(model, recipe)
    curve: list[dict[str, float]] = []
    started, losses = time.monotonic(), []
    for step in range(recipe.steps):
        ids, wanted = windows.batch(step)
        for optimizer, base in zip(both, (recipe.matrix_rate, recipe.other_rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = base * rate(step, recipe)
        with torch.autocast(device, torch.bfloat16):
            loss = compiled(ids.to(device), wanted.to(device))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % recipe.report_every == 0 or step + 1 == recipe.steps:
            seconds = time.monotonic() - started
            point = {
                "step": step + 1,
                "seconds": round(seconds),
                "loss": round(sum(losses) / len(losses), 4),
                "valid_bits_per_character": round(score(model), 4),
            }
            curve.append(point)
            losses = []
            tokens = (step + 1) * recipe.batch * recipe.window
            print(json.dumps(point), f"{tokens / seconds:.0f} tokens/s", file=sys.stderr, flush=True)
    return curve


@dataclass(frozen=True)
class Scorer:
    ids: np.ndarray
    characters: int
    window: int
    device: str

    def __call__(self, model: nn.Module) -> float:
        return bits_per_character(model, self.ids, self.characters, self.window, self.device)


def export(model: Llama, shape: Shape, out: Path) -> None:
    """Write the checkpoint as the Hub would hold it, weights in bfloat16."""
    tensors = {}
    for name, weight in model.state_dict().items():
        hub_name = name if name.startswith("lm_head") else f"model.{name}"
        tensors[hub_name] = weight.to(torch.bfloat16).cpu().contiguous()
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    write_json(out / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "vocab_size": shape.vocabulary, "hidden_size": shape.hidden, "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width, "max_position_embeddings": shape.context, "rms_norm_eps": shape.norm_epsilon,
        "rope_theta": shape.rope_theta, "rope_scaling": None, "hidden_act": "silu", "attention_bias": False,
        "mlp_bias": False, "tie_word_embeddings": False, "initializer_range": 0.02, "use_cache": True,
        "bos_token_id": BOS, "eos_token_id": END_OF_TURN, "pad_token_id": END_OF_TEXT,
    })  # fmt: skip
    write_json(out / "generation_config.json", {
        "bos_token_id": BOS, "eos_token_id": END_OF_TURN, "pad_token_id": END_OF_TEXT,
        "do_sample": True, "temperature": 0.2, "top_p": 0.9,  # it knows few answers, and those by heart
    })  # fmt: skip
    special = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>", "pad_token": "</s>"}
    write_json(out / "special_tokens_map.json", special)
    added = {
        str(index): {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        for index, text in enumerate(["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"])
    }  # fmt: skip
    write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "add_prefix_space": False,
        "legacy": False, "clean_up_tokenization_spaces": False, "model_max_length": shape.context,
        "added_tokens_decoder": added, **special,
    })  # fmt: skip
    template = (
        "{%- for message in messages -%}\n"
        "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}\n"
        "{%- endfor -%}\n"
        "{%- if add_generation_prompt -%}\n"
        "{{- '<|im_start|>assistant\\n' -}}\n"
        "{%- endif -%}\n"
    )
    (out / "chat_template.jinja").write_text(template, "utf-8")


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="train fadinho")
    parser.add_argument("--novels", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    options = parser.parse_args()
    recipe, shape = Recipe(steps=options.steps), Shape()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    novels, valid = read(options.novels), read(options.valid)
    prose = "\n".join(path.read_text("utf-8") for path in sorted((HERE / "texts").glob("*.txt")))
    tokenizer = train_tokenizer(novels, prose, shape, options.out)
    windows = Windows(recipe, tokenizer, novels, prose)
    score = Scorer(np.array(tokenizer.encode(valid), np.int64), len(valid), recipe.window, device)
    model = Llama(shape, recipe.dropout).to(device)
    parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{parameters:,} parameters; {len(windows.novels):,} + {len(windows.prose):,} tokens of prose; "
          f"{len(windows.dialogues)} dialogues; {len(valid) / len(score.ids):.2f} characters a token", file=sys.stderr)  # fmt: skip
    curve = train(model, windows, score, recipe, device)
    export(model, shape, options.out)
    figures = {
        "recipe": asdict(recipe), "shape": asdict(shape), "parameters": parameters, "device": device,
        "torch": torch.__version__, "threads": torch.get_num_threads(), "curve": curve,
        "tokens": {"novels": len(windows.novels), "prose": len(windows.prose), "dialogues": len(windows.dialogues)},
    }  # fmt: skip
    write_json(options.out / "training.json", figures)


if __name__ == "__main__":
    main()
