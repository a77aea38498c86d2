"""The rewards in another engine: TRL's RLOO trainer takes verifier.reward_func, for real, on a tiny model.

TRL is no requirement of this project: without it the test is skipped.
"""
import pytest
import torch
from chain import save_chain

import verifier

trl = pytest.importorskip("trl", reason="trl is not installed (it is not a requirement)")


@pytest.mark.parametrize("kind", ["RLOO", "GRPO"])
def test_trl_trains_on_our_reward(tmp_path, kind):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    folder, seen = save_chain(tmp_path / "model"), []

    def reward_func(prompts, completions, **columns):
        rewards = verifier.reward_func(prompts, completions, **columns)
        seen.extend(zip(completions, columns["answer"], rewards))
        return rewards

    prompts = [[{"role": "user", "content": "Q"}]] * 8
    data = Dataset.from_dict({"prompt": prompts, "answer": ["1", "2"] * 4})
    config = getattr(trl, f"{kind}Config")(
        output_dir=str(tmp_path / "out"), use_cpu=True, bf16=False, report_to=[], save_strategy="no",
        max_steps=2, per_device_train_batch_size=8, num_generations=4, max_completion_length=16,
        temperature=0.7, learning_rate=1e-2, logging_steps=1, disable_tqdm=True, seed=0)
    trainer = getattr(trl, f"{kind}Trainer")(model=folder, args=config, train_dataset=data,
                                             reward_funcs=reward_func)
    trainer.train()
    assert len(seen) == 16 and {reward for *_, reward in seen} == {1.0, -1.0}
    for completion, answer, reward in seen:     # the chain writes \boxed{1} or \boxed{2}, checks, retries
        last = completion[0]["content"].split("Let me try again.")[-1]
        assert reward == (1 if f"\\boxed{{{answer}}}" in last else -1), (completion, answer)
    logged = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    expected = [sum(r for *_, r in seen[i:i + 8]) / 8 for i in (0, 8)]
    assert logged == pytest.approx(expected)
    before = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    after = trainer.model.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
