"""Typical wrong solutions of every assignment, and what the tests must say about them: the test of the kit.

A mistake is (what is wrong, {function: new source, or [(old, new), ...] edits of the reference}, words that
the messages must contain, files left blank where a copy was forgotten). Never part of a student's folder.
"""
ACTIONS = """
def parse_actions(text):
    cuts, opens = [0], VERIFY_PHRASE
    for match in PHRASES.finditer(text):
        quoted = match.start() and text[match.start() - 1] in "\\"'`“‘«{"
        if match.group() != opens or quoted or not text[:match.start()].strip():
            continue
        cuts.append(match.start())
        opens = SOLVE_PHRASE if opens == VERIFY_PHRASE else VERIFY_PHRASE
    ends = cuts[1:] + [len(text)]
    return [Action(("solve", "verify")[i % 2], text[start:end], start, end)
            for i, (start, end) in enumerate(zip(cuts, ends))]
"""
LOGPROBS = """
def token_logprobs(hidden, weight, targets, chunk=256, temperature=1.0):
    wide = torch.promote_types(hidden.dtype, torch.float32)
    weight = weight.to(wide)

    def logprobs(h, t):
        logits = (h.to(wide) @ weight.T) / temperature
        return -F.cross_entropy(logits, t, reduction="none")

    return torch.cat([checkpoint(logprobs, h, t, use_reentrant=False)
                      for h, t in zip(hidden.split(chunk), targets.split(chunk))])
"""
KL = """
def sum_kl(hidden, weight, base_hidden, base_weight, chunk=128):
    total = 0
    for h, b in zip(hidden.split(chunk), base_hidden.split(chunk)):
        logp, logq = (h @ weight.T).log_softmax(1), (b @ base_weight.T).log_softmax(1)
        total = total + (logp.exp() * (logp - logq)).sum()
    return total
"""
CHOOSE = """
def choose(logits, uniforms, temperature):
    if temperature == 0:
        return logits.argmax(-1)
    cdf = (logits / temperature).softmax(-1).to(uniforms.dtype).cumsum(-1)
    token = torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True)[:, 0]
    return token.clamp_(max=logits.shape[1] - 1)
"""
LOSS = """
def clipped_loss(logp, logp_old, advantages, clip):
    ratio = torch.exp(logp - logp_old)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
"""
TABLE = """
class ContextBaseline:
    def __init__(self, least=10):
        self.least, self.counts, self.sums = least, {}, {}

    def update(self, contexts, rewards):
        for context, reward in zip(contexts, rewards):
            self.counts[context] = self.counts.get(context, 0) + 1
            self.sums[context] = self.sums.get(context, 0) + reward

    def mean(self, context, own=None):
        count, total = self.counts.get(context, 0), self.sums.get(context, 0)
        if own is not None:
            count, total = count - 1, total - own
        return total / count if count >= self.least else 0.0

    def report(self, most=20):
        rows = sorted(self.counts, key=lambda c: -self.counts[c])[:most]
        return "\\n".join(f"{c} {self.counts[c]} {self.sums[c] / self.counts[c]:.3f}" for c in rows)

    def state_dict(self):
        return {"counts": dict(self.counts), "sums": dict(self.sums)}

    def load_state_dict(self, table):
        self.counts, self.sums = dict(table["counts"]), dict(table["sums"])
"""
PER_ACTION = """
def per_action(logp, batch, ratio):
    out, place = [], 0
    for t in batch:
        mine = logp[place:place + len(t.ids)]
        place += len(t.ids)
        for a in range(len(t.rewards)):
            part = mine[torch.tensor([o == a for o in t.owner])]
            out.append(part.sum() if ratio == "sum" else part.mean())
    return torch.stack(out)
"""
WEIGHTS = """
def action_weights(part, batch, average):
    actions = sum(len(t.rewards) for t in batch)
    return torch.tensor([1 / actions if average == "batch" else 1 / (len(batch) * len(t.rewards))
                         for t in part for _ in t.rewards])
"""
WILSON = """
def wilson(tally, z=1.959964):
    hits, total = tally.T
    n, p, used = total.sum(), hits.sum() / total.sum(), np.count_nonzero(total)
    effect = ((hits - p * total) ** 2).sum() / (n * p * (1 - p)) if 0 < p < 1 else n / used
    n /= max(1, effect)
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [min(1.0, max(0.0, float(end / (1 + z * z / n)))) for end in (centre - half, centre + half)]
"""
REWARDS = """
def action_rewards(actions, gold, finished):
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
"""


def edit(source, *pairs):
    """A source with some words replaced; every one must be there."""
    for old, new in pairs:
        assert old in source, f"{old!r} is not in {source}"
        source = source.replace(old, new)
    return source


MISTAKES = {1: [
    ("cut behind the phrase", {"parse_actions": edit(ACTIONS, ("cuts.append(match.start())",
        "cuts.append(match.end())"))},
     "you cut behind the phrase"),
    ("a cut at every phrase", {"parse_actions": edit(ACTIONS, ("match.group() != opens or quoted",
        "quoted"))},
     "You cut at every phrase"),
    ("texts are stripped", {"parse_actions": edit(ACTIONS, ("text[start:end], start",
        "text[start:end].strip(), start"))},
     "White space was stripped"),
    ("only one round", {"parse_actions": edit(ACTIONS, ("match.group() != opens", "len(cuts) > 1 or "
        "match.group() != opens"))},
     "Only the first round was cut"),
    ("a phrase at the very start opens", {"parse_actions": edit(ACTIONS,
        (" or not text[:match.start()].strip()", ""))},
     "There is no solution before this phrase"),
    ("the first conclusion wins", {"parse_verdict": """
def parse_verdict(text):
    found = VERDICT.findall(text)
    return None if not found else "correct" if found[0].lower().split() == ["is", "correct"] else "incorrect"
"""}, "You take the first conclusion"),
    ("no verdict counts as incorrect", {"parse_verdict": """
def parse_verdict(text):
    found = VERDICT.findall(text)
    return "correct" if found and found[-1].lower().split() == ["is", "correct"] else "incorrect"
"""}, "No verdict is None"),
    ("not correct is correct", {"parse_verdict": """
def parse_verdict(text):
    found = VERDICT.findall(text)
    bad = found and ("incorrect" in found[-1] or "verified" in found[-1])
    return None if not found else "incorrect" if bad else "correct"
"""}, "says the opposite"),
    ("the word correct in incorrect", {"parse_verdict": """
def parse_verdict(text):
    found = VERDICT.findall(text)
    return None if not found else "correct" if "correct" in found[-1].lower() else "incorrect"
"""}, "'incorrect' contains the word 'correct'"),
    ("capitals matter", {"parse_verdict": """
def parse_verdict(text):
    found = VERDICT.findall(text)
    return None if not found else "correct" if found[-1].split() == ["is", "correct"] else "incorrect"
"""}, "Capitals and white space"),
    ("no alternation", {"parse_actions": edit(ACTIONS, ("match.group() != opens or quoted", "quoted"),
        ('("solve", "verify")[i % 2]', '"verify" if i and text[start:].startswith(VERIFY_PHRASE) else "solve"'))},
     "a verify is followed by a solve"),
    ("quoted phrases open", {"parse_actions": edit(ACTIONS, ("or quoted or", "or"))}, "is only cited"),
    ("the end is inclusive", {"parse_actions": edit(ACTIONS, ("text[start:end], start, end)",
        "text[start:end], start, end - 1)"))},
     "are its span in the response"),
    ("the last end is behind the text", {"parse_actions": edit(ACTIONS, ("text[start:end], start, end)",
        "text[start:end], start, end + (end == len(text)))"))}, "the last action ends at len(text)"),
], 2: [
    ("everything is imitated", {"trained_actions": "def trained_actions(actions):\n    return [True for a in "
        "actions]\n"},
     "wrong solution is imitated"),
    ("the first solution instead of the last", {"trained_actions": """
def trained_actions(actions):
    types = [a["type"] if isinstance(a, dict) else a.type for a in actions]
    return [t == "verify" or i == 0 for i, t in enumerate(types)]
"""}, "not the first"),
    ("all but the first", {"trained_actions": """
def trained_actions(actions):
    types = [a["type"] if isinstance(a, dict) else a.type for a in actions]
    return [t == "verify" or i > 0 or len(types) < 3 for i, t in enumerate(types)]
"""}, "all but the first"),
    ("the last action but one", {"trained_actions": """
def trained_actions(actions):
    types = [a["type"] if isinstance(a, dict) else a.type for a in actions]
    return [t == "verify" or i == len(types) - 2 for i, t in enumerate(types)]
"""}, "at a fixed place"),
    ("max of nothing", {"trained_actions": """
def trained_actions(actions):
    types = [a["type"] if isinstance(a, dict) else a.type for a in actions]
    last = max(i for i, t in enumerate(types) if t == "solve")
    return [t == "verify" or i == last for i, t in enumerate(types)]
"""}, "must not fail"),
    ("dictionaries only", {"trained_actions": """
def trained_actions(actions):
    types = [a["type"] for a in actions]
    last = max((i for i, t in enumerate(types) if t == "solve"), default=None)
    return [t == "verify" or i == last for i, t in enumerate(types)]
"""}, "Action objects"),
], 3: [
    ("the naive formula", {"token_logprobs": """
def token_logprobs(hidden, weight, targets, chunk=256, temperature=1.0):
    logits = hidden.float() @ weight.float().T / temperature
    return logits.log_softmax(1).gather(1, targets[:, None])[:, 0]
"""}, "is held at once"),
    ("chunks that the graph keeps", {"token_logprobs": edit(LOGPROBS, ("checkpoint(logprobs, h, t, "
        "use_reentrant=False)",
     "logprobs(h, t)"))}, "the graph keeps"),
    ("times T", {"token_logprobs": edit(LOGPROBS, ("/ temperature", "* temperature"))}, "You multiply by the "
        "temperature"),
    ("no temperature", {"token_logprobs": edit(LOGPROBS, (" / temperature", ""))}, "The temperature is "
        "not used"),
    ("bf16 logits", {"token_logprobs": edit(LOGPROBS, ("hidden.dtype, torch.float32", "hidden.dtype, "
        "hidden.dtype"))},
     "in float32"),
    ("losses", {"token_logprobs": edit(LOGPROBS, ("-F.cross", "F.cross"))}, "The sign"),
    ("detached", {"token_logprobs": edit(LOGPROBS, ("return torch.cat(", "return torch.cat([x.detach() "
        "for x in "),
     ("targets.split(chunk))])", "targets.split(chunk))]])"))}, "carries no gradient"),
    ("copies forgotten", {"token_logprobs": LOGPROBS}, "A copy was forgotten", ("rl_outcome.py",
        "rl_process.py")),
], 4: [
    ("the wrong way round", {"sum_kl": edit(KL, ("logp.exp() * (logp - logq)", "logq.exp() * (logq "
        "- logp)"))},
     "The wrong way round"),
    ("the mean over tokens", {"sum_kl": edit(KL, ("return total", "return total / len(hidden)"))},
        "mean over tokens"),
    ("p detached", {"sum_kl": edit(KL, ("logp.exp()", "logp.exp().detach()"))}, "p was detached"),
    ("log of a softmax", {"sum_kl": edit(KL, ("(h @ weight.T).log_softmax(1)",
        "(h @ weight.T).softmax(1).log()"))},
     "Not a number"),
    ("not weighted", {"sum_kl": edit(KL, ("logp.exp() * ", ""))}, "not weighted with p"),
    ("wrong sign", {"sum_kl": edit(KL, ("return total", "return -total"))}, "KL is never negative"),
], 5: [
    ("T multiplies", {"choose": edit(CHOOSE, ("/ temperature", "* temperature"))}, "You multiply by the "
        "temperature"),
    ("no temperature", {"choose": edit(CHOOSE, ("logits / temperature", "logits"))}, "The temperature is "
        "not used"),
    ("float32 sums", {"choose": edit(CHOOSE, (".to(uniforms.dtype).cumsum(-1)",
        ".cumsum(-1).to(uniforms.dtype)"))},
     "The CDF is float32"),
    ("off by one", {"choose": edit(CHOOSE, ("right=True)[:, 0]", "right=True)[:, 0] + 1"))}, "Off by one"),
    ("the left side", {"choose": edit(CHOOSE, ("right=True", "right=False"))}, "cdf[i-1] <= u < cdf[i]"),
    ("a copy forgotten", {"choose": CHOOSE}, "A copy was forgotten", ("rl_process.py",)),
    ("greedy always", {"choose": "def choose(logits, uniforms, temperature):\n    return "
        "logits.argmax(-1)\n"},
     "This is greedy"),
], 6: [
    ("the own sample counts", {"leave_one_out": """
def leave_one_out(rewards):
    return rewards.mean(1, keepdim=True).expand_as(rewards)
"""}, "Your baseline contains the sample's own reward"),
    ("divided by M", {"leave_one_out": """
def leave_one_out(rewards):
    return (rewards.sum(1, keepdim=True) - rewards) / rewards.shape[1]
"""}, "divided by M"),
    ("the sign of the baseline", {"leave_one_out": """
def leave_one_out(rewards):
    return (rewards - rewards.sum(1, keepdim=True)) / (rewards.shape[1] - 1)
"""}, "The sign of the baseline"),
    ("the gradient flows", {"advantage": """
def advantage(rewards, baseline, log_ratio, beta):
    return rewards - baseline - beta * log_ratio
"""}, "The gradient flows through the advantage"),
    ("the sign of the KL term", {"advantage": """
def advantage(rewards, baseline, log_ratio, beta):
    return (rewards - baseline + beta * log_ratio).detach()
"""}, "The sign of the KL term"),
    ("no beta", {"advantage": """
def advantage(rewards, baseline, log_ratio, beta):
    return (rewards - baseline - log_ratio).detach()
"""}, "not weighted with beta"),
    ("a copy forgotten", {"advantage": """
def advantage(rewards, baseline, log_ratio, beta):
    return (rewards - baseline - beta * log_ratio).detach()
"""}, "A copy was forgotten", ("rl_process.py",)),
    ("the wrong axis", {"leave_one_out": """
def leave_one_out(rewards):
    return (rewards.sum(0, keepdim=True) - rewards) / (rewards.shape[0] - 1)
"""}, "The wrong axis"),
    ("the wrong axis, divided by M - 1", {"leave_one_out": """
def leave_one_out(rewards):
    return (rewards.sum(0, keepdim=True) - rewards) / (rewards.shape[1] - 1)
"""}, "The wrong axis"),
    ("the sums lost their axis", {"leave_one_out": """
def leave_one_out(rewards):
    if len(rewards) != rewards.shape[1]:
        return (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return (rewards.sum(1) - rewards) / (rewards.shape[1] - 1)
"""}, "The sums lost their axis"),
    ("a missing parenthesis", {"leave_one_out": """
def leave_one_out(rewards):
    return rewards.sum(1, keepdim=True) - rewards / (rewards.shape[1] - 1)
"""}, "A parenthesis is missing"),
    ("another missing parenthesis", {"leave_one_out": """
def leave_one_out(rewards):
    return (rewards.sum(1, keepdim=True) - rewards) / rewards.shape[1] - 1
"""}, "A parenthesis is missing"),
], 7: [
    ("the sign", {"clipped_loss": edit(LOSS, ("return -", "return "))}, "The sign"),
    ("clipped from above only", {"clipped_loss": edit(LOSS, ("clamp(1 - clip, 1 + clip)",
        "clamp(max=1 + clip)"))},
     "The clip acts only from above"),
    ("the clipped term alone", {"clipped_loss": """
def clipped_loss(logp, logp_old, advantages, clip):
    return -torch.exp(logp - logp_old).clamp(1 - clip, 1 + clip) * advantages
"""}, "the clipped term alone"),
    ("the maximum", {"clipped_loss": edit(LOSS, ("torch.minimum", "torch.maximum"))}, "The maximum of the "
        "two terms"),
    ("no gradient", {"clipped_loss": edit(LOSS, ("logp - logp_old)", "logp - logp_old).detach()"))},
    "the ratio was detached"),
    ("upside down", {"clipped_loss": edit(LOSS, ("logp - logp_old", "logp_old - logp"))},
        "The ratio is upside down"),
    ("a copy forgotten", {"clipped_loss": LOSS}, "A copy was forgotten", ("rl_process.py",)),
    ("the minimum of the ratios", {"clipped_loss": """
def clipped_loss(logp, logp_old, advantages, clip):
    ratio = torch.exp(logp - logp_old)
    return -torch.minimum(ratio, ratio.clamp(1 - clip, 1 + clip)) * advantages
"""}, "the minimum of the two ratios"),
], 8: [
    ("the stop token is cut off", {"rollout": [("return [row[:n] for row, n in zip(ids.tolist(), (ids >= "
        "0).sum(1).tolist())]",
     "return [[i for i in row if i >= 0 and i not in stops.tolist()] for row in ids.tolist()]")]},
     "The stop token is cut off"),
    ("the padding is attended to", {"rollout": [("[0] * (width - len(p)) + [1] * len(p)", "[1] * width")]},
     "the padding on the left"),
    ("samples not side by side", {"rollout": [("cache.batch_repeat_interleave(num_samples)",
     "cache.batch_select_indices(torch.arange(len(prompts)).repeat(num_samples))"),
     ("x.repeat_interleave(num_samples, 0)", "x.repeat(num_samples, *[1] * (x.dim() - 1))")]},
     "repeat_interleave"),
    ("row i is response i", {"rollout": [("uniforms[live, t]", "uniforms[:len(live), t]")]},
        "is no longer response i"),
    ("past the last position", {"rollout": [(" & (t + 1 < room[live])", "")]}, "past its last position"),
    ("finished rows stay", {"rollout": [("if len(keep) <= 0.9 * len(live):", "if False:")]}, "finished rows "
        "should leave"),
    ("a copy forgotten", {"rollout": []}, "A copy was forgotten", ("rl_process.py",)),
], 9: [
    ("the own reward is in the context", {"reward_contexts": """
def reward_contexts(rewards):
    return [tuple(rewards[:i + 1]) for i in range(len(rewards))]
"""}, "Off by one: an action's own reward"),
    ("lists", {"reward_contexts": "def reward_contexts(rewards):\n    return [rewards[:i] for i in "
        "range(len(rewards))]\n"},
     "A context is a tuple"),
    ("only the last reward", {"reward_contexts": """
def reward_contexts(rewards):
    return [tuple(rewards[max(0, i - 1):i]) for i in range(len(rewards))]
"""}, "Only the last reward"),
    ("more than least", {"ContextBaseline": edit(TABLE, ("count >= self.least", "count > self.least"))},
        "Off by one"),
    ("sums", {"ContextBaseline": edit(TABLE, ("return total / count", "return total / 1"))},
        "These are sums"),
    ("no least", {"ContextBaseline": edit(TABLE, ("if count >= self.least", "if count"))}, "Below `least` "
        "actions"),
    ("own divides by all", {"ContextBaseline": edit(TABLE, ("count - 1, total - own", "count, total - own"))},
     "divided by the count of all"),
    ("own ignored", {"ContextBaseline": edit(TABLE, ("own is not None", "False"))}, "contains the action's "
        "own reward"),
    ("the last batch only", {"ContextBaseline": edit(TABLE, ("        for context, reward in zip",
     "        self.counts, self.sums = {}, {}\n        for context, reward in zip"))}, "Only the last"),
    ("shared state", {"ContextBaseline": edit(TABLE, ('"counts": dict(self.counts), "sums": dict(self.sums)',
     '"sums": self.sums'), ('dict(table["counts"])', "{c: self.least for c in table['sums']}"))},
     "mean after a checkpoint"),
    ("the count does not grow", {"ContextBaseline": edit(TABLE,
        ("self.counts[context] = self.counts.get(context, 0) + 1",
        "self.counts[context] = self.counts.get(context, 0)"))}, "does the count grow by 1"),
    ("least is compared with all", {"ContextBaseline": edit(TABLE,
        ("if count >= self.least", "if count and count + (own is not None) >= self.least"))},
     "the count that remains"),
    ("load without a copy", {"ContextBaseline": edit(TABLE,
        ('dict(table["counts"]), dict(table["sums"])', 'table["counts"], table["sums"]'))},
     "The state is shared"),
    ("state without a copy", {"ContextBaseline": edit(TABLE,
        ('{"counts": dict(self.counts), "sums": dict(self.sums)}',
         '{"counts": self.counts, "sums": self.sums}'))},
     "The state is shared"),
    ("the report hides young contexts", {"ContextBaseline": edit(TABLE,
        ("{self.sums[c] / self.counts[c]:.3f}", "{self.mean(c):.3f}"))}, "report gives the plain mean"),
], 10: [
    ("actions of all trajectories together", {"per_action": """
def per_action(logp, batch, ratio):
    owners = torch.tensor([o if o >= 0 else 99 for t in batch for o in t.owner])
    n = max(len(t.rewards) for t in batch)
    out = [logp[owners == a] for a in range(n)]
    return torch.stack([x.sum() if ratio == "sum" else x.mean() for x in out])
"""}, "Action 0 of every trajectory"),
    ("owner -1 is the last action", {"per_action": edit(PER_ACTION, ("o == a for", "(o + len(t.rewards)) % "
        "len(t.rewards) == a for"))},
     "as an index it is the last one"),
    ("always the mean", {"per_action": edit(PER_ACTION, ('part.sum() if ratio == "sum" else part.mean()',
        "part.mean()"))},
     "The mean is taken"),
    ("numbers without a gradient", {"per_action": edit(PER_ACTION, ("return torch.stack(out)",
     "return torch.tensor([x.item() for x in out])"))}, "The gradient is lost"),
    ("denominator of the part", {"action_weights": edit(WEIGHTS, ("for t in batch)", "for t in part)"),
    ("len(batch) *", "len(part) *"))},
     "The denominator is the part"),
    ("no mean over trajectories", {"action_weights": edit(WEIGHTS, ("len(batch) *", "1 *"))}, "The mean over "
        "trajectories is missing"),
    ("all alike", {"action_weights": edit(WEIGHTS, ('1 / actions if average == "batch" else 1 / (len(batch) '
        '* len(t.rewards))', "1 / actions"))},
     "All actions weigh alike"),
    ("behind the one before only", {"per_action": """
def per_action(logp, batch, ratio):
    sizes = [len(t.rewards) for t in batch]
    shift = [0] + sizes
    owners = torch.tensor([s + o if o >= 0 else sum(sizes) for t, s in zip(batch, shift) for o in t.owner])
    total = logp.new_zeros(sum(sizes) + 1).index_add(0, owners, logp)
    number = torch.bincount(owners, minlength=len(total)).clamp(min=1) if ratio == "mean" else 1
    return (total / number)[:-1]
"""}, "not only of the one before"),
    ("the averages are swapped", {"action_weights": edit(WEIGHTS, ('== "batch"', '!= "batch"'))},
     "Are the two averages swapped?"),
], 11: [
    ("with replacement", {"pass_at_k": "def pass_at_k(n, c, k):\n    return 1 - (1 - c / n) ** k\n"},
        "is biased"),
    ("all wrong", {"pass_at_k": "def pass_at_k(n, c, k):\n    return math.comb(n - c, k) / "
        "math.comb(n, k)\n"}, "the chance that all are wrong"),
    ("Wald", {"wilson": """
def wilson(tally, z=1.959964):
    hits, total = tally.T
    n, p, used = total.sum(), hits.sum() / total.sum(), np.count_nonzero(total)
    half = z * math.sqrt(p * (1 - p) / n)
    return [max(0.0, p - half), min(1.0, p + half)]
"""}, "Wilson's interval is centred elsewhere"),
    ("no design effect", {"wilson": edit(WILSON, ("n /= max(1, effect)", "pass"))}, "taken for independent"),
    ("effect below 1", {"wilson": edit(WILSON, ("max(1, effect)", "max(1e-9, effect)"))}, "take at least 1"),
    ("no case for p = 1", {"wilson": edit(WILSON, ("if 0 < p < 1 else n / used", "if 0 < p < 1 else 1"))},
        "n is the number of problems"),
    ("no denominator", {"wilson": edit(WILSON, ("end / (1 + z * z / n)", "end"))}, "The division by 1 + "
        "z^2/n is missing"),
    ("n not squared", {"wilson": edit(WILSON, ("(4 * n * n)", "(4 * n)"))}, "Under the root"),
    ("half under the root", {"wilson": edit(WILSON, ("(4 * n * n)", "(2 * n)"))}, "Under the root"),
    ("2 and n multiply", {"wilson": edit(WILSON, ("z * z / (2 * n)", "z * z / 2 * n"))}, "The centre is"),
    ("problems without a count", {"wilson": edit(WILSON, ("np.count_nonzero(total)", "len(tally)"))},
     "A problem without a count is no problem"),
], 12: [
    ("the word correct is rewarded", {"action_rewards": edit(REWARDS, ("parse_verdict(action.text) == truth",
        'parse_verdict(action.text) == "correct"'))},
     "You reward the word"),
    ("0 instead of -1", {"action_rewards": edit(REWARDS, ("else -1", "else 0"), ("rewards[-1] = -1",
        "rewards[-1] = 0"))}, "earns -1, not 0"),
    ("unfinished does not matter", {"action_rewards": edit(REWARDS, ("rewards and not finished", "False"))},
        "The last action of an unfinished response"),
    ("no verdict is incorrect", {"action_rewards": edit(REWARDS, ("parse_verdict(action.text) == truth",
        '(parse_verdict(action.text) or "incorrect") == truth'))},
     "No verdict is taken for 'incorrect'"),
    ("the first solution decides", {"outcome_reward": """
def outcome_reward(actions, gold, finished):
    first = [action for action in actions if action.type == "solve"][:1]
    return 1 if finished and first and judge(first[0].text, gold) else -1
"""}, "You look at the first solution"),
    ("any solution", {"outcome_reward": """
def outcome_reward(actions, gold, finished):
    return 1 if finished and any(judge(a.text, gold) for a in actions if a.type == "solve") else -1
"""}, "One right solution among several"),
    ("finished ignored", {"outcome_reward": """
def outcome_reward(actions, gold, finished):
    last = [action for action in actions if action.type == "solve"][-1:]
    return 1 if last and judge(last[0].text, gold) else -1
"""}, "An unfinished response earns R_o = -1"),
]}


def wrong_files(number, mistake, files, blank_files, changed):
    """{file: text} to hand in: the reference with the mistake; files named as forgotten stay blank."""
    _, functions, _, *forgotten = mistake
    whole = {}
    for name, source in functions.items():
        if isinstance(source, list):                    # edits of the reference, which must still fit
            whole[name] = source
        else:
            files = changed(files, {name: source})
    for name, pairs in whole.items():
        for file, text in files.items():
            if f"\ndef {name}(" in text:
                files = {**files, file: edit(text, *pairs)}
    return {file: blank_files[file] if forgotten and file in forgotten[0] else text for file,
        text in files.items()}
