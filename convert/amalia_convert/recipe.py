"""Recipe = a level and what the user sets aside of it; with the model it says which block type each tensor gets."""

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from amalia_convert.blocks import ABORTING, DEMANDING, NARROWER, BlockType, find_block
from amalia_convert.levels import Level, Place
from amalia_edge.errors import ModelUnsupported, Unquantizable, UsageError

LONGEST_PATTERN = 200


@dataclass(frozen=True)
class Recipe:
    """What determines the block types of an output."""

    level: Level
    tensor_types: tuple[tuple[str, BlockType], ...] = ()  # (regular expression, type): the first that is found counts
    output: BlockType | None = None
    embedding: BlockType | None = None
    pure: bool = False  # the level's own block type everywhere
    importance: frozenset[str] | None = None  # the tensors that importance data speaks of; None: there is no data


@dataclass(frozen=True)
class Geometry:
    """What of a model the rules ask for."""

    architecture: str
    layers: int
    groups: int  # query heads per key head, in the first layer
    experts: int = 0


@dataclass(frozen=True)
class Tensor:
    """One tensor of the 16-bit model."""

    name: str
    shape: tuple[int, ...]  # (rows, columns), or (columns,)
    stored: BlockType  # what it stays if no level touches it


# Parts of the names of matrices that stay as they are: small, or too delicate.
UNTOUCHED = (
    "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight", "altup", "laurel", "per_layer_model_proj",
    "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
    "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight",
    "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight",
    "time_mix_g1.weight", "time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight", "attn_rel_b.weight", ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_",
    ".rel_pos", ".patch_embd", ".patch_merger", "a.rvq.codebook", "mm.a.code_embd",
)  # fmt: skip
_OUTPUT, _EMBEDDINGS = "output.weight", ("token_embd.weight", "per_layer_token_embd.weight")
_POSITIONS = ("position_embd.weight", "token_types.weight")
# Part of a name → role in a mixture, the first that is found; fused matrices count as values.
_ROLES = {
    "attn_qkv.weight": "values", "attn_kv_b.weight": "values", "attn_v.weight": "values", "attn_k.weight": "keys",
    "attn_q.weight": "queries", "attn_output.weight": "attention", "ffn_up": "up", "ffn_gate": "gate",
    "ffn_down": "down",
}  # fmt: skip
# Architecture → the layers of its model of 70 billion parameters, as llama.cpp tells it.
_SEVENTY_BILLION = {"llama": 80, "llama-embed": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}
_OTHER_RULES = ("falcon",)


def parse_tensor_type(text: str) -> tuple[str, BlockType]:
    """Read `PATTERN=TYPE`: a regular expression searched for in tensors' names, made lower case as llama-quantize does.

    Python's expressions stand in for C++'s: what both know means the same in both.
    """
    pattern, _, name = text.partition("=")
    where = f"--tensor-type {text[:40]}"
    if not pattern or not name:
        raise UsageError(where, "not PATTERN=TYPE", "for instance attn_v=q6_k")
    if len(pattern) > LONGEST_PATTERN:
        raise UsageError(where, f"a pattern of {len(pattern)} characters", f"at most {LONGEST_PATTERN} are taken")
    pattern = pattern.lower()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # [[:alpha:]] and other sets that only C++ knows
            re.compile(pattern)
    except (re.error, Warning, OverflowError, RecursionError) as problem:
        raise UsageError(where, f"not a regular expression ({problem})", "for instance attn_v=q6_k") from None
    return pattern, find_block(name)


def check_tensor_types(types: Sequence[tuple[str, BlockType]], levels: Sequence[Level], names: Sequence[str]) -> None:
    """Refuse what llama-quantize takes in silence and without effect, given all levels and the names of all tensors."""
    for pattern, block in types:
        if not any(re.search(pattern, name) for name in names):
            where = f"--tensor-type {pattern[:40]}={block.name}"
            raise UsageError(where, "is found in no tensor's name", "--dry-run lists the names")
    if types and not any(level.block.quantized for level in levels):
        told = ", ".join(level.name for level in levels)
        raise UsageError("--tensor-type", f"has no effect on {told}", "leave it out, or name a level below 16 bits")


def choose_blocks(recipe: Recipe, tensors: Sequence[Tensor], geometry: Geometry) -> dict[str, BlockType]:
    """Choose every tensor's block type, as llama-quantize does; refuse what it would refuse or abort on."""
    if geometry.experts or geometry.architecture in _OTHER_RULES:
        found = f"{geometry.experts} experts" if geometry.experts else "llama-quantize has rules of its own for it"
        raise ModelUnsupported(f"architecture {geometry.architecture}", found, "use llama-quantize")
    chooser = _Chooser(recipe, tensors, geometry)
    chosen = {}
    for tensor in sorted(tensors, key=_order):
        chosen[tensor.name] = block = chooser.choose(tensor)
        if tensor.shape[-1] % block.weights:
            found = f"its rows of {tensor.shape[-1]} weights are no whole blocks of {block.name} ({block.weights})"
            raise Unquantizable(f"tensor {tensor.name}", found, "choose another type for it")
        _check_importance(recipe, tensor.name, block)
    return chosen


class _Chooser:
    """Choose tensor after tensor: some rules count how many of a role they have seen."""

    def __init__(self, recipe: Recipe, tensors: Sequence[Tensor], geometry: Geometry) -> None:
        self._recipe, self._geometry = recipe, geometry
        names = [tensor.name for tensor in tensors]
        self._tied = _OUTPUT not in names
        self._values = sum(_role(name) == "values" for name in names)
        self._patterns = [(re.compile(pattern), block) for pattern, block in recipe.tensor_types]
        self._seen: Counter[str] = Counter()

    def choose(self, tensor: Tensor) -> BlockType:
        recipe, level, role = self._recipe, self._recipe.level, _role(tensor.name)
        if not _is_quantized(tensor):
            return tensor.stored
        manual = next((block for pattern, block in self._patterns if pattern.search(tensor.name)), None)
        separate = tensor.name == _EMBEDDINGS[1] and manual is not None
        if recipe.embedding is not None and role == "embedding" and not separate:
            return recipe.embedding
        if recipe.output is not None and role == "output":
            return recipe.output
        if not level.block.quantized:
            return level.block
        if manual is not None:
            block = manual
        elif recipe.pure:
            block = level.pure or level.block
        else:
            block = self._mixed(role, tensor.shape[-1])
        return _fit(block, tensor.shape[-1])

    def _mixed(self, role: str, columns: int) -> BlockType:
        recipe, level = self._recipe, self._recipe.level
        # Tied models read their embedding as the output too, so it gets what the output would.
        if role == "output" or (self._tied and role == "embedding"):
            if recipe.output is not None:
                return recipe.output
            return BlockType.Q8_0 if columns % level.block.weights else level.output
        count = self._values if role == "values" else self._geometry.layers
        place = Place(self._seen[role], count, self._geometry.groups, recipe.importance is not None)
        self._seen[role] += 1
        rule = level.mixture.get(role)
        block = (rule and rule(place)) or level.block
        # One value head among eight queries, as a 70B Llama has: more bits there cost next to nothing.
        generous = role == "values" and self._is_seventy_billion and not level.tiny
        return BlockType.Q5_K if generous and block in (BlockType.Q3_K, BlockType.Q4_K) else block

    @property
    def _is_seventy_billion(self) -> bool:
        geometry = self._geometry
        grouped = geometry.groups > 1 or not geometry.architecture.startswith("llama")
        return grouped and geometry.layers == _SEVENTY_BILLION.get(geometry.architecture)


def _is_quantized(tensor: Tensor) -> bool:
    """Tell whether levels touch a tensor: matrices of weights, but for a few."""
    matrix = any(side > 1 for side in tensor.shape[:-1])
    untouched = tensor.name in _POSITIONS or any(part in tensor.name for part in UNTOUCHED)
    return matrix and tensor.name.endswith("weight") and not untouched


def _role(name: str) -> str:
    if name == _OUTPUT:
        return "output"
    if name in _EMBEDDINGS:
        return "embedding"
    return next((role for part, role in _ROLES.items() if part in name), "")


def _order(tensor: Tensor) -> tuple[int, str]:
    """Order tensors as llama-quantize meets them: no layer first, then by layer, then by name."""
    layer = re.match(r"blk\.(\d{1,9})", tensor.name)
    return (int(layer[1]) if layer else -1), tensor.name


def _fit(block: BlockType, columns: int) -> BlockType:
    """Fall back to a narrower block where the row is not whole blocks, and to F16 where none fits."""
    if columns % block.weights == 0:
        return block
    narrower = NARROWER.get(block, block)
    return narrower if columns % narrower.weights == 0 or narrower.weights > 32 else BlockType.F16


def _check_importance(recipe: Recipe, name: str, block: BlockType) -> None:
    if recipe.importance is not None and name in recipe.importance:
        return
    delicate = block in DEMANDING or (block is BlockType.Q2_K and recipe.level.name == "Q2_K_S")
    spared = name == _OUTPUT or name in _EMBEDDINGS  # libllama's quantizer lets these pass, and ggml aborts on some
    if block in ABORTING or (delicate and not spared):
        if recipe.importance is None:
            found = f"tensor {name} becomes {block.name}, which needs importance data"
            raise UsageError(f"level {recipe.level.name}", found, "make some with amalia imatrix, give it as --imatrix")
        found = f"becomes {block.name}, and the importance data has nothing for it"
        raise UsageError(f"tensor {name}", found, "collect it from this model, or name another type with --tensor-type")
