r"""The rules of the method: what is judged, what an action is, and what it earns (paper §2.1, §2.3).

    V_golden(s)  judge(text, gold): the last \boxed{...} of a solution is equivalent to the gold answer
    Parser(v)    parse_verdict(text): the last "Therefore, the answer is ..." of a verification
    actions      parse_actions(text): a response cut at the connecting phrases; action_ids: its tokens too
                 solves(actions), checks(actions): those of one type, asked for by name
    R_a          action_rewards: +1 or -1 for every action            (§2.3.2, equations 4 to 6)
    R_o          outcome_reward: +1 or -1 for the whole response      (§2.3.1, equation 2)

Every reward, metric and training trajectory rests on this file, and the policy is optimised against it. So
it never runs a text and never hangs. Whether two answers state the same thing is equivalence.py's business.

    >>> judge(r"Half of one is \boxed{\frac{1}{2}}.", "0.5")
    True

Map: boxed answers, actions, verdicts, the tokens of an action, rewards, adapters to TRL and verl. Reads and
writes nothing. Departures from the released code: "cannot be verified" counts as incorrect, text without a
verdict agrees with nothing, an unfinished response earns -1 for its last action and as R_o.
"""
import dataclasses
import os
import re
import sys
import weakref

# verl loads this file by its path, from a folder of its own; equivalence.py is found beside it all the same.
sys.path.append(os.path.dirname(os.path.abspath(__file__)))
from equivalence import is_equivalent  # noqa: E402

SOLVE_PHRASE = "Let me try again."
VERIFY_PHRASE = "Wait, let me recheck my solution."


# -------------------------------------------------------------------------------- V_golden: boxed answers
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
        end = box.start()       # this box never closes, so an earlier one must close before it: linear time
    return None


def judge(text, gold):
    """V_golden(s): whether the boxed answer of a solution equals the gold answer."""
    return is_equivalent(extract_boxed(text), gold)


def judge_many(texts, golds):
    """V_golden of many solutions, each with its gold answer."""
    return [judge(text, gold) for text, gold in zip(texts, golds, strict=True)]


def check_gold(gold):
    """None if the gold answer can be used, else the reason why not."""
    if not isinstance(gold, str) or not gold.strip():
        return "the gold answer is empty"
    return None if is_equivalent(gold, gold) else "the gold answer cannot be read"


# ------------------------------------------------------------------------------------------------ actions
@dataclasses.dataclass(frozen=True)
class Action:
    type: str    # "solve" | "verify"
    text: str    # the characters of the span, unstripped
    start: int   # character span [start, end) in the response
    end: int


PHRASES = re.compile("|".join(map(re.escape, (SOLVE_PHRASE, VERIFY_PHRASE))))
QUOTES = tuple("\"'`“‘«{")


def parse_actions(text):
    """Cut a response into solve and verify actions (paper §2.1).

    The transition rule decides which phrase opens an action: a solve is followed by a verify and a verify
    by a solve. So a second "Wait, ..." inside a verification and a "Let me try again." inside a solution
    are plain text, as is a phrase right after a quotation mark, or one with no solution before it. A retry
    after a verdict of *correct* does open a solve: the model did go on, and offline RL must be able to see
    that. A cut is made at the first character of the phrase; white space before it stays with the
    previous action.

    >>> [a.type for a in parse_actions("5. Wait, let me recheck my solution. No. Let me try again. 6.")]
    ['solve', 'verify', 'solve']
    """
    cuts = [("solve", 0)]
    for match in PHRASES.finditer(text):
        opens = "solve" if match.group() == SOLVE_PHRASE else "verify"
        quoted = text[match.start() - 1:match.start()] in QUOTES
        solved = len(cuts) > 1 or text[:match.start()].strip()
        if opens != cuts[-1][0] and not quoted and solved:
            cuts.append((opens, match.start()))
    ends = [start for _, start in cuts[1:]] + [len(text)]
    return [Action(kind, text[start:end], start, end) for (kind, start), end in zip(cuts, ends)]


def solves(actions):
    """s_1 ... s_k: the solve actions in their order, at least one: a response begins with a solve. Each is a
    complete attempt, judged by its own boxed answer."""
    return [action for action in actions if action.type == "solve"]


def checks(actions):
    """v_1, v_2 ...: the verify actions in their order. v_j checks s_j, so zip(solves(a), checks(a)) pairs
    each check with its solution; a last solution that nothing checks falls out of that zip.

    >>> a = parse_actions("5. Wait, let me recheck my solution. No. Let me try again. 6.")
    >>> [(solve.text[:2], check.text[-4:-1]) for solve, check in zip(solves(a), checks(a))]
    [('5.', 'No.')]
    """
    return [action for action in actions if action.type == "verify"]


def judge_solves(actions, gold):
    """[V_golden(s_1), ... V_golden(s_k)], finished or not: accuracy counts the last of them."""
    return [judge(solve.text, gold) for solve in solves(actions)]


# ----------------------------------------------------------------------------------------------- verdicts
VERDICT = re.compile(r"\b(?:therefore|thus|hence|so)\s*,?\s+the\s+answer\s+"
                     r"(is\s+correct|is\s+incorrect|is\s+not\s+correct|cannot\s+be\s+verified)"
                     r"(?=\s*(?:[.!*]|\n|$))", re.IGNORECASE)


def parse_verdict(text):
    """Parser(v), the last conclusion: "correct"; "incorrect" (also not correct, cannot be verified); None."""
    found = VERDICT.findall(text)
    if not found:
        return None
    return "correct" if found[-1].lower().split() == ["is", "correct"] else "incorrect"


# -------------------------------------------------------------------------------- the tokens of an action
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
PIECES = weakref.WeakKeyDictionary()    # tokenizer -> {token id: the text of that token alone}


def decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def token_pieces(tokenizer, ids):
    """The text of each token alone. A leading SentencePiece blank, which decoding drops, is put back."""
    known = PIECES.setdefault(tokenizer, {})
    for token in set(ids) - known.keys():
        piece = decode(tokenizer, [token])
        raw = tokenizer.convert_ids_to_tokens(token) or ""
        known[token] = " " + piece if raw.startswith("\u2581") and not piece.startswith(" ") else piece
    return [known[token] for token in ids]


def broken_bytes(tokenizer, ids, raw, at):
    """A replacement mark if token `at` stands in a run of byte tokens that is no valid UTF-8, else None."""
    low, high = at, at
    while low and BYTE_TOKEN.fullmatch(raw[low - 1]):
        low -= 1
    while high < len(ids) and BYTE_TOKEN.fullmatch(raw[high]):
        high += 1
    return "\ufffd" if low <= at < high and "\ufffd" in tokenizer.decode(ids[low:high]) else None


def initials(text):
    """How many W and L it has: with one of them begins every connecting phrase."""
    return text.count("W") + text.count("L")


def action_ids(tokenizer, ids):
    """The cut of parse_actions on sampled token ids: (actions, index of its action for every token).

    No token is ever re-encoded and no prefix decoded. A cut is always at a W or L, and such a letter is
    never spread over tokens, so the n-th of them in the text is the n-th in the tokens, whatever happens to
    multi-byte characters or blanks around it. (Except where SentencePiece byte tokens are no valid UTF-8:
    then the decoder turns the whole run of them into replacement marks, W included.) A token that straddles
    a cut belongs to the action of its first character; special tokens have no characters and stay with the
    action they follow.
    """
    ids = [int(token) for token in ids]
    text = decode(tokenizer, ids)
    actions = parse_actions(text)
    pieces = token_pieces(tokenizer, ids)
    if initials("".join(pieces)) != initials(text):
        raw = tokenizer.convert_ids_to_tokens(ids)
        pieces = [broken_bytes(tokenizer, ids, raw, i) or piece for i, piece in enumerate(pieces)]
    rank = {match.start(): n for n, match in enumerate(re.finditer("[WL]", text))}
    cuts = [rank[action.start] for action in actions[1:]]       # how many W and L come before each cut
    owners, opened, seen = [], 0, 0
    for piece in pieces:
        owner, found = opened, initials(piece)
        while opened < len(cuts) and cuts[opened] < seen + found:
            opened += 1
            if cuts[opened - 1] == seen and piece[0] in "WL":   # the token begins with the phrase
                owner = opened
        owners.append(owner)
        seen += found
    return actions, owners


# ------------------------------------------------------------------------------------------------ rewards
def action_rewards(actions, gold, finished):
    """R_a of §2.3.2: +1 or -1 for every action; the last one of an unfinished response gets -1.

    A solve earns +1 if its boxed answer is right, a verify if its verdict agrees with the truth about the
    solve just before it. No verdict never agrees. No actions: [].
    """
    rewards, right = [], False
    for action in actions:
        if action.type == "solve":
            good = right = judge(action.text, gold)
        else:
            good = parse_verdict(action.text) == ("correct" if right else "incorrect")
        rewards.append(1 if good else -1)
    if rewards and not finished:
        rewards[-1] = -1
    return rewards


def outcome_reward(actions, gold, finished):
    """R_o of §2.3.1: +1 if the response is finished and its last solution is right, else -1."""
    return 1 if finished and any(judge_solves(solves(actions)[-1:], gold)) else -1


# ----------------------------------------------------------------------------------------------- adapters
def reward_func(prompts, completions, completion_ids=None, eos_token_id=None, **columns):
    """R_o in TRL's reward signature; the gold answers stand in the data set's `answer` column.

    TRL passes the ids of each completion up to its stop token, but not which token stops. Bind it, one id
    or a list, and a response that was cut off earns -1, as in our scripts; else each counts as finished:

        reward_funcs=functools.partial(verifier.reward_func, eos_token_id=tokenizer.eos_token_id)
    """
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    finished = [True] * len(texts)
    if completion_ids is not None and eos_token_id is not None:
        stops = [eos_token_id] if isinstance(eos_token_id, int) else eos_token_id
        finished = [len(ids) > 0 and ids[-1] in stops for ids in completion_ids]
    return [float(outcome_reward(parse_actions(text), gold, done))
            for text, gold, done in zip(texts, columns["answer"], finished, strict=True)]


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """R_o in verl's reward signature. verl passes the text without its stop token: it counts as finished."""
    return float(outcome_reward(parse_actions(solution_str), str(ground_truth), True))
