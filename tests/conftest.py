"""Fixtures: tiny random checkpoints with real tokenizers, built on the spot, and a runner for the scripts."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer  # noqa: E402
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer  # noqa: E402

torch.set_num_threads(1)

TEXT = [
    "Please reason step by step, and put your final answer within \\boxed{}.",
    "Let me try again.\n\nWait, let me recheck my solution.\n\n",
    "Therefore, the answer is correct. Therefore, the answer is incorrect.",
    "Therefore, the answer cannot be verified.",
    "Solve 7x+133=693. Check: 7*80=560. 560+133=693. So the answer is \\boxed{80}.",
    "If $\\frac{a}{b} = \\sqrt{2}$ then we have $a^2 = 2 b^2$, which is the solution we want to find.",
    "system user assistant Substituting back, the left side equals 12 and the right side equals 15: wrong.",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
              r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def trained_bpe(pre_tokenizer, alphabet, size, **options):
    """(vocab, merges) of a BPE trained on TEXT."""
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    return state["vocab"], [tuple(pair) for pair in state["merges"]]


def tiny_qwen2_tokenizer():
    split = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    vocab, merges = trained_bpe(split, sorted(pre_tokenizers.ByteLevel.alphabet()), 400)
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_llama_tokenizer():
    vocab, merges = trained_bpe(pre_tokenizers.Metaspace(), [], 200)
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {token: i for i, token in enumerate(special + sorted(vocab, key=vocab.get))}
    return LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)


def save_tiny(folder, tokenizer, config_class, model_class, **special):
    """A random 2-layer model; its next-token distributions are far from flat, so argmax has no near ties."""
    torch.manual_seed(0)
    config = config_class(vocab_size=len(tokenizer), hidden_size=48, intermediate_size=96,
                          num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                          max_position_embeddings=2048, initializer_range=0.3, tie_word_embeddings=False,
                          **special)
    model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory):
    """Path of a random Qwen2 checkpoint: byte-level BPE, chat template, pad and two end tokens."""
    tokenizer = tiny_qwen2_tokenizer()
    special = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return save_tiny(tmp_path_factory.mktemp("models") / "qwen2", tokenizer, Qwen2Config, Qwen2ForCausalLM,
                     bos_token_id=None, **special)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """Path of a random Llama checkpoint: SentencePiece-like BPE, byte fallback, no pad, no chat template."""
    tokenizer = tiny_llama_tokenizer()
    return save_tiny(tmp_path_factory.mktemp("models") / "llama", tokenizer, LlamaConfig, LlamaForCausalLM,
                     eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id)


@pytest.fixture(scope="session")
def repo():
    """The folder that holds the scripts."""
    return REPO


@pytest.fixture
def run_script(tmp_path):
    """run_script("sample.py", "--model", ...) -> finished process, run in tmp_path on one thread."""
    def run(script, *argv, timeout=3600, **options):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, str(REPO / script), *map(str, argv)], cwd=tmp_path, env=env,
                              capture_output=True, text=True, timeout=timeout, **options)
    return run


@pytest.fixture(scope="session")
def shared():
    """The folder with the public data, beside the repository; skips the test where it is absent."""
    folder = REPO.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("no ../shared/data beside the repository")
    return folder
