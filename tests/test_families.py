"""Every family of causal models is right or refused, in the sampler and in RL's rollout and log-probs.

Each is a tiny random model whose attention window, where it has one, is 8 tokens. The reference is always a
forward of one row, without a cache and without padding.
"""
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import model as models
import rl_outcome
import sample

VOCAB, NEW = 64, 14
SIZES = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
         "num_attention_heads": 4, "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 2}
GROUPED = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 128}
HEADS = {**GROUPED, "head_dim": 8}
WINDOW = {"sliding_window": 8}
MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2}
LATENT = {"num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8,
          "qk_nope_head_dim": 8, "v_head_dim": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
          "first_k_dense_replace": 1}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_expand": 2,
         "mamba_chunk_size": 8}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 4.0,
        "original_max_position_embeddings": 64, "rope_theta": 10000.0}
R, X = "right", "refused"
# family: (config type, what it sets, sampler, RL)
FAMILIES = {
    "llama": ("llama", GROUPED, R, R),
    "llama, dynamic rope": ("llama", {**GROUPED, "rope_parameters": {
        "rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}, R, R),
    "qwen2": ("qwen2", GROUPED, R, R),
    "qwen2 with a window": ("qwen2", {**GROUPED, **WINDOW, "use_sliding_window": True,
                                      "max_window_layers": 2}, R, R),
    "qwen2 moe": ("qwen2_moe", {**GROUPED, **MOE, "shared_expert_intermediate_size": 32}, R, R),
    "qwen3": ("qwen3", HEADS, R, R),
    "qwen3 with a window": ("qwen3", {**HEADS, **WINDOW, **MIXED, "use_sliding_window": True}, R, R),
    "qwen3 moe": ("qwen3_moe", {**HEADS, **MOE}, R, R),
    "mistral": ("mistral", {**HEADS, **WINDOW}, R, R),
    "ministral": ("ministral", {**HEADS, **WINDOW, **MIXED}, R, R),
    "mixtral": ("mixtral", {**GROUPED, **WINDOW, **MOE}, R, R),
    "phi": ("phi", {**GROUPED, "partial_rotary_factor": 0.5}, R, X),          # a bias on the head
    "phi3": ("phi3", {**GROUPED, **WINDOW}, R, R),
    "phi3, long rope": ("phi3", {**GROUPED, "max_position_embeddings": 256, "rope_parameters": LONG,
                                 "original_max_position_embeddings": 64}, R, R),
    "starcoder2": ("starcoder2", {**GROUPED, **WINDOW}, R, R),
    "gemma": ("gemma", HEADS, R, R),
    "gemma2": ("gemma2", {**HEADS, **WINDOW, **MIXED}, R, X),                    # soft-capped logits
    "gemma3": ("gemma3_text", {**HEADS, **WINDOW, **MIXED}, R, R),
    "gemma3n": ("gemma3n_text", {**HEADS, **WINDOW, **MIXED, "laurel_rank": 8, "num_kv_shared_layers": 2,
                                 "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB,
                                 "altup_num_inputs": 2, "activation_sparsity_pattern": [0.0] * 4}, R, X),
    "gemma4": ("gemma4_text", {**HEADS, **WINDOW, **MIXED, "global_head_dim": 16, "num_kv_shared_layers": 2,
                               "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB}, R, R),
    "olmo2": ("olmo2", GROUPED, R, R),
    "olmo3": ("olmo3", {**GROUPED, **WINDOW, **MIXED}, R, R),
    "gpt-oss": ("gpt_oss", {**HEADS, **WINDOW, **MIXED, **MOE}, R, R),
    "cohere": ("cohere", GROUPED, R, X),                                         # scaled logits
    "cohere2": ("cohere2", {**GROUPED, **WINDOW, **MIXED}, R, X),
    "llama4": ("llama4_text", {**HEADS, **MOE, "attention_chunk_size": 8, "intermediate_size_mlp": 48,
                               "no_rope_layers": [1, 0, 1, 0]}, R, X),                     # no bare decoder
    "exaone4": ("exaone4", {**HEADS, **WINDOW, **MIXED}, R, R),
    "smollm3": ("smollm3", GROUPED, R, R),
    "granite": ("granite", GROUPED, R, R),
    "glm4": ("glm4", HEADS, R, R),
    "stablelm": ("stablelm", GROUPED, R, R),
    "gpt2": ("gpt2", {"n_positions": 128, "n_embd": 32, "n_layer": 4, "n_head": 4, **SIZES}, R, R),
    "gpt-bigcode": ("gpt_bigcode", {"n_positions": 128, **SIZES}, R, R),
    "gpt-neox": ("gpt_neox", {**SIZES, "max_position_embeddings": 128}, R, R),
    "gptj": ("gptj", {**SIZES, "n_positions": 128, "rotary_dim": 4, "n_inner": 48}, R, X),      # the same
    "opt": ("opt", {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 128}, R, R),
    "falcon": ("falcon", {**SIZES, "max_position_embeddings": 128}, R, R),
    "mpt": ("mpt", {**SIZES, "d_model": 32, "n_heads": 4, "n_layers": 4, "max_seq_len": 128}, R, R),
    "gpt-neo": ("gpt_neo", {**SIZES, "num_layers": 4, "num_heads": 4, "max_position_embeddings": 128,
                            "attention_types": [[["global", "local"], 2]], "window_size": 8}, X, R),
    "gpt-neo, a wide window": ("gpt_neo", {**SIZES, "num_layers": 4, "num_heads": 4, "window_size": 200,
                               "attention_types": [[["global", "local"], 2]]}, X, R),
    "falcon with alibi": ("falcon", {**SIZES, "alibi": True, "max_position_embeddings": 128}, X, R),
    "bloom": ("bloom", SIZES, X, R),
    "deepseek v2": ("deepseek_v2", {**GROUPED, **MOE, **LATENT}, R, R),
    "deepseek v3": ("deepseek_v3", {**GROUPED, **MOE, **LATENT}, R, R),
    "falcon h1": ("falcon_h1", {**HEADS, **MAMBA, "mamba_d_ssm": 64}, X, R),
    "falcon h1, scaled head": ("falcon_h1", {**HEADS, **MAMBA, "mamba_d_ssm": 64,
                                             "lm_head_multiplier": 0.5}, X, X),
    "bamba": ("bamba", {**GROUPED, **MAMBA, "attn_layer_indices": [1, 3]}, X, X),
    "jamba": ("jamba", {**GROUPED, **MOE, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4,
                        "use_mamba_kernels": False, "mamba_d_state": 8}, X, X),
    "qwen3 next": ("qwen3_next", {**HEADS, **MOE, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
                                  "linear_key_head_dim": 8, "linear_value_head_dim": 8,
                                  "shared_expert_intermediate_size": 32}, X, X),
    "recurrent gemma": ("recurrent_gemma", {**HEADS, "attention_window_size": 8, "lru_width": 32}, X, X),
    "mamba": ("mamba", {**SIZES, "state_size": 8}, X, X),
    "mamba2": ("mamba2", {**SIZES, "num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1,
                          "num_hidden_layers": 2, "chunk_size": 8}, X, X),
    "rwkv": ("rwkv", SIZES, X, X),
}


def build(kind, sizes):
    config = CONFIG_MAPPING[kind](**sizes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():           # norms and biases begin as ones and zeros
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.1)
    return model


@torch.no_grad()
def plain_logits(model, prompt, ids):
    """[len(ids), V] that predict ids, from one forward without a cache."""
    logits = model(input_ids=torch.tensor([prompt + ids]), use_cache=False).logits
    return logits[0, len(prompt) - 1:-1].float()


def assert_greedy(model, prompt, ids, new=NEW):
    """Every id has the largest logit given those before it, up to rounding."""
    logits = plain_logits(model, prompt, ids)
    chosen = logits.gather(1, torch.tensor(ids)[:, None])[:, 0]
    assert len(ids) == new and (logits.max(1).values - chosen).max() <= 1e-4 * logits.abs().max()


def sampler_outcome(model, prompts, new=NEW):
    """The sampler's verdict; `right` is checked with 4 slots for 6 prompts, so that rows enter and leave."""
    try:
        sample.check_decoding(model)
    except models.InputError as refusal:
        assert "\n" not in str(refusal)
        return X
    found = {i: ids for i, _, ids, _ in sample.generate(model, prompts, [[0]] * len(prompts), [], new, 4)}
    for i, prompt in enumerate(prompts):
        assert_greedy(model, prompt, found[i], min(new, models.most_positions(model) - len(prompt)))
    return R


def rl_verdict(model, prompts, new=NEW):
    """The verdict of rollout and log-probs."""
    try:
        models.check_model(model)
    except models.InputError:
        return X
    uniforms = torch.zeros(len(prompts), new, dtype=torch.float64)
    found = rl_outcome.rollout(model, prompts, 1, [VOCAB], 0, uniforms)
    for prompt, ids in zip(prompts, found):
        assert_greedy(model, prompt, ids, min(new, models.most_positions(model) - len(prompt)))
    rows = [rl_outcome.Trajectory({}, prompt, ids, True) for prompt, ids in zip(prompts, found)]
    with torch.no_grad():
        logps = rl_outcome.response_logprobs(model, rows, 0.7)
    logits = torch.cat([plain_logits(model, prompt, ids) for prompt, ids in zip(prompts, found)]) / 0.7
    targets = torch.tensor(sum(found, []))[:, None]
    assert torch.allclose(logps, logits.log_softmax(-1).gather(1, targets)[:, 0], atol=1e-3)
    return R


def random_prompts(*lengths):
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(3, 59, (n,), generator=draw).tolist() for n in lengths]


@pytest.mark.parametrize("family", FAMILIES)
def test_right_or_refused(family):
    kind, sizes, *expected = FAMILIES[family]
    model, prompts = build(kind, sizes), random_prompts(1, 3, 7, 12, 20, 26)
    assert [sampler_outcome(model, prompts), rl_verdict(model, prompts)] == expected


@pytest.mark.parametrize("family, change, end", [
    ("gpt2", {"n_positions": 40}, 40), ("opt", {"max_position_embeddings": 40}, 40),
    ("phi3, long rope", {}, 64), ("llama, dynamic rope", {"max_position_embeddings": 40}, 40),
    ("llama4", {"attn_temperature_tuning": True, "floor_scale": 40, "attn_scale": 5.0}, 39),
])
def test_responses_end_where_the_cache_would_be_wrong(family, change, end, capsys):
    """Rows of one batch end at positions of their own, and every token up to there is the model's."""
    kind, sizes, *expected = FAMILIES[family]
    model, prompts = build(kind, {**sizes, **change}), random_prompts(1, 12, 30)
    assert models.most_positions(model) == end
    assert [sampler_outcome(model, prompts, 100), rl_verdict(model, prompts, 100)] == expected
    assert capsys.readouterr().out == f"note: responses end, unfinished, at position {end}\n"


def test_a_prompt_as_long_as_the_model_is_refused():
    model = build("gpt2", {**FAMILIES["gpt2"][1], "n_positions": 40})
    with pytest.raises(models.InputError, match="a prompt of 40 tokens fills the model's 40 positions"):
        list(sample.generate(model, random_prompts(3, 40), [[0], [0]], [], 5))


def test_windows_are_as_before_after_the_check():
    """The check narrows wide windows for a moment; a model that ignores its window is refused meanwhile."""
    for family, name, size in (("mistral", "sliding_window", 4096), ("llama4", "attention_chunk_size", 300)):
        model = build(FAMILIES[family][0], {**FAMILIES[family][1], name: size})
        sample.check_decoding(model)
        assert getattr(model.config, name) == size
    model = build("llama", GROUPED)
    model.config.sliding_window = 4096
    with pytest.raises(models.InputError, match=r"llama: .* the logits are off by \d"):
        sample.check_decoding(model)


def test_rounding_is_told_from_a_wrong_mask(monkeypatch):
    """In bfloat16 two attention kernels gave SmolLM2-135M logits that differ by up to 6 % of the largest."""
    model, decode = build("llama", GROUPED), sample.decode

    def rounded(*args):
        logits = decode(*args)
        return logits + share * logits.abs().max()

    monkeypatch.setattr(sample, "decode", rounded)
    for dtype, share, accepted in ((torch.float32, 0, True), (torch.float32, 0.06, False),
                                   (torch.bfloat16, 0.06, True), (torch.bfloat16, 0.2, False)):
        with nullcontext() if accepted else pytest.raises(models.InputError, match=r"off by \d"):
            sample.check_decoding(model.to(dtype))
    model.config.sliding_window, share = 4096, 0                        # which the model itself ignores
    with pytest.raises(models.InputError, match=r"off by \d"):
        sample.check_decoding(model)


def test_each_layer_type_has_its_mask():
    """Worked by hand: rows at positions 2 and 5 of a view of 6, windows and chunks of 3."""
    config = SimpleNamespace(sliding_window=3, attention_chunk_size=3, layer_types=["any"])
    found = sample.masks(config, torch.tensor([2, 5]), 6, torch.float32)
    assert {name: (mask[:, 0, 0] == 0).int().tolist() for name, mask in found.items()} == {
        "full_attention": [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]],
        "sliding_attention": [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]],
        "chunked_attention": [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]}
    at_four = sample.masks(config, torch.tensor([4]), 6, torch.float32)
    assert (at_four["sliding_attention"] == 0).flatten().int().tolist() == [0, 0, 1, 1, 1, 0]
    assert (at_four["chunked_attention"] == 0).flatten().int().tolist() == [0, 0, 0, 1, 1, 0]
    for changes, wanted in (({}, [1, 1, 1, 1, 1, 0]), ({"sliding_window": 2}, [0, 0, 0, 1, 1, 0]),
                            ({"attention_chunk_size": 4}, [0, 0, 0, 0, 1, 0])):
        mask = sample.masks(SimpleNamespace(**changes), torch.tensor([4]), 6, torch.bfloat16)
        assert mask.shape == (1, 1, 1, 6) and mask.dtype == torch.bfloat16
        assert (mask == 0).flatten().int().tolist() == wanted
        assert mask.min() == torch.finfo(torch.bfloat16).min


@pytest.mark.parametrize("family, fixed", [("llama", True), ("gpt2", True), ("gemma3", True), ("mamba", True),
                                           ("llama, dynamic rope", False), ("phi3, long rope", False)])
def test_rotations_that_a_cuda_graph_would_freeze(family, fixed):
    kind, sizes, *_ = FAMILIES[family]
    assert sample.has_fixed_rope(CONFIG_MAPPING[kind](**sizes)) == fixed
    nested = SimpleNamespace(rope_parameters={"full_attention": {"rope_type": "dynamic"}})
    assert not sample.has_fixed_rope(SimpleNamespace(get_text_config=lambda: nested))


if __name__ == "__main__":      # the table: PYTHONPATH=. python tests/test_families.py
    print("| family | sampler | rollout and log-probs |\n| --- | --- | --- |")
    for name, (config_type, chosen, *_) in FAMILIES.items():
        tiny, texts = build(config_type, chosen), random_prompts(1, 3, 7, 12, 20, 26)
        print(f"| {name} | {sampler_outcome(tiny, texts)} | {rl_verdict(tiny, texts)} |", flush=True)
