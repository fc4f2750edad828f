"""Level = a rule: which block type each tensor gets (Q4_K_M is a mixture). The rules are llama-quant.cpp's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from amalia_convert.blocks import BlockType

B = BlockType


@dataclass(frozen=True)
class Place:
    """Where in the model a tensor stands, as far as a mixture asks."""

    index: int  # of `count` tensors of its role
    count: int
    groups: int  # query heads per key head
    importance: bool  # whether there is importance data

    @property
    def first_eighth(self) -> bool:
        return self.index < self.count // 8

    @property
    def last_eighth(self) -> bool:
        return self.index >= 7 * self.count // 8

    @property
    def deserves_more(self) -> bool:
        """Tell whether the layer is among the first or last eighth, or every third between (llama.cpp's rule)."""
        return self.first_eighth or self.last_eighth or (self.index - self.count // 8) % 3 == 2


Rule = Callable[[Place], BlockType | None]  # None: the level's own block type


@dataclass(frozen=True)
class Level:
    """A named quantization: its block type, GGUF's number for it, when to choose it, and what some tensors get instead.

    The roles of a mixture are embedding, values, keys, queries, attention (its output), gate, up and down.
    """

    name: str
    file_type: int
    block: BlockType
    when: str
    mixture: Mapping[str, Rule] = field(default_factory=dict, hash=False)
    output: BlockType = B.Q6_K
    pure: BlockType | None = None  # what --pure makes of it, where that is another type

    @property
    def tiny(self) -> bool:
        """Tell whether it is one of those below 3 bits that have rules of their own."""
        return self.name.startswith(("IQ1", "IQ2"))


def _always(block: BlockType) -> Rule:
    return lambda at: block


def _more(block: BlockType) -> Rule:
    return lambda at: block if at.deserves_more else None


def _first(block: BlockType) -> Rule:
    return lambda at: block if at.first_eighth else None


def _grouped(block: BlockType, otherwise: BlockType | None = None) -> Rule:
    return lambda at: block if at.groups >= 4 else otherwise


def _middle(block: BlockType) -> Rule:
    return lambda at: None if at.first_eighth or at.last_eighth else block


_MORE_6 = {"values": _more(B.Q6_K), "down": _more(B.Q6_K)}
_IQ4 = {"values": _grouped(B.Q5_K), "down": lambda at: B.Q5_K if at.first_eighth and not at.importance else None}
_IQ3_XS = {
    "values": _grouped(B.Q4_K), "keys": _always(B.IQ3_XXS), "queries": _always(B.IQ3_XXS),
    "gate": _middle(B.IQ3_XXS), "up": _middle(B.IQ3_XXS),
}  # fmt: skip
_IQ3_XXS = {
    "embedding": _always(B.IQ3_S), "keys": _always(B.IQ2_S), "queries": _always(B.IQ2_S),
    "values": lambda at: B.Q4_K if at.groups >= 4 else None if at.importance else B.IQ3_S,
    "down": lambda at: None if at.importance else B.Q4_K if at.first_eighth else B.Q3_K,
    "attention": _always(B.IQ3_S),
}  # fmt: skip
_IQ2_M = {
    "embedding": _always(B.IQ3_S), "values": _grouped(B.Q4_K, otherwise=B.IQ3_S), "down": _first(B.IQ3_S),
    "attention": _always(B.IQ3_S),
}  # fmt: skip
_IQ2_XS = {"embedding": _always(B.Q2_K), "values": _grouped(B.Q4_K, otherwise=B.Q2_K), "down": _first(B.Q2_K)}
_IQ1 = _IQ2_XS | {"attention": _always(B.IQ2_XXS)}
_TERNARY = {"embedding": _always(B.Q4_K)}

LEVELS = {
    level.name: level
    for level in (
        Level("F32", 0, B.F32, "for tools that read nothing narrower; twice the checkpoint's size"),
        Level("BF16", 32, B.BF16, "the checkpoint as it was published; a source for other levels"),
        Level("F16", 1, B.F16, "16 bits for devices without bf16; refused where a weight is beyond 65504"),
        Level("Q8_0", 7, B.Q8_0, "no difference you will notice, at half of 16 bits; quick to convert", output=B.Q8_0),
        Level(
            "MXFP4_MOE", 38, B.Q8_0, "for mixtures of experts; what we convert has none, and becomes Q8_0",
            output=B.Q8_0, pure=B.MXFP4,
        ),
        Level("Q6_K", 18, B.Q6_K, "very close to 16 bits, where Q8_0 does not fit"),
        Level("Q5_1", 9, B.Q5_1, "an older format; Q5_K_M is better at this size"),
        Level("Q5_K_M", 17, B.Q5_K, "when memory allows a little more than the default", _MORE_6),
        Level("Q5_K_S", 16, B.Q5_K, "Q5_K_M, slightly smaller"),
        Level(
            "Q5_0", 8, B.Q5_0, "an older format; Q5_K_S is better at this size",
            {"down": lambda at: B.Q5_1 if at.importance and at.first_eighth else None},
        ),
        Level("Q4_1", 3, B.Q4_1, "an older format; Q4_K_M is better and smaller"),
        Level("Q4_K_M", 15, B.Q4_K, "the default: small, fast, and good enough to work with", _MORE_6),
        Level(
            "Q4_K_S", 14, B.Q4_K, "Q4_K_M, slightly smaller and slightly worse",
            {"values": lambda at: B.Q5_K if at.index < 4 else None, "down": _first(B.Q5_K)},
        ),
        Level(
            "Q4_0", 2, B.Q4_0, "the quickest to convert, and the quickest on many a CPU; loses more than Q4_K_S",
            {"down": lambda at: B.Q4_1 if at.importance and at.first_eighth else None},
        ),
        Level("IQ4_NL", 25, B.IQ4_NL, "Q4_0's size with less loss; for rows that are no multiple of 256", _IQ4),
        Level("IQ4_XS", 30, B.IQ4_XS, "when Q4_K_S just does not fit; slower on a CPU", _IQ4),
        Level(
            "Q3_K_L", 13, B.Q3_K, "below 4 bits the loss begins to show: this is the gentlest",
            {"values": _always(B.Q5_K), "down": _always(B.Q5_K), "attention": _always(B.Q5_K)},
        ),
        Level(
            "Q3_K_M", 12, B.Q3_K, "when 4 bits do not fit; Portuguese suffers visibly",
            {
                "values": lambda at: B.Q5_K if at.index < 2 else B.Q4_K,
                "down": lambda at: B.Q5_K if at.index < at.count // 16 else B.Q4_K,
                "attention": _always(B.Q4_K),
            },
        ),
        Level(
            "IQ3_M", 27, B.IQ3_S, "better than Q3_K_S at its size; slow to convert, slower on a CPU",
            {"values": _always(B.Q4_K), "down": _first(B.Q4_K), "attention": _always(B.Q4_K)},
        ),
        Level("IQ3_S", 26, B.IQ3_S, "IQ3_M, slightly smaller", {"values": _grouped(B.Q4_K)}),
        Level("Q3_K_S", 11, B.Q3_K, "IQ3_S is better at this size; choose this for speed on a CPU"),
        Level("IQ3_XS", 22, B.IQ3_S, "between IQ3_S and IQ3_XXS", _IQ3_XS),
        Level("IQ3_XXS", 23, B.IQ3_XXS, "between IQ3_XS and IQ2_M", _IQ3_XXS,
              output=B.Q5_K),
        Level(
            "Q2_K", 10, B.Q2_K, "the least without importance data; expect errors, and Brazilian turns",
            {"values": _grouped(B.Q4_K, otherwise=B.Q3_K), "down": _always(B.Q3_K), "attention": _always(B.Q3_K)},
        ),
        Level("Q2_K_S", 21, B.Q2_K, "Q2_K, smaller", {"values": _grouped(B.Q4_K), "down": _first(B.Q4_K)}),
        Level("IQ2_M", 29, B.IQ2_S, "better than Q2_K and smaller; for when nothing else fits", _IQ2_M, output=B.Q5_K),
        Level("IQ2_S", 28, B.IQ2_XS, "IQ2_M, smaller", _IQ2_M, output=B.Q5_K),
        Level("IQ2_XS", 20, B.IQ2_XS, "an experiment, smaller than IQ2_S", _IQ2_XS, output=B.Q5_K),
        Level("IQ2_XXS", 19, B.IQ2_XXS, "an experiment, smaller than IQ2_XS", _IQ2_XS, output=B.Q5_K),
        Level("Q2_0", 41, B.Q2_0, "for models trained in 2 bits; ruins any other", _TERNARY),
        Level("TQ2_0", 37, B.TQ2_0, "for models trained on −1, 0 and 1; ruins any other", _TERNARY),
        Level("TQ1_0", 36, B.TQ1_0, "TQ2_0, smaller and slower; for models trained on −1, 0 and 1", _TERNARY),
        Level("IQ1_M", 31, B.IQ1_M, "an experiment; measure before you trust it", _IQ1,
              output=B.Q5_K),
        Level("IQ1_S", 24, B.IQ1_S, "an experiment, the smallest of an ordinary model", _IQ1, output=B.Q5_K),
        Level("Q1_0", 40, B.Q1_0, "for models trained in 1 bit; ruins any other"),
    )
}  # fmt: skip
