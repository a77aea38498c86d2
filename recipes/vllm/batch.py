"""Another engine samples: prompts in the batch format of vLLM and of OpenAI-like APIs, and their answers back.

    python recipes/vllm/batch.py export --model M --data DATA --num-samples 5 --out prompts.jsonl
    vllm run-batch --generation-config vllm --model M -i prompts.jsonl -o outputs.jsonl
    python recipes/vllm/batch.py import outputs.jsonl --model M --data DATA --num-samples 5 --out samples.jsonl

Flags are sample.py's: with --verify the prompts ask for checks of the answers in a samples file, for sft.py.
Of --model only the tokenizer is read. A line of outputs may also be {"id", "responses": [str], "finished"}.
"""
import json
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import model as models  # noqa: E402
import sample  # noqa: E402
from model import InputError  # noqa: E402


def exported(tokenizer, requests, args):
    """Lines of the batch format (custom_id, method, url, body), each with the rendered prompt. stop_token_ids
    is vLLM's own field: a base model's folder need not list the token that ends a turn."""
    flags = {"model": args.model, "n": args.num_samples, "temperature": args.temperature, "top_p": 1.0,
             "max_tokens": args.max_new_tokens, "seed": args.seed,
             "stop_token_ids": models.stop_ids(None, tokenizer)}
    lines = []
    for r in requests:
        prompt = models.prompt_text(tokenizer, r.user, r.system)
        url, body = "/v1/completions", {**flags, "prompt": prompt}
        if tokenizer.chat_template:
            url, body = "/v1/chat/completions", {**flags, "messages": models.turns(tokenizer, r.user, r.system)}
        lines.append({"custom_id": r.key, "method": "POST", "url": url, "body": body, "prompt": prompt})
    return lines


def answers_of(where, row):
    """One line of outputs -> (key of its request, [(text, finished)])."""
    body = (row.get("response") or {}).get("body") or {} if "custom_id" in row else {}
    if error := row.get("error") or body.get("error"):              # of vllm run-batch, of an OpenAI batch
        raise InputError(f"{where}: the engine reports an error: {json.dumps(error)[:200]}")
    if body:                                                        # a line of a batch output file
        return str(row["custom_id"]), [
            (c["message"]["content"] if "message" in c else c["text"], c["finish_reason"] == "stop")
            for c in body["choices"]]
    return str(row["id"]), list(zip(row["responses"], row.get("finished") or [True] * len(row["responses"]),
                                    strict=True))


def imported(path, tokenizer, requests, num_samples):
    """Another engine's answers, as the list of what sample.sample would yield. A token count is that of the
    text, and one for the stop token."""
    answers = defaultdict(list)
    for where, row in models.read_jsonl(path):
        try:
            key, pairs = answers_of(where, row)
            answers[key] += [(text, bool(end), bool(end) + len(tokenizer(text, add_special_tokens=False).input_ids))
                             for text, end in pairs]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError(f"{where}: field 'custom_id', 'response' or 'responses' is malformed") from None
    if few := [r.key for r in requests if len(answers[r.key]) < num_samples]:
        raise InputError(f"{path}: field 'custom_id' {few[0]!r}: fewer than {num_samples} responses")
    return [(r, *map(list, zip(*answers[r.key][:num_samples]))) for r in requests]


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    parser = models.Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("export", add_help=False)
    commands.add_parser("import", add_help=False).add_argument("outputs", metavar="OUTPUTS")
    command, rest = parser.parse_known_args(argv)
    args = sample.parse_args(rest)
    outputs = command.outputs if command.command == "import" else None
    models.check_output(args.out, args.force, args.data, outputs)
    requests, tokenizer = sample.load_requests(args), models.load_tokenizer(args.model)
    if not outputs:
        return models.write_jsonl(args.out, exported(tokenizer, requests, args))
    sample.write_results(args, {}, requests, imported(outputs, tokenizer, requests, args.num_samples), {})


if __name__ == "__main__":
    models.run_main(main)
