"""What libllama reads of a model's metadata: the architectures we hand to it, and each key's kinds and range."""

Rule = tuple[str, float, float]  # the kinds a value may be of, its least and its most

# The decoders of text that are handed to libllama: each one is mutated, loaded and decoded by tests/edge/header_fuzz.py.
# Encoders, vision towers, speech, diffusion, drafting heads and pure recurrences are for other programs.
ARCHITECTURES = frozenset((
    "apertus", "arcee", "arctic", "baichuan", "bailingmoe", "bitnet", "bloom", "chatglm", "codeshell", "cohere2",
    "command-r", "dbrx", "deepseek", "ernie4_5", "exaone", "exaone4", "falcon", "gemma", "gemma2", "gemma3", "gemma3n",
    "gemma4", "glm4", "glm4moe", "gpt-oss", "gpt2", "gptneox", "granite", "granitemoe", "hunyuan-dense", "hunyuan-moe",
    "internlm2", "jais2", "lfm2", "llama", "maincoder", "mellum", "minicpm", "mistral3", "mpt", "nemotron", "olmo",
    "olmo2", "olmoe", "openelm", "orion", "pangu-embedded", "phi2", "phi3", "phimoe", "plamo", "qwen", "qwen2",
    "qwen2moe", "qwen3", "qwen3moe", "qwen3next", "qwen35", "qwen35moe", "refact", "seed_oss", "smollm3", "stablelm",
    "starcoder", "starcoder2", "xverse",
))  # fmt: skip
VARYING = frozenset(("gemma3n", "gemma4", "lfm2", "openelm"))  # their layers may differ in heads
LINEAR = frozenset(("qwen3next", "qwen35", "qwen35moe"))  # some of their layers have linear attention
SHARING = frozenset(("gemma3n", "gemma4"))  # their last layers look into the caches of the layers before
UNROTATED = frozenset(("bloom", "gpt2", "mpt", "refact", "starcoder"))
# Those that may rotate a part of each head; in the others libllama takes for granted that all of it is.
PARTIAL = frozenset((
    "bailingmoe", "chatglm", "cohere2", "command-r", "gemma4", "glm4", "glm4moe", "gptneox", "nemotron", "openelm",
    "phi2", "phi3", "phimoe", "qwen", "qwen3next", "qwen35", "qwen35moe", "stablelm",
))  # fmt: skip
ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
VOCABULARIES, WITHOUT = ("llama", "gpt2", "gemma4"), ("no_vocab", "none")
TOKENS = "tokenizer.ggml.tokens"
MOST_BLOCKS, MOST_EXPERTS = 512, 1024  # libllama aborts above them

WHOLE, REAL, FLAG, TEXT = "uint32", "float32", "bool", "string"
EACH = "uint32 uint32[] int32[]"  # one for all layers, or one for each
_LENGTH: Rule = (WHOLE, 0, 1 << 20)
_SCALE: Rule = (REAL, -1e9, 1e9)
_POSITIVE: Rule = (REAL, 0, 1e9)
# A key of the architecture's own, without its name → its rule; epsilons, and floats of other names, have theirs below.
OWN: dict[str, Rule] = {
    "context_length": (WHOLE, 1, 1 << 28),
    "vocab_size": (WHOLE, 1, 1 << 21),
    "block_count": (WHOLE, 1, MOST_BLOCKS),
    "embedding_length": (WHOLE, 1, 1 << 18),
    "feed_forward_length": (EACH, 0, 1 << 20),
    "expert_count": (WHOLE, 0, MOST_EXPERTS),
    "expert_used_count": (EACH, 0, MOST_EXPERTS),
    "attention.head_count": (EACH, 0, 1 << 12),
    "attention.head_count_kv": (EACH, 0, 1 << 12),
    "attention.causal": (FLAG, 0, 1),
    "attention.sliding_window": (WHOLE, 0, 1 << 28),
    "attention.sliding_window_pattern": (f"{EACH} bool[]", 0, MOST_BLOCKS),
    "attention.max_alibi_bias": _POSITIVE,
    "attention.clamp_kqv": _POSITIVE,
    "attention.temperature_length": (WHOLE, 0, 1 << 28),
    "attn_logit_softcapping": _POSITIVE,
    "final_logit_softcapping": _POSITIVE,
    "router_logit_softcapping": _POSITIVE,
    "rope.dimension_sections": ("int32[] uint32[]", 0, 1 << 12),
    "rope.freq_base": (REAL, 1e-3, 1e12),
    "rope.freq_base_swa": (REAL, 1e-3, 1e12),
    "rope.scaling.type": (TEXT, 0, 0),
    "rope.scaling.finetuned": (FLAG, 0, 1),
    "rope.scaling.original_context_length": (WHOLE, 1, 1 << 28),
    "expert_weights_norm": (FLAG, 0, 1),
    "use_parallel_residual": (FLAG, 0, 1),
    **dict.fromkeys(("expert_group_count", "expert_group_used_count", "expert_gating_func"), (WHOLE, 0, MOST_EXPERTS)),
    **dict.fromkeys(("nextn_predict_layers", "leading_dense_block_count", "attention.shared_kv_layers"), (WHOLE, 0, MOST_BLOCKS)),
    "attention.recurrent_layers": (f"{EACH} bool[]", 0, 1),
    **dict.fromkeys(("attention.key_length", "attention.value_length", "attention.key_length_swa",
                     "attention.value_length_swa", "rope.dimension_count", "rope.dimension_count_swa"), (WHOLE, 0, 1 << 12)),
    **dict.fromkeys(("expert_feed_forward_length", "expert_shared_feed_forward_length", "embedding_length_out",
                     "embedding_length_per_layer_input", "ssm.inner_size", "ssm.state_size", "ssm.conv_kernel",
                     "ssm.time_step_rank", "ssm.group_count", "shortconv.l_cache", "full_attention_interval"), _LENGTH),
    **dict.fromkeys(("logit_scale", "residual_scale", "embedding_scale", "attention.scale", "attention.output_scale",
                     "attention.temperature_scale", "expert_weights_scale", "rope.scale_linear", "rope.scaling.factor",
                     "rope.scaling.attn_factor", "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor",
                     "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
                     "rope.scaling.yarn_log_multiplier"), _SCALE),
}  # fmt: skip
SHARED: dict[str, str] = {  # keys of every architecture → the kinds a value may be of
    **dict.fromkeys(("general.architecture", "general.name", "general.type", "tokenizer.ggml.model",
                     "tokenizer.ggml.pre", "tokenizer.chat_template"), TEXT),
    **dict.fromkeys(("general.alignment", "general.file_type", "tokenizer.ggml.token_type_count"), WHOLE),
    **dict.fromkeys((TOKENS, "tokenizer.ggml.merges"), "string[]"),
    "tokenizer.ggml.scores": "float32[] int32[]",
    "tokenizer.ggml.token_type": "int32[]",
    "tokenizer.ggml.suppress_tokens": "int32[]",
    "split.no": "uint16",
    "split.count": "uint16",
    "split.tensors.count": "int32",
    "tokenizer.ggml.remove_extra_whitespaces": FLAG,
}  # fmt: skip


def shared_kinds(key: str) -> str:
    """Give the kinds a key of every architecture may be of; nothing where libllama does not read it."""
    if key.startswith("tokenizer.ggml.") and key.endswith("_token_id"):
        return WHOLE
    if key.startswith("tokenizer.ggml.add_"):
        return FLAG
    return SHARED.get(key, "")
