"""Assignment 8, public tests: the rollout with a key-value cache."""
import pytest
import torch
from check import fail, same, student
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB, STOPS = 40, [3, 4]
PROMPTS = [[5, 9, 30, 31], [7, 8, 11, 12, 13, 14, 15], [20, 21]]


def tiny_model(positions=64):
    """A random model of one layer whose next-token distributions are far from flat."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        bos_token_id=None,
                         num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=positions,
                         eos_token_id=3,
                         pad_token_id=0, initializer_range=0.5, tie_word_embeddings=False)
    return LlamaForCausalLM(config).eval()


def by_rank(logits, uniforms, temperature):
    """The tests' stand-in for `choose`: u in thirds picks the first, second or third most likely token."""
    rank = (uniforms * 3).long().to(logits.device) if temperature else torch.zeros(len(logits),
        dtype=torch.long)
    return logits.topk(3).indices.gather(1, rank[:, None])[:, 0]


@torch.no_grad()
def slow(policy, prompts, num_samples, stops, temperature, uniforms, room=64):
    """One response at a time, without a cache."""
    found = []
    for row in range(len(prompts) * num_samples):
        ids, prompt = [], prompts[row // num_samples]
        for t in range(uniforms.shape[1]):
            logits = policy(torch.tensor([prompt + ids])).logits[:, -1]
            ids.append(by_rank(logits, uniforms[row, t:t + 1], temperature).item())
            if ids[-1] in stops or len(prompt) + len(ids) >= room:
                break
        found.append(ids)
    return found


def uniforms(rows, length, seed=0):
    return torch.rand(rows, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def roll(prompts, num_samples, length, temperature=0.7, stops=STOPS, policy=None, seed=0):
    """The student's rollout and the slow one: (policy, theirs, right)"""
    policy, rl = policy or tiny_model(), student("rl_outcome")
    rl.choose, u = by_rank, uniforms(len(prompts) * num_samples, length, seed)
    found = rl.rollout(policy, prompts, num_samples, stops, temperature, u)
    if not isinstance(found, list) or not all(isinstance(ids, list) for ids in found):
        fail(f"rollout gives a list of lists of token ids; yours is {str(found)[:150]}")
    if len(found) != len(prompts) * num_samples:
        fail(f"{len(prompts)} prompts x {num_samples} samples are {len(prompts) * num_samples} responses; "
            f"yours has {len(found)}")
    return found, slow(policy, prompts, num_samples, stops, temperature, u,
        policy.config.max_position_embeddings)


def explain(found, right, stops=STOPS):
    """Fail with the reason, where it can be told."""
    if found == right:
        return
    for mine, ids in zip(found, right):
        if mine == ids[:-1] and ids[-1] in stops:
            fail("The stop token is cut off: it is the last token of a finished response, for <end> is "
                "trained.")
        if len(mine) > len(ids) and mine[:len(ids)] == ids:
            fail(f"A response goes on behind its stop token, or past its last position: {mine}, "
                f"expected {ids}")
        if len(mine) == len(ids) + 1 and mine[1:] == ids:
            fail("The prompt's last token is part of the response.")
        if mine and len(mine) < len(ids) and ids[:len(mine)] == mine:
            fail(f"A response ends too early: {mine}, expected {ids}")
    same(found, right, "the responses")


@pytest.mark.assignment(8, points=3)
def test_one_prompt_greedy():
    """one prompt, one greedy response"""
    explain(*roll([PROMPTS[0]], 1, 12, temperature=0))


@pytest.mark.assignment(8, points=3)
def test_prompts_of_one_length():
    """three prompts of the same length, one sampled response each"""
    explain(*roll([p[:2] for p in PROMPTS], 1, 12))
