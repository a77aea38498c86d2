"""A language model whose next token depends on the last token only, with whole phrases as tokens.

Its behaviour can be written down as a table, its probabilities worked out by hand, and a rollout takes
milliseconds. It is a real Llama checkpoint: the attention and the MLP add nothing at first, but can be trained.
"""
import json

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END, ONE, TWO, WAIT, AGAIN, RIGHT, WRONG = range(3, 10)
TOKENS = ["<pad>", "<unk>", "Q", "<end>", "\\boxed{1}", "\\boxed{2}", "Wait, let me recheck my solution.",
          "Let me try again.", "Therefore, the answer is correct.", "Therefore, the answer is incorrect."]
TABLE = {2: {ONE: .5, TWO: .5}, AGAIN: {ONE: .5, TWO: .5}, ONE: {WAIT: 1}, TWO: {WAIT: 1},
         WAIT: {RIGHT: .5, WRONG: .5}, RIGHT: {END: 1}, WRONG: {AGAIN: .7, END: .3}}


def save_chain(folder, table=TABLE, scale=4.0):
    """Write the checkpoint; table: token -> {next token: probability}; whatever it leaves out gets almost none."""
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(TOKENS)}, unk_token="<unk>"))
    pattern = "|".join(t.replace("\\", r"\\").replace(".", r"\.").replace("{", r"\{").replace("}", r"\}")
                       for t in TOKENS[4:])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>",
                                   unk_token="<unk>")
    fast.chat_template = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(TOKENS), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, max_position_embeddings=256, tie_word_embeddings=False,
                         eos_token_id=END, bos_token_id=None, pad_token_id=0)
    net = LlamaForCausalLM(config)
    logits = torch.full((len(TOKENS), len(TOKENS)), -12.0)
    for token, following in table.items():
        for nxt, probability in following.items():
            logits[token, nxt] = torch.tensor(float(probability)).log()
    with torch.no_grad():
        net.model.embed_tokens.weight.copy_(torch.eye(len(TOKENS), 16))
        net.model.layers[0].self_attn.o_proj.weight.zero_()
        net.model.layers[0].mlp.down_proj.weight.zero_()
        net.lm_head.weight.zero_()      # the norm makes each one-hot embedding sqrt(16) = 4 times as long
        net.lm_head.weight[:, :len(TOKENS)] = 0.7 * logits.T / scale        # so that T = 0.7 samples from the table
    net.save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


def save_problems(path, count=12, answer="1"):
    path.write_text("".join(json.dumps({"id": str(i), "problem": "Q", "answer": answer, "level": 1 + i % 2}) + "\n"
                            for i in range(count)))
    return str(path)


def flags(model, data, out, *more, steps=4):
    """Command line of a run of a second or two."""
    return ["--model", model, "--data", data, "--out", str(out), "--steps", str(steps), "--prompts-per-step", "6",
            "--num-samples", "4", "--updates-per-rollout", "2", "--max-new-tokens", "16", "--lr", "1e-2",
            "--warmup", "0", "--save-every", "2", "--eval-every", "2", *map(str, more)]
