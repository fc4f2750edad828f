"""How a byte-level tokenizer cuts text into words, recognised and named as libllama knows it.

llama.cpp's converter tells them apart by the ids of a test text, so that it knows only vocabularies it has met; the
cuts themselves are written in tokenizer.json, and what libllama does with a text depends on nothing else.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from amalia_convert.checkpoint import Json
from amalia_edge.errors import ModelUnsupported

DIGIT = r"\p{N}"
CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CAPITAL, SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
QWEN35 = QWEN2.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"[^\s\p{L}", r"[^\s\p{L}\p{M}")
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{CAPITAL}*{SMALL}+|[^\r\n\p{{L}}\p{{N}}]?{CAPITAL}+{SMALL}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NAMES = {  # the cuts, one after the other → tokenizer.ggml.pre
    (GPT2,): "gpt-2",
    (DIGIT, GPT2): "smollm",
    (QWEN2,): "qwen2",
    (QWEN35,): "qwen35",
    (LLAMA3,): "llama-bpe",
    (TEKKEN,): "tekken",
    (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", DIGIT): "deepseek-coder",
}
WHOLE_WORDS = ("llama-bpe", "tekken")  # a word that is a token is not merged: `ignore_merges`
BEGINNING = ("llama-bpe", "tekken")  # libllama begins a text with BOS unless the file says no


def name_pre_tokenizer(path: Path, tokenizer: Json, vocabulary: Collection[str], ignores_merges: bool) -> str:
    """Give the name under which libllama cuts as this tokenizer does."""
    cuts = tuple(_cuts(path, tokenizer.get("pre_tokenizer")))
    name = NAMES.get(cuts)
    if name is None:
        raise _unknown(path, f"a pre-tokenizer that cuts by {' then by '.join(cuts) or 'nothing'}")
    if name == "llama-bpe" and not ignores_merges:
        return "smaug-bpe"
    if ignores_merges and name not in WHOLE_WORDS:
        raise _unknown(path, f"the pre-tokenizer {name} with ignore_merges")
    if name == "smollm" and "<s>" in vocabulary:
        return "minerva-7b"  # the same cuts under another name
    return name


def _cuts(path: Path, stage: object) -> Iterator[str]:
    parts = stage.get("pretokenizers") if isinstance(stage, dict) and stage.get("type") == "Sequence" else [stage]
    for step in parts if isinstance(parts, list) else []:
        kind = step.get("type") if isinstance(step, dict) else None
        if kind == "Split":
            pattern = step.get("pattern")
            regex = pattern.get("Regex") if isinstance(pattern, dict) else None
            # What the pattern finds are the words, and nothing is lost: both spellings say so.
            kept = (step.get("behavior"), step.get("invert")) in (("Isolated", False), ("Removed", True))
            if not isinstance(regex, str) or not kept:
                raise _unknown(path, f"the pre-tokenizer step {step!a:.200}")
            yield regex.replace("\r", r"\r").replace("\n", r"\n")
        elif kind == "Digits" and step.get("individual_digits") is True:
            yield DIGIT
        elif kind == "ByteLevel" and not step.get("add_prefix_space"):
            if step.get("use_regex", True):
                yield GPT2
        else:
            raise _unknown(path, f"the pre-tokenizer step {step!a:.80}")


def _unknown(path: Path, found: str) -> ModelUnsupported:
    known = ", ".join(sorted({*NAMES.values(), "minerva-7b", "smaug-bpe"}))
    return ModelUnsupported(str(path), f"{found[:300]}; libllama has no such", f"take a model cut like {known}")
