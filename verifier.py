"""Rule-based judging: V_golden, Parser(v), the cut into actions and the reward of every action.

(first version: the equivalence grammar follows)
"""
import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
import weakref
from fractions import Fraction

SOLVE_PHRASE = "Let me try again."
VERIFY_PHRASE = "Wait, let me recheck my solution."


# ------------------------------------------------------------------------------------------------ boxed
BOX = re.compile(r"\\f?boxed\s*\{|\\fbox\s*\{|\\boxed\s*(?=[^\s{}$\\])")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def extract_boxed(text):
    r"""Content of the last complete \boxed{...} or \fbox{...}; None if there is none.

    >>> extract_boxed(r"so \boxed{\frac{1}{2}} is it"), extract_boxed(r"\boxed 5."), extract_boxed("5")
    ('\\frac{1}{2}', '5', None)
    """
    end = len(text)
    for box in reversed(list(BOX.finditer(text))):
        if text[box.end() - 1] != "{":                       # \boxed 5
            return re.match(r"[^\s{}$]*", text[box.end():box.end() + 200]).group().rstrip(".,;")
        depth = 1
        for brace in BRACE.finditer(text, box.end(), end):
            depth += {"{": 1, "}": -1}.get(brace.group(), 0)
            if depth == 0:
                return text[box.end():brace.start()].strip()
        end = box.start()       # this box never closes, so an earlier one must close before it: one pass in all
    return None


# ------------------------------------------------------------------------- actions, verdicts, token map
@dataclasses.dataclass(frozen=True)
class Action:
    type: str    # "solve" | "verify"
    text: str    # the characters of the span, unstripped
    start: int   # character span [start, end) in the response
    end: int


PHRASES = re.compile("|".join(map(re.escape, (SOLVE_PHRASE, VERIFY_PHRASE))))
QUOTES = "\"'`“‘«{"
VERDICT = re.compile(r"\b(?:therefore|thus|hence|so)\s*,?\s+the\s+answer\s+"
                     r"(is\s+correct|is\s+incorrect|is\s+not\s+correct|cannot\s+be\s+verified)"
                     r"(?=\s*(?:[.!*]|\n|$))", re.IGNORECASE)


def parse_actions(text):
    """Cut a response into solve and verify actions (paper section 2).

    The transition rule of section 1 decides which phrase opens an action: a solve is followed by a verify and a
    verify by a solve. So a second "Wait, ..." inside a verification and a "Let me try again." inside a solution
    are plain text, as is a phrase right after a quotation mark, or one with no solution before it. A retry after
    a verdict of *correct* does open a solve: the model did go on, and offline RL must be able to see that.
    A cut is made at the first character of the phrase; white space before it stays with the previous action.

    >>> [a.type for a in parse_actions("5. Wait, let me recheck my solution. No. Let me try again. 6.")]
    ['solve', 'verify', 'solve']
    """
    cuts, opens = [0], VERIFY_PHRASE
    for match in PHRASES.finditer(text):
        quoted = match.start() and text[match.start() - 1] in QUOTES
        if match.group() != opens or quoted or not text[:match.start()].strip():
            continue
        cuts.append(match.start())
        opens = SOLVE_PHRASE if opens == VERIFY_PHRASE else VERIFY_PHRASE
    ends = cuts[1:] + [len(text)]
    return [Action(("solve", "verify")[i % 2], text[start:end], start, end)
            for i, (start, end) in enumerate(zip(cuts, ends))]


def parse_verdict(text):
    """Parser(v): "correct" or "incorrect" by the last stated conclusion, None without one."""
    found = VERDICT.findall(text)
    return None if not found else "correct" if found[-1].lower().split() == ["is", "correct"] else "incorrect"


PIECES = weakref.WeakKeyDictionary()    # tokenizer -> {token id: the text of that token alone}


def token_piece(tokenizer, token):
    """The text of one token. A leading SentencePiece blank, which decoding drops, is put back."""
    known = PIECES.setdefault(tokenizer, {})
    if token not in known:
        piece = tokenizer.decode([token], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        raw = tokenizer.convert_ids_to_tokens(token) or ""
        known[token] = " " + piece if raw.startswith("\u2581") and not piece.startswith(" ") else piece
    return known[token]


def action_ids(tokenizer, ids):
    """The same cut on sampled token ids: (actions, index of its action for every token).

    No token is ever re-encoded and no prefix decoded. A cut is always at an ASCII letter (W or L), and such a
    letter is never spread over tokens, so the n-th W of the text is the n-th W of the tokens, whatever happens
    to multi-byte characters or blanks around it. A token that straddles a cut belongs to the action of its first
    character; special tokens have no characters and stay with the action they follow.
    """
    ids = [int(token) for token in ids]
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    actions = parse_actions(text)
    owner, first = [], 0
    pieces = [token_piece(tokenizer, token) for token in ids]
    for index, action in enumerate(actions[1:]):
        letter = text[action.start]
        seen = text.count(letter, 0, action.start)
        for position in range(len(pieces)):
            count = pieces[position].count(letter)
            if seen < count:
                break
            seen -= count
        start = position + (not pieces[position].startswith(letter) or seen > 0)
        owner += [index] * (start - first)
        first = max(first, start)
    return actions, owner + [len(actions) - 1] * (len(ids) - len(owner))


# ------------------------------------------------------------------------------------------ equivalence
def is_equivalent(pred, gold):
    def key(s):
        s = s.replace("$", "").replace("\\left", "").replace("\\right", "").replace("dfrac", "frac")
        return re.sub(r"\s+", "", s).rstrip(".").replace(",\\!", "").replace("{,}", "")
    p, g = key(pred), key(gold)
    try:
        if not p or not g:
            return False
        return p == g or Fraction(p.replace(",", "")) == Fraction(g.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return False


def check_gold(gold):
    """None if the gold answer can be used, else the reason why not."""
    if not isinstance(gold, str) or not gold.strip():
        return "the gold answer is empty"
    return None if is_equivalent(gold, gold) else "the gold answer cannot be read"


def judge(text, gold):
    """V_golden(s): whether the boxed answer of a solution equals the gold answer."""
    answer = extract_boxed(text)
    return bool(answer) and is_equivalent(answer, gold)


# ---------------------------------------------------------------------------------------------- rewards
def action_rewards(actions, gold, finished):
    """R_a of sections 5 and 6: +1 or -1 for every action; the last one of an unfinished response gets -1.

    A solve is judged by its boxed answer; a verify by whether its verdict agrees with the truth about the solve
    just before it. No verdict never agrees.
    """
    rewards, truth = [], None
    for action in actions:
        if action.type == "solve":
            truth = "correct" if judge(action.text, gold) else "incorrect"
            rewards.append(1 if truth == "correct" else -1)
        else:
            rewards.append(1 if parse_verdict(action.text) == truth else -1)
    if rewards and not finished:
        rewards[-1] = -1
    return rewards


def outcome_reward(actions, gold, finished):
    """R_o of section 5: +1 if the response is finished and its last solution is right, else -1."""
    last = [action for action in actions if action.type == "solve"][-1:]
    return 1 if finished and last and judge(last[0].text, gold) else -1


# --------------------------------------------------------------------------------------------- adapters
def reward_func(prompts, completions, **columns):
    """R_o in TRL's reward signature; the gold answers stand in the data set's `answer` column."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [float(outcome_reward(parse_actions(text), gold, True)) for text, gold in zip(texts, columns["answer"])]


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """R_o in verl's reward signature."""
    return float(outcome_reward(parse_actions(solution_str), str(ground_truth), True))


# ------------------------------------------------------------------------------------------- judge_many
def serve():
    """The worker of judge_many: a JSON pair in, a JSON bool out, line by line."""
    for line in sys.stdin:
        print(json.dumps(judge(*json.loads(line))), flush=True)


def start_worker():
    return subprocess.Popen([sys.executable, os.path.abspath(__file__), "--serve"], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8")


def judge_many(texts, golds, workers=0, limit=5.0):
    """judge over many pairs; `workers` processes, or this one when 0.

    A pair that takes more than `limit` seconds counts as wrong; its worker is killed and replaced. Workers are
    fresh Python processes that import this file only: no fork of a process that holds a GPU.
    """
    pairs = list(zip(texts, golds, strict=True))
    if workers == 0:
        return [judge(text, gold) for text, gold in pairs]
    results, todo, lock = [False] * len(pairs), iter(range(len(pairs))), threading.Lock()

    def feed():
        worker = None
        while True:
            with lock:
                index = next(todo, None)
            if index is None:
                break
            worker = worker or start_worker()
            timer = threading.Timer(limit, worker.kill)
            timer.start()
            try:
                worker.stdin.write(json.dumps(pairs[index]) + "\n")
                worker.stdin.flush()
                answer = worker.stdout.readline()
            except OSError:
                answer = ""
            timer.cancel()
            results[index] = answer == "true\n"
            if not answer:                                   # killed or dead: the next pair gets a new one
                worker.kill()
                worker.communicate()
                worker = None
        if worker:
            worker.communicate()

    threads = [threading.Thread(target=feed) for _ in range(min(workers, len(pairs)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


if __name__ == "__main__" and sys.argv[1:] == ["--serve"]:
    serve()
