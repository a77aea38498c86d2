"""Assignment 8, hidden tests."""
import pytest
import torch
from check import fail, same, student
from test_08 import PROMPTS, STOPS, by_rank, explain, roll, slow, tiny_model, uniforms


@pytest.mark.assignment(8, points=3)
def test_prompts_of_different_lengths():
    """prompts of different lengths: padding changes nothing"""
    found, right = roll(PROMPTS, 1, 12)
    alone = [roll([p], 1, 12)[0][0] == roll([p], 1, 12)[1][0] for p in PROMPTS]
    if found != right and all(alone) and found[1] == right[1]:
        fail("The longest prompt gets its right response, shorter ones do not: the padding on the left is "
            "attended to, or "
             "counts as positions. Pass attention_mask and position_ids.")
    explain(found, right)


@pytest.mark.assignment(8, points=3)
def test_samples_of_a_prompt():
    """M samples of a prompt lie side by side and differ"""
    found, right = roll(PROMPTS, 4, 10, stops=[])
    if found == slow(tiny_model(), PROMPTS * 4, 1, [], 0.7, uniforms(12, 10)):
        fail("The order: all samples of the first prompt come first (repeat_interleave, not repeat).")
    if found != right and all(found[4 * p] == found[4 * p + m] for p in range(3) for m in range(4)):
        fail("All samples of a prompt are the same: every response has its own row of uniforms.")
    explain(found, right, stops=[])


@pytest.mark.assignment(8, points=3)
def test_rows_that_leave():
    """a response does not change when others end"""
    found, right = roll(PROMPTS, 8, 40, stops=list(range(3, 12)), seed=3)
    stopped = [ids for ids in found if len(ids) < 40]
    if found != right and all(mine[:1] == ids[:1] for mine, ids in zip(found, right)) and stopped:
        lengths = sorted(map(len, right))
        whole = [i for i, (mine, ids) in enumerate(zip(found, right)) if mine == ids]
        if not any(len(mine) > len(ids) and mine[:len(ids)] == ids or mine == ids[:-1] for mine,
            ids in zip(found, right)):
            fail(f"Responses change once others have ended ({len(whole)} of {len(right)} are right; the "
                f"shortest has "
                 f"{lengths[0]} tokens): after rows have left, row i of the batch is no longer response i. "
                 f"Index the "
                 "uniforms, the cache and the ids by response.")
    explain(found, right, stops=list(range(3, 12)))


@pytest.mark.assignment(8, points=2)
def test_one_prefill():
    """a prompt is run once, not once a sample; then one token a step"""
    policy, seen = tiny_model(), []
    policy.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple((kwargs.get("input_ids", args[0] if args
            else None)).shape)),
        with_kwargs=True)
    rl = student("rl_outcome")
    rl.choose = by_rank
    rl.rollout(policy, PROMPTS, 4, [], 0.7, uniforms(12, 6))
    if seen and seen[0][0] == 12:
        fail("Every prompt is run M times: run it once and repeat its cache (batch_repeat_interleave).")
    if any(length > 1 for _, length in seen[1:]):
        fail(f"After the prompt each step feeds one token a row; yours fed {seen[:4]}: is the cache used?")
    if len(seen) > 6:
        fail(f"6 new tokens need the prompt and 5 more steps; yours ran the model {len(seen)} times.")


@pytest.mark.assignment(8, points=2)
def test_finished_rows_leave():
    """finished rows cost nothing more"""
    policy, seen = tiny_model(), []
    policy.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("input_ids", args[0] if args else None).shape[0]),
        with_kwargs=True)
    rl = student("rl_outcome")
    rl.choose = by_rank
    found = rl.rollout(policy, PROMPTS, 8, list(range(3, 12)), 0.7, uniforms(24, 40, 3))
    needed, paid = sum(len(ids) - 1 for ids in found), sum(seen[1:])
    if paid > 1.6 * needed:
        fail(f"The responses have {needed} tokens behind the first; {paid} rows were run for them: finished "
            f"rows should leave "
             "the batch (batch_select_indices), now and then if not at once.")


@pytest.mark.assignment(8, points=2)
def test_the_last_position():
    """a response ends, unfinished, at the model's last position"""
    policy = tiny_model(positions=12)
    try:
        explain(*roll(PROMPTS, 1, 30, stops=[], policy=policy), stops=[])
    except (IndexError, RuntimeError) as error:
        fail(f"prompt + response may fill max_position_embeddings = 12 positions and no more: "
            f"{str(error)[:150]}")


@pytest.mark.assignment(8, points=2)
def test_copies():
    """rl_process.rollout is the same function"""
    policy, u, rl = tiny_model(), uniforms(6, 8), student("rl_process")
    rl.choose = by_rank
    try:
        found = rl.rollout(policy, PROMPTS, 2, STOPS, 0.7, u)
    except NotImplementedError:
        fail("A copy was forgotten: rl_process.rollout is still blank.")
    if found != slow(policy, PROMPTS, 2, STOPS, 0.7, u):
        fail("rl_process.rollout gives other responses than it should. Was a copy forgotten?")
