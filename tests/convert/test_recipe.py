"""Every tensor gets the type llama-quantize gives it: libllama's own choice is the oracle, for models of all shapes."""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amalia_convert.blocks import BlockType
from amalia_convert.levels import LEVELS
from amalia_convert.recipe import (
    UNTOUCHED,
    Geometry,
    Recipe,
    Tensor,
    check_tensor_types,
    choose_blocks,
    parse_tensor_type,
)
from amalia_edge.errors import ModelUnsupported, Unquantizable, UsageError

from .oracle import chosen_types, quantize_by

B = BlockType


@dataclass(frozen=True)
class Skeleton:
    """A model with all its tensors, each of two rows: enough for libllama to choose types by."""

    architecture: str = "llama"
    layers: int = 9
    heads: int = 8
    heads_kv: int = 2
    hidden: int = 256
    feed_forward: int = 256
    tied: bool = False
    biases: bool = False
    head_norms: bool = False
    fused: bool = False
    head_dim: int = 32
    only: str = ""  # of the layers' tensors, those with this in their name
    more: tuple[str, ...] = ()  # names of other matrices

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.architecture, self.layers, self.heads // self.heads_kv)

    def tensors(self) -> Iterator[Tensor]:
        return (tensor for tensor in self._tensors() if self.only in tensor.name or not tensor.name.startswith("blk."))

    def _tensors(self) -> Iterator[Tensor]:
        yield Tensor("token_embd.weight", (2, self.hidden), B.F16)
        yield Tensor("output_norm.weight", (self.hidden,), B.F32)
        yield Tensor("rope_freqs.weight", (self.head_dim // 2,), B.F32)
        yield from (Tensor(name, (2, 256), B.F16) for name in self.more)
        if not self.tied:
            yield Tensor("output.weight", (2, self.hidden), B.F16)
        matrices = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up"), self.hidden)
        if self.fused:
            matrices = dict.fromkeys(("attn_qkv", "attn_output", "ffn_up"), self.hidden)
        for layer in range(self.layers):
            for name, columns in (matrices | {"ffn_down": self.feed_forward}).items():
                yield Tensor(f"blk.{layer}.{name}.weight", (2, columns), B.F16)
                if self.biases:
                    yield Tensor(f"blk.{layer}.{name}.bias", (2,), B.F32)
            for name in ("attn_norm", "ffn_norm", *(("attn_q_norm", "attn_k_norm") if self.head_norms else ())):
                yield Tensor(f"blk.{layer}.{name}.weight", (self.head_dim,), B.F32)

    def write(self, path: Path) -> Path:
        writer = gguf.GGUFWriter(path, self.architecture)
        writer.add_context_length(64)
        writer.add_embedding_length(self.hidden)
        writer.add_block_count(self.layers)
        writer.add_feed_forward_length(self.feed_forward)
        writer.add_head_count(self.heads)
        writer.add_head_count_kv(self.heads_kv)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_layer_norm_eps(1e-5)
        for tensor in self.tensors():
            writer.add_tensor(tensor.name, np.ones(tensor.shape, np.float16 if tensor.stored is B.F16 else np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


SKELETONS = {
    "amalia-9b": Skeleton(layers=42, heads=32, heads_kv=8),
    "llama-7b": Skeleton(layers=32, heads=4, heads_kv=4),
    "llama-70b": Skeleton(layers=80, heads=64, heads_kv=8, only="attn_v"),
    "llama-65b": Skeleton(layers=80, heads=8, heads_kv=8, only="attn_v"),
    "qwen2-7b": Skeleton("qwen2", layers=28, heads=28, heads_kv=4, biases=True),
    "qwen2-72b": Skeleton("qwen2", layers=80, heads=8, heads_kv=8, only="attn_v"),
    "qwen3-4b": Skeleton("qwen3", layers=36, heads=32, heads_kv=8, head_norms=True, tied=True),
    "qwen3-tiny": Skeleton("qwen3", layers=2, heads=2, heads_kv=1, head_norms=True),
    "phi3": Skeleton("phi3", layers=40, heads=40, heads_kv=10, fused=True),
    "narrow": Skeleton(layers=17, heads=3, heads_kv=3, hidden=96, feed_forward=80, head_dim=32, tied=True),
    "halves": Skeleton(layers=8, heads=4, heads_kv=1, hidden=128, feed_forward=192),
}


@pytest.fixture(scope="session", params=SKELETONS)
def skeleton(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Skeleton, Path]:
    folder = tmp_path_factory.mktemp("skeleton")
    return SKELETONS[request.param], SKELETONS[request.param].write(folder / "model.gguf")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Skeleton, Path]:
    shape = Skeleton(layers=17)
    return shape, shape.write(tmp_path_factory.mktemp("small") / "model.gguf")


def ours(recipe: Recipe, shape: Skeleton) -> dict[str, str]:
    return {name: block.name for name, block in choose_blocks(recipe, list(shape.tensors()), shape.geometry).items()}


def everything(shape: Skeleton) -> frozenset[str]:
    return frozenset(tensor.name for tensor in shape.tensors())


@pytest.mark.parametrize("level", LEVELS)
def test_every_tensor_s_type_is_llama_quantize_s(skeleton: tuple[Skeleton, Path], level: str) -> None:
    shape, path = skeleton
    if level == "Q1_0" and shape.hidden % 128 + shape.feed_forward % 128:
        with pytest.raises(Unquantizable):  # and llama-quantize refuses too: see below
            ours(Recipe(LEVELS[level]), shape)
        return
    recipe = Recipe(LEVELS[level], importance=everything(shape))
    assert ours(recipe, shape) == chosen_types(recipe, path)
    without = Recipe(LEVELS[level])
    try:
        assert ours(without, shape) == chosen_types(without, path)
    except UsageError as refusal:
        assert "needs importance data" in str(refusal)
        assert not quantize_by(without, path, path.with_name("refused.gguf"))


@pytest.mark.parametrize("level", ["Q4_K_M", "Q8_0", "F16", "IQ2_XS", "MXFP4_MOE", "Q3_K_M"])
@pytest.mark.parametrize(
    "wish",
    [
        {"pure": True},
        {"output": B.Q8_0},
        {"embedding": B.Q5_K},
        {"output": B.F16, "embedding": B.Q2_K, "pure": True},
        {"tensor_types": ((r"blk\.[0-3]\.attn_v", B.Q8_0),)},  # the overridden are not counted: the mixture shifts
        {"tensor_types": (("ffn_down", B.Q3_K), ("down", B.Q8_0))},
        {"tensor_types": (("output", B.BF16), ("token_embd", B.F32)), "embedding": B.Q6_K},
        {"tensor_types": (("norm", B.Q8_0), ("attn_k", B.IQ4_NL), (r"\d+\.ffn_(up|gate)\.", B.TQ2_0)), "pure": True},
        {"tensor_types": (("attn_q$", B.Q8_0), ("^blk.1.", B.NVFP4))},
    ],
    ids=str,
)
@pytest.mark.parametrize("tied", [False, True])
def test_wishes_are_granted_as_llama_quantize_does(
    tmp_path: Path, level: str, wish: dict[str, Any], *, tied: bool
) -> None:
    shape = Skeleton(layers=17, tied=tied)
    recipe = dataclasses.replace(Recipe(LEVELS[level], importance=everything(shape)), **wish)
    assert ours(recipe, shape) == chosen_types(recipe, shape.write(tmp_path / "model.gguf"))


def test_matrices_that_llama_quantize_leaves_alone_stay(tmp_path: Path) -> None:
    names = [f"blk.0.{part.lstrip('.')}" if part.endswith("weight") else f"a{part}x.weight" for part in UNTOUCHED]
    others = ("per_layer_token_embd.weight", "cls.weight", "cls.output.weight", "blk.0.attn_norm_2.weight", "odd.scale",
              "altup_proj.weight", "blk.1.laurel_l.weight", "per_layer_model_proj.weight", "blk.1.ssm_conv1d.weight",
              "blk.1.time_mix_w1.weight", "blk.1.attn_rel_b.weight")  # fmt: skip
    shape = Skeleton(layers=2, more=(*names, "position_embd.weight", "token_types.weight", *others))
    wishes = {"embedding": B.Q8_0, "tensor_types": (("per_layer", B.Q5_0),)}
    for recipe in (Recipe(LEVELS["Q4_K_M"]), dataclasses.replace(Recipe(LEVELS["Q4_K_M"]), **wishes)):
        assert ours(recipe, shape) == chosen_types(recipe, shape.write(tmp_path / "model.gguf"))
        assert {ours(recipe, shape)[name] for name in names} == {"F16"}


def test_a_wish_for_rows_that_do_not_fit_falls_back(tmp_path: Path) -> None:
    shape = SKELETONS["narrow"]
    types = (("attn_v", B.Q6_K), ("attn_k", B.IQ1_M), ("ffn_up", B.Q2_0), ("ffn_down", B.Q5_K), ("attn_q", B.MXFP4))
    recipe = Recipe(LEVELS["Q4_0"], tensor_types=types)
    assert ours(recipe, shape) == chosen_types(recipe, shape.write(tmp_path / "model.gguf"))


@pytest.mark.parametrize(
    "recipe",
    [Recipe(LEVELS["Q1_0"]), Recipe(LEVELS["Q8_0"], tensor_types=(("ffn_up", B.NVFP4),))],
    ids=["Q1_0", "NVFP4"],
)
def test_a_type_nothing_stands_in_for_is_refused_where_it_does_not_fit(recipe: Recipe, tmp_path: Path) -> None:
    shape = dataclasses.replace(SKELETONS["narrow"], layers=2)
    with pytest.raises(Unquantizable, match=r"tensor .*: its rows of \d+ weights are no whole blocks of (Q1_0|NVFP4)"):
        ours(recipe, shape)
    assert not quantize_by(recipe, shape.write(tmp_path / "model.gguf"), tmp_path / "out.gguf")


@pytest.mark.parametrize("place", ["output", "embedding"])
def test_a_type_asked_for_by_name_never_falls_back(place: str) -> None:
    """llama-quantize aborts here."""
    recipe = dataclasses.replace(Recipe(LEVELS["Q8_0"]), **{place: B.Q4_K})
    with pytest.raises(Unquantizable, match=r"rows of 96 weights are no whole blocks of Q4_K \(256\)"):
        ours(recipe, dataclasses.replace(SKELETONS["narrow"], tied=False))


def test_a_level_that_needs_importance_data_says_how_to_make_some(small: tuple[Skeleton, Path]) -> None:
    with pytest.raises(UsageError, match=r"level IQ2_M: tensor \S+ becomes .*make some with amalia imatrix"):
        ours(Recipe(LEVELS["IQ2_M"]), small[0])


def test_a_tensor_the_importance_data_leaves_out_is_named(small: tuple[Skeleton, Path], tmp_path: Path) -> None:
    shape, path = small
    names = everything(shape) - {"blk.0.attn_k.weight"}
    recipe = Recipe(LEVELS["IQ3_XXS"], importance=names)
    with pytest.raises(UsageError, match=r"tensor blk\.0\.attn_k\.weight: becomes IQ2_S, and the importance data"):
        ours(recipe, shape)
    assert not quantize_by(recipe, path, tmp_path / "out.gguf", dict.fromkeys(names, np.ones(256, np.float32)))
    assert ours(Recipe(LEVELS["Q4_K_M"], importance=names), shape)["blk.0.attn_k.weight"] == "Q4_K"


def test_an_embedding_that_ggml_would_abort_on_needs_importance_data_too(small: tuple[Skeleton, Path]) -> None:
    with pytest.raises(UsageError, match=r"token_embd\.weight becomes IQ2_XS"):
        ours(Recipe(LEVELS["Q8_0"], embedding=B.IQ2_XS), small[0])
    assert ours(Recipe(LEVELS["Q8_0"], embedding=B.IQ2_S), small[0])["token_embd.weight"] == "IQ2_S"


def test_a_matrix_of_one_row_is_a_vector_to_ggml() -> None:
    assert choose_blocks(
        Recipe(LEVELS["Q8_0"]), [Tensor("blk.0.ffn_up.weight", (1, 256), B.BF16)], Geometry("llama", 1, 1)
    ) == {"blk.0.ffn_up.weight": B.BF16}


@pytest.mark.parametrize("geometry", [Geometry("llama", 32, 4, experts=8), Geometry("falcon", 32, 1)], ids=str)
def test_models_with_rules_of_their_own_are_refused(geometry: Geometry) -> None:
    with pytest.raises(ModelUnsupported, match=rf"architecture {geometry.architecture}: .*llama-quantize"):
        choose_blocks(Recipe(LEVELS["Q8_0"]), [], geometry)


def test_a_tensor_type_is_a_pattern_and_a_type() -> None:
    assert parse_tensor_type(r"Blk\.\d+\.ATTN_V=q6_k") == (r"blk\.\d+\.attn_v", B.Q6_K)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("attn_v", "not PATTERN=TYPE"),
        ("=q6_k", "not PATTERN=TYPE"),
        ("attn_v=", "not PATTERN=TYPE"),
        ("attn_v=q6_l", "'q6_l': there is no such type; types: F32"),
        ("attn_v=q6_k=x", "'q6_k=x': there is no such type"),
        ("(attn=q8_0", "not a regular expression"),
        ("[[:alpha:]]=q8_0", "not a regular expression"),
        ("a{99999999999999999999}=q8_0", "not a regular expression"),
        ("a" * 201 + "=q8_0", "a pattern of 201 characters"),
    ],
)
def test_a_tensor_type_that_is_none_is_refused(text: str, found: str) -> None:
    with pytest.raises(UsageError, match=found.replace("[", r"\[")):
        parse_tensor_type(text)


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_tensor_type_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        parse_tensor_type(f"{text}=q8_0")


def test_a_pattern_in_no_tensor_s_name_is_refused() -> None:
    names, types = ["blk.0.attn_v.weight"], (("attn_v", B.Q6_K), ("attn_w", B.Q5_K))
    check_tensor_types(types[:1], [LEVELS["Q4_K_M"]], names)
    with pytest.raises(UsageError, match="--tensor-type attn_w=Q5_K: is found in no tensor's name"):
        check_tensor_types(types, [LEVELS["Q4_K_M"]], names)


def test_a_tensor_type_where_no_level_quantizes_is_refused() -> None:
    names, types = ["blk.0.attn_v.weight"], (("attn_v", B.Q6_K),)
    check_tensor_types(types, [LEVELS["F16"], LEVELS["Q8_0"]], names)
    check_tensor_types((), [LEVELS["F16"]], names)
    with pytest.raises(UsageError, match="--tensor-type: has no effect on F16, BF16; leave it out"):
        check_tensor_types(types, [LEVELS["F16"], LEVELS["BF16"]], names)
