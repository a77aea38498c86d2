"""Rule-based judging: V_golden, Parser(v), the cut into actions, a reward per action (S2R, 1, 2, 6, 8).

Every reward, metric and training trajectory rests on this file, and the policy is optimised against it. So
it never runs a text (no eval, no sympy parser), never raises and never hangs: sizes are checked before the
work is done and the work of one comparison is counted.

    V_golden(s)  judge(text, gold): the last \\boxed{...} of a solution is equivalent to the gold answer
    Parser(v)    parse_verdict(text): the last "Therefore, the answer is ..." of a verification
    actions      parse_actions(text), action_ids(tokenizer, ids): cut at the connecting phrases of §2.1
    R_a, R_o     action_rewards, outcome_reward: +1 or -1 (sections 5 and 6)

How two answers are compared: clean both texts; equal texts, plain numbers and words are decided at once;
else each is parsed into a tree of tuples by a small grammar, trees are compared by kind (list, tuple,
interval, set, equation, matrix, ...) and expressions by their values at random points: exact fractions
where possible, 50 digits otherwise.

    python -m doctest verifier.py        # the examples below
    verifier.judge(r"so \\boxed{\\frac{1}{2}}", "0.5"); verifier.judge_many(texts, golds, workers=8)

Map: boxed, actions / verdicts / token map, normalise, parser, values, equivalence, rewards, adapters,
judge_many. Reads and writes nothing. Departures: "cannot be verified" counts as incorrect; text without a
verdict agrees with nothing; an unfinished response is -1 in its last action and in R_o (the released code
differs in each).
"""
import dataclasses
import functools
import json
import math
import os
import random
import re
import subprocess
import sys
import threading
import weakref
from fractions import Fraction

import mpmath

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
        end = box.start()       # this box never closes, so an earlier one must close before it: linear time
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
    """Cut a response into solve and verify actions (paper §2.1).

    The transition rule of §2.1 decides which phrase opens an action: a solve is followed by a verify
    and a verify by a solve. So a second "Wait, ..." inside a verification and a "Let me try again." inside
    a solution are plain text, as is a phrase right after a quotation mark, or one with no solution before
    it. A retry after a verdict of *correct* does open a solve: the model did go on, and offline RL must be
    able to see that. A cut is made at the first character of the phrase; white space before it stays with
    the previous action.

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


BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")
PIECES = weakref.WeakKeyDictionary()    # tokenizer -> {token id: the text of that token alone}


def token_piece(tokenizer, token):
    """The text of one token. A leading SentencePiece blank, which decoding drops, is put back."""
    known = PIECES.setdefault(tokenizer, {})
    if token not in known:
        piece = tokenizer.decode([token], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        raw = tokenizer.convert_ids_to_tokens(token) or ""
        known[token] = " " + piece if raw.startswith("\u2581") and not piece.startswith(" ") else piece
    return known[token]


def broken_bytes(tokenizer, ids, raw, at):
    """A replacement mark if token `at` stands in a run of byte tokens that is no valid UTF-8, else None."""
    low, high = at, at
    while low and BYTE_TOKEN.fullmatch(raw[low - 1]):
        low -= 1
    while high < len(ids) and BYTE_TOKEN.fullmatch(raw[high]):
        high += 1
    return "\ufffd" if low <= at < high and "\ufffd" in tokenizer.decode(ids[low:high]) else None


def action_ids(tokenizer, ids):
    """The same cut on sampled token ids: (actions, index of its action for every token).

    No token is ever re-encoded and no prefix decoded. A cut is always at an ASCII letter (W or L), and such
    a letter is never spread over tokens, so the n-th W of the text is the n-th W of the tokens, whatever
    happens to multi-byte characters or blanks around it. (Except where SentencePiece byte tokens are no
    valid UTF-8: then the decoder turns the whole run of them into replacement marks, W included.) A token
    that straddles a cut belongs to the action of its first character; special tokens have no characters and
    stay with the action they follow.
    """
    ids = [int(token) for token in ids]
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    actions = parse_actions(text)
    cuts, before, last = [], dict.fromkeys("WL", 0), 0          # (letter, how many of it come before the cut)
    for action in actions[1:]:
        for letter in before:
            before[letter] += text.count(letter, last, action.start)
        last = action.start
        cuts.append((text[last], before[text[last]]))
    known = PIECES.setdefault(tokenizer, {})
    pieces = [known[token] if token in known else token_piece(tokenizer, token) for token in ids]
    joined = "".join(pieces)
    if any(joined.count(letter) != text.count(letter) for letter in "WL"):
        raw = tokenizer.convert_ids_to_tokens(ids)
        pieces = [broken_bytes(tokenizer, ids, raw, i) or piece for i, piece in enumerate(pieces)]
    owners, opened, seen = [], 0, dict.fromkeys("WL", 0)
    for piece in pieces:
        owner = opened
        if "W" not in piece and "L" not in piece:
            owners.append(owner)
            continue
        while opened < len(cuts) and seen[cuts[opened][0]] + piece.count(cuts[opened][0]) > cuts[opened][1]:
            letter, count = cuts[opened]
            opened += 1
            if piece[0] == letter and seen[letter] == count:    # the token begins with the phrase
                owner = opened
        owners.append(owner)
        for letter in seen:
            seen[letter] += piece.count(letter)
    while owners and not pieces[len(owners) - 1]:
        owners.pop()                                            # the stop token goes with the last action
    return actions, owners + [len(cuts)] * (len(ids) - len(owners))


# -------------------------------------------------------------------------------------------- normalise
MAX_COMPARED, MAX_PARSED = 50_000, 1500     # characters: above these only equal texts are equal
UNICODE = str.maketrans({
    "−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "⁄": "/", "∕": "/",
    "：": ":", "，": ",", "；": ";",
    "（": "(", "）": ")", "．": ".", "、": ",", "’": "'", "′": "'", "％": "%", "＝": "=",
    "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ",
    "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": r"\degree ", "º": r"\degree ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "∅": r"\emptyset ", "±": r"\pm ", "∓": r"\mp ", "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ",
    "ω": r"\omega ", "∠": "", "△": r"\triangle ", "…": r"\ldots ", "⟨": r"\langle ", "⟩": r"\rangle ",
    "²": "^{2}", "³": "^{3}", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "£": "", "€": "",
    **dict.fromkeys("\n\t\r\u00a0\u2009\u202f", " "), **{chr(0xFF10 + d): str(d) for d in range(10)}})
WRAPPER = re.compile(r"\s*\\(?:f?boxed|fbox)\s*\{(.*)\}\s*\.?\s*", re.DOTALL)
JUNK = re.compile(r"\\(?:left|right)\s*\.|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|quad|"
                  r"qquad|mathbf|boldsymbol|bm|mathit|mathsf|mathcal|angle|rm|bf|hfill)"
                  r"(?![A-Za-z])|\\[,;:> ()\[\]]|~|\\(?:text\w*|mbox|mathrm)\s*\{[\s~]*\}")
DEGREE = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\}|\\degree|\{\s*\\degree\s*\})(?![A-Za-z])")
PRIME = re.compile(r"\^\s*(?:\\prime(?![A-Za-z])|\{\s*(?:\\prime\s*)+\})")
THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
SPACES = re.compile(r" +(?![0-9A-Za-z ])|(?<![0-9A-Za-z ]) +")
CHOICE = re.compile(r"\(?([A-Z])\)")
RATIONAL = re.compile(r"([+-]?)(?:(\d{1,40}(?:\.\d{1,40})?)|"
                      r"\\frac\{(\d{1,40})\}\{(\d{1,40})\}|(\d{1,40})/(\d{1,40}))")


def clean(text):
    r"""One answer without its dress: no dollars, box, \left, spacing, thousands separators, final stop.

    >>> clean(r"$\left( 1{,}000 ,\; 2\right)$."), clean(r"\boxed{\$ 12,\! 345}")
    ('(1,000,2)', '12345')
    """
    if not text.isascii() or "\n" in text or "\t" in text:
        text = text.translate(UNICODE)
    for _ in range(3):
        match = WRAPPER.fullmatch(text) if "box" in text else None
        text = match.group(1) if match else text
    if "\\" in text:
        text = text.replace("\\\\", "\n").replace("\\$", "").replace("dfrac", "frac").replace("tfrac", "frac")
        text = DEGREE.sub(r"\\degree ", text) if "^" in text else text
        text = PRIME.sub(lambda match: "'" * match.group().count("prime"), text) if "prime" in text else text
        text = re.sub(r"\\!\s*", "", text) if "\\!" in text else text
        text = re.sub(r"(?<=\d)\\,(?=\d{3}(?!\d))", "", text) if "\\," in text else text
        text = JUNK.sub(" ", text)
    text = SPACES.sub("", text.replace("$", "").replace("{,}", ",")).strip(" \n").rstrip(" .,;:")
    if "," in text and not ("(" in text or "[" in text or "\\{" in text):
        text = THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    return CHOICE.sub(r"\1", text) if len(text) < 4 else text


def rational(text):
    """The Fraction of a plain integer, decimal, a/b or \\frac{a}{b}, as most answers are; None for others."""
    match = RATIONAL.fullmatch(text)
    if not match:
        return None
    sign, number, *parts = match.groups()
    if number:
        return Fraction(sign + number) if "." in number else Fraction(int(sign + number))
    top, bottom = (int(part) for part in parts if part)
    return Fraction(-top if sign == "-" else top, bottom) if bottom else None


def words_of(text):
    r"""Text answers compare by their words, without \text{} and case; None if there is more than words.

    >>> words_of(r"\text{June } 20"), words_of("Tuesday"), words_of("x+1")
    ('june 20', 'tuesday', None)
    """
    if re.search(r"[=^_+*/<>|&\[\]]", text):
        return None                                 # most formulas, at once
    text = re.sub(r"\\(?:text\w*|mbox|mathrm)\s*\{([^{}]*)\}", r" \1 ", text)
    text = " ".join(text.lower().split()).strip(" .")
    letters = any("a" <= c <= "z" for c in text)
    return text if letters and len(text) > 2 and not re.search(r"[^a-z0-9 .,':()-]", text) else None


# ----------------------------------------------------------------------------------------------- parser
class Unreadable(Exception):
    """Outside the grammar, without a value, or too large."""


MAX_DEPTH = 30          # nested groups, arguments and exponents
FUNCTIONS = set("sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan arccot "
                "ln log lg exp".split())
TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "tg": "tan", "ctg": "cot", "infinity": "oo",
           "infty": "oo", "inf": "oo", "epsilon": "varepsilon"}
NAMED = FUNCTIONS | set(ALIASES) | set(
    "pi oo alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi "
    "psi omega varphi vartheta ell hbar Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega triangle ldots cdots "
    "dots aleph star nabla partial".split())
INSIDE = re.compile(r"([A-Za-z]{0,2}?)(arc(?:sin|cos|tan)|sqrt|theta|sinh?|cosh?|tanh?|log|exp|pi|ln)"
                    r"([A-Za-z]{0,2})")
SHORT_WORDS = set("cm mm km kg mg ml mi ft lb lbs oz yd sec min hr hrs mph kmh rpm yes no not all odd is the "
                  "for in if any day hz gal usd may".split())
SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9,
          "trillion": 10**12}
PHRASES_FOR = {"all real numbers": ("name", "mathbb R"), "all reals": ("name", "mathbb R"),
               "no solution": ("set",), "no solutions": ("set",), "no real solutions": ("set",),
               "empty set": ("set",), "none": ("set",),
               "dne": ("word", "does not exist")}
RELATIONS = {"=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=", r"\lt": "<",
             r"\gt": ">", r"\le": "<=", r"\leq": "<=", r"\leqslant": "<=", r"\leqq": "<=", r"\ge": ">=",
             r"\geq": ">=", r"\geqslant": ">=", r"\geqq": ">=", r"\ne": "!=", r"\neq": "!=",
             r"\approx": "=", r"\equiv": "=", r"\in": "in"}
SYNONYMS = {r"\cdot": "*", r"\times": "*", r"\ast": "*", r"\div": "/", "**": "^", r"\%": "%",
            r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\mid": "|", r"\lbrace": r"\{",
            r"\rbrace": r"\}", r"\lbrack": "[", r"\rbrack": "]", r"\langle": "<(", r"\rangle": ")>",
            r"\degree": "°", r"\circ": "°", r"\colon": ":", ";": ",", r"\land": ",", r"\wedge": ",",
            r"\lor": "or ", r"\vee": "or ", r"\cfrac": r"\frac", r"\dbinom": r"\binom",
            r"\tbinom": r"\binom", r"\backslash": r"\setminus", r"\prime": "'",
            r"\varnothing": r"\emptyset", r"\oslash": r"\emptyset", r"\bar": r"\overline",
            r"\dot": r"\overline"}
TEXT = {r"\text", r"\textbf", r"\textit", r"\textrm", r"\textnormal", r"\mbox", r"\mathrm", r"\hbox",
        r"\textsf", r"\operatorname", r"\emph", r"\texttt"}
CLOSERS = {"(": (")", "]"), "[": (")", "]"), "{": ("}",), r"\{": (r"\}",), "<(": (")>",), "|": ("|",),
           r"\lfloor": (r"\rfloor",), r"\lceil": (r"\rceil",)}
FACTOR_STARTS = set(CLOSERS) - {"|"} | {r"\sqrt", r"\frac", r"\binom", r"\overline", r"\vec", r"\hat",
                                        r"\sum", r"\prod", r"\mathbb", r"\emptyset"}
TOKEN = re.compile(r"""\ *(?:(?P<mixed>\d+\ +\d+\ */\ *\d+(?![\d.]))
    | (?P<num>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<letters>[A-Za-z]+)
    | (?P<op>\\[A-Za-z]+|\\.|\*\*|[<>!=]=|\n|[^ ]))""", re.VERBOSE)
ENVIRONMENT = re.compile(r"\{([pbB]?matrix|smallmatrix|array)\}(?:\{[clr| ]*\})?")


def tokens_of(text, in_text=False, units=()):
    r"""Tokens as pairs (kind, value); kinds: num, mixed, name, fn, word, rel, begin, end, and op for the
    rest.

    >>> tokens_of(r"2\pi \text{ cm}")
    [('num', '2'), ('name', 'pi'), ('word', 'cm')]
    """
    tokens, at = [], 0
    while match := TOKEN.match(text, at):
        at, kind = match.end(), match.lastgroup
        value = match[kind]
        if kind == "letters":
            tokens += split_letters(value, in_text or value.lower() in units)
        elif kind != "op":
            tokens.append((kind, value))
        elif value in RELATIONS:
            tokens.append(("rel", RELATIONS[value]))
        elif value in TEXT:
            close = text.find("}", at)
            if text[at:at + 1] != "{" or close < 0:
                raise Unreadable("text without braces")
            inner, at = text[at + 1:close], close + 1
            tokens += tokens_of(inner, in_text=value != r"\operatorname" and inner not in ("e", "i"))
        elif value in (r"\begin", r"\end"):
            match = ENVIRONMENT.match(text, at)
            if not match:
                raise Unreadable("environment")
            tokens.append((value[1:], match[1]))
            at = match.end()
        elif value[1:] in NAMED:
            tokens.append(known_name(value[1:]))
        else:
            tokens.append((kind, SYNONYMS.get(value, value)))
    return tokens


def known_name(name):
    name = ALIASES.get(name, name)
    return ("fn" if name in FUNCTIONS else "name", name)


def split_letters(run, in_text):
    """A run of letters is a known name, a word, or a product of one-letter variables."""
    if len(run) == 1:
        return [("word" if in_text else "name", run)]
    lower = run.lower()
    if lower in ("and", "or", "percent", "degree", "degrees", "sqrt"):
        return [("op", {"and": ",", "or": "or ", "percent": "%", "sqrt": r"\sqrt"}.get(lower, "°"))]
    if in_text or lower in SHORT_WORDS:
        return [("word", run)]
    if run in NAMED:
        return [known_name(run)]
    inside = INSIDE.fullmatch(run)
    if inside:
        before, known, after = inside.groups()
        return [("name", c) for c in before] + split_letters(known, False) + [("name", c) for c in after]
    return [("word", run)] if len(run) > 3 else [("name", c) for c in run]


@dataclasses.dataclass
class Reader:
    """The tokens and where we are. Values of op tokens are never letters only, so a value tells the kind."""
    tokens: list
    at: int = 0
    bars: int = 0       # inside |...| a bar closes instead of opening
    depth: int = 0
    units: list = dataclasses.field(default_factory=list)   # the words that were dropped after numbers
    marks: set = dataclasses.field(default_factory=set)     # which of % degree log pm occur

    def take(self, values):
        """Step over the next token if its value is among these."""
        value = self.tokens[self.at][1]
        if value in values:
            self.at += 1
            return value
        return None


@functools.lru_cache(maxsize=4096)
def parse(text, units=()):
    r"""LaTeX or plain text -> (tree of tuples, dropped units, marks); raises Unreadable. Loosest level first:


    list = relation (, relation)*            relation = side (= < > <= >= != in side)*
    side = union (: union)*                  union = sum (cup | cap | setminus sum)*
    sum = term (+ - pm term)*                term = factor (* | / | nothing, factor)*
    factor = sign* power                     power = atom (! | % | degree | ^ exponent)*

    Letters in `units` are words, not variables: the other answer has shown that they are units.
    """
    reader = Reader(tokens_of(text, units=units) + [("", "end of text")])
    tree = read_list(reader)
    if reader.at < len(reader.tokens) - 1:
        raise Unreadable("something is left over")
    return spread_signs(tree) if "pm" in reader.marks else tree, reader.units, reader.marks


def read_list(r):
    items, either = [read_relation(r)], False
    while word := r.take((",", "or ")):
        while word:                                 # "1, 2, and 3"
            either |= word == "or "
            word = r.take((",", "or "))
        items.append(read_relation(r))
    return items[0] if len(items) == 1 else ("list", either, *items)


def read_relation(r):
    if r.tokens[r.at] == ("rel", "="):              # "= 5"
        r.at += 1
    sides, ops = [read_side(r)], []
    while r.tokens[r.at][0] == "rel" and len(ops) < 8:
        ops.append(r.tokens[r.at][1])
        r.at += 1
        sides.append(read_side(r))
    return ("rel", tuple(ops), *sides) if ops else sides[0]


def read_side(r):
    """One side of a relation; f(3) alone on a side is a call: it names a value."""
    start = r.at
    items = [read_union(r)]
    while r.take(":"):
        items.append(read_union(r))
    if len(items) > 1:
        return ("ratio", *items)
    values = [value for _, value in r.tokens[start:r.at]]
    call = r.tokens[start][0] == "name" and values[1:2] == ["("] and values.index(")") == len(values) - 1 \
        if ")" in values else False
    return ("call", values[0], items[0]) if call else items[0]


def read_union(r):
    tree = read_sum(r)
    while op := r.take((r"\cup", r"\cap", r"\setminus")):
        tree = (op, tree, read_sum(r))
    return tree


def read_sum(r):
    terms = [read_term(r)]
    while sign := r.take(("+", "-", r"\pm", r"\mp")):
        terms.append(signed(r, sign, read_term(r)))
    return terms[0] if len(terms) == 1 else ("+", *terms)


def signed(r, sign, tree):
    if sign in (r"\pm", r"\mp"):
        r.marks.add("pm")
    return tree if sign == "+" else ("neg", tree) if sign == "-" else (sign, tree)


def read_term(r):
    factors = [read_factor(r)]
    while True:
        kind, value = r.tokens[r.at]
        if value == "*":
            r.at += 1
            factors.append(read_factor(r))
        elif value == "/":
            r.at += 1
            if r.tokens[r.at][0] == "word" and has_number(factors):
                skip_unit(r)
            else:
                factors.append(("inv", read_factor(r)))
        elif kind == "word" and has_number(factors):
            if value.lower() in SCALES:
                r.at += 1
                factors.append(("num", Fraction(SCALES[value.lower()]), None))
            else:
                skip_unit(r)
        elif starts_factor(r):
            factors.append(read_power(r))
        else:
            return factors[0] if len(factors) == 1 else ("*", *factors)


def starts_factor(r):
    kind, value = r.tokens[r.at]
    return kind in ("name", "num", "fn", "mixed", "begin") or value in FACTOR_STARTS or \
        (value == "|" and not r.bars)


def has_number(tree):
    return any(part in ("num", "pi") or (isinstance(part, tuple) and has_number(part)) for part in tree)


def skip_unit(r):
    """Units are dropped: cm^2, m/s, square feet, dollars per hour."""
    while r.tokens[r.at][0] == "word":
        r.units.append(r.tokens[r.at][1].lower())
        r.at += 1
        if r.take("^"):
            read_exponent(r)
        if r.tokens[r.at][1] in ("/", "*") and r.tokens[r.at + 1][0] == "word":
            r.at += 1


def read_factor(r):
    signs = []
    while sign := r.take(("-", "+", r"\pm", r"\mp")):
        signs.append(sign)
    tree = read_power(r)
    if len(signs) > MAX_DEPTH:
        raise Unreadable("signs")
    for sign in reversed(signs):
        tree = signed(r, sign, tree)
    return tree


def read_power(r):
    tree, marks = read_atom(r), 0
    while mark := r.take(("^", "!", "%", "°", "'")):
        marks += 1
        r.marks.add(mark)
        if marks > 6 or (mark == "'" and tree[0] != "name"):
            raise Unreadable("marks")
        tree = ("^", tree, read_exponent(r)) if mark == "^" else \
            ("name", tree[1] + "'") if mark == "'" else (mark, tree)
    return tree


def read_exponent(r):
    sign = r.take(("-", "+"))
    tree = read_atom(r)
    if r.take("^"):
        r.depth += 1                                # a tower without braces
        tree = ("^", tree, read_exponent(r))
        r.depth -= 1
    return signed(r, sign or "+", tree)


def read_atom(r):
    """Every nesting passes here, so the depth is bounded here."""
    r.depth += 1
    if r.depth > MAX_DEPTH:
        raise Unreadable("nested too deeply")
    kind, value = r.tokens[r.at]
    r.at += 1
    if kind == "num":
        tree = read_number(r, value)
    elif kind == "name":
        tree = ("name", value + read_subscript(r))
    elif kind == "mixed":
        whole, top, bottom = map(small_int, re.findall(r"\d+", value))
        tree = ("num", whole + quotient(top, bottom), None)
    elif kind == "word":
        tree = read_words(r, value)
    elif kind == "fn":
        tree = read_function(r, value)
    elif kind == "begin":
        tree = read_matrix(r)
    elif value in CLOSERS:
        tree = read_group(r, value)
    else:
        tree = read_command(r, value)
    r.depth -= 1
    return tree


def read_group(r, opened):
    """Brackets of every kind. (tree) is the tree; (a, b) keeps its brackets: a point or an interval."""
    if opened == "{" and r.tokens[r.at][0] in ("num", "name") and r.tokens[r.at + 1][1] == "}":
        r.at += 2                                               # {12}, {x}: most groups, without the descent
        value = r.tokens[r.at - 2][1]
        return ("name", value) if r.tokens[r.at - 2][0] == "name" else read_plain(value)
    bars, r.bars = r.bars, int(opened in ("|", r"\{"))
    tree = ("set",) if opened == r"\{" and r.tokens[r.at][1] == r"\}" else read_list(r)
    if opened == r"\{" and r.take(("|", ":")):                  # {x | x > 2}
        tree = ("set_of", tree, read_list(r))
    if opened == "{" and r.take((r"\choose",)):
        tree = ("binom", tree, read_list(r))
    closed = r.take(CLOSERS[opened])
    if not closed:
        raise Unreadable("unclosed " + opened)
    r.bars = bars
    items = tree[2:] if tree[0] == "list" else (tree,)
    if opened == r"\{":
        return tree if tree[0] in ("set", "set_of") else ("set", *items)
    if opened in ("|", r"\lfloor", r"\lceil"):
        return ("fn", {"|": "abs"}.get(opened, opened[2:]), tree)
    if opened == "(" and tree[0] == "num" and r.tokens[r.at][1] == "_":
        return ("based", str(tree[1]), read_subscript(r))       # (4210)_5
    if opened == "{" or len(items) == 1:
        return tree
    return ("br", opened[-1], closed[0], *items)


def read_command(r, value):
    if value == r"\frac":
        return ("*", read_argument(r), ("inv", read_argument(r)))
    if value == r"\binom":
        return ("binom", read_argument(r), read_argument(r))
    if value == r"\sqrt":
        index = ("num", Fraction(2), None)
        if r.take("["):
            index = read_sum(r)
            r.take("]")
        return ("^", read_argument(r), ("inv", index))
    if value in (r"\overline", r"\vec", r"\hat"):
        return ("name", value + repr(read_argument(r)))
    if value == r"\mathbb":
        return ("name", "mathbb " + str(read_argument(r)[1]))
    if value == r"\emptyset":
        return ("set",)
    if value in (r"\sum", r"\prod") and r.take("_"):
        first = read_argument(r)
        if r.take("^") and first[:2] == ("rel", ("=",)) and first[2][0] == "name":
            return (value, first[2][1], first[3], read_exponent(r), read_term(r))
    raise Unreadable("unknown " + value)


def read_argument(r):
    r"""The argument of a command: a group, or one token, of which \frac12 takes one digit."""
    kind, value = r.tokens[r.at]
    if kind == "num" and len(value) > 1:
        r.tokens[r.at] = ("num", value[1:])
        return ("num", Fraction(small_int(value[0])), None)
    return read_atom(r)


MIXED = re.compile(r"\\frac (?:\{ (\d+) \}|(\d)) ?(?:\{ (\d+) \}|(\d))(?: |$)")


def read_number(r, text):
    """A number, with what may hang on it: 2516_8, 0.1\\overline{6}, 2\\frac{1}{3}."""
    following = r.tokens[r.at][1]
    if following == "_":
        return ("based", text, read_subscript(r))
    if following == r"\overline" and "." in text:
        digits = "".join(value for _, value in r.tokens[r.at + 1:r.at + 4]).strip("{}")
        r.at += 4
        if not digits.isdigit():
            raise Unreadable("repeating decimal")
        repeat = quotient(small_int(digits), (10**len(digits) - 1) * 10**len(text.partition(".")[2]))
        return ("num", decimal_value(text + "0") + repeat, None)
    if following == r"\frac" and text.isdigit():
        match = MIXED.match(" ".join(value for _, value in r.tokens[r.at:r.at + 7]))
        top, bottom = (small_int(part) for part in match.groups() if part) if match else (0, 0)
        if top < bottom:
            r.at += 1
            read_argument(r), read_argument(r)
            return ("num", decimal_value(text) + Fraction(top, bottom), None)
    return read_plain(text)


def read_plain(text):
    return ("num", decimal_value(text), last_place(text) if "." in text else None)


def quotient(top, bottom):
    if not bottom:
        raise Unreadable("division by zero")
    return Fraction(top, bottom)


def small_int(digits):
    if len(digits) > 500 or not digits.isdigit():
        raise Unreadable("digits")
    return int(digits)


def decimal_value(text):
    if text.isdigit():
        return Fraction(small_int(text))
    digits, _, exponent = text.lower().partition("e")
    if len(digits) > 500 or len(exponent) > 4:
        raise Unreadable("digits")
    return Fraction(digits) * Fraction(10) ** int(exponent or 0)


def last_place(text):
    """Half a unit in the last place of a decimal with at least 4 significant digits, else None."""
    digits, _, exponent = text.lower().partition("e")
    places = len(digits) - digits.index(".") - 1
    if len(digits.replace(".", "").lstrip("0")) < 4:
        return None
    return Fraction(1, 2) * Fraction(10) ** (int(exponent or 0) - places)


def read_subscript(r):
    """x_1, x_{max}: the subscript is part of the name, and x_1 is x_{1}."""
    if not r.take("_"):
        return ""
    depth, parts = 0, []
    while r.at < len(r.tokens) - 1:
        value = r.tokens[r.at][1]
        r.at += 1
        depth += {"{": 1, "}": -1}.get(value, 0)
        parts.append("" if value in ("{", "}") else value)
        if depth <= 0:
            break
    return "_" + "".join(parts)


def read_words(r, value):
    """Words that follow no number: one letter is a name (a choice), more are a phrase."""
    words = [value]
    while r.tokens[r.at][0] == "word":
        words.append(r.tokens[r.at][1])
        r.at += 1
    if len(words) == 1 and len(value) == 1:
        return ("name", value + read_subscript(r))
    phrase = " ".join(words).lower()
    return PHRASES_FOR.get(phrase, ("word", phrase))


def read_function(r, name):
    """sin^2 x, log_2 8, tan^{-1}(2): the argument is a bracket, or a product up to a function or sign."""
    base, exponent = None, None
    for _ in range(2):
        base = read_argument(r) if r.take("_") else base
        exponent = read_exponent(r) if r.take("^") else exponent
    if r.tokens[r.at][1] in ("(", "[", "{", "|"):
        arg = read_atom(r)
    else:
        factors = [read_factor(r)]
        while starts_factor(r) and r.tokens[r.at][0] != "fn" and r.tokens[r.at] != ("name", "e"):
            factors.append(read_power(r))
        arg = factors[0] if len(factors) == 1 else ("*", *factors)
    if exponent == ("neg", ("num", 1, None)) and name in TRIGONOMETRIC:
        return ("fn", "arc" + name, arg)
    tree = ("fn", name, arg)
    if name == "log" and not base:
        r.marks.add("log")
    elif base:
        tree = ("*", ("fn", "ln", arg), ("inv", ("fn", "ln", base)))
    return ("^", tree, exponent) if exponent else tree


def read_matrix(r):
    rows = [[read_relation(r)]]
    while r.tokens[r.at][0] != "end":
        if r.take("&"):
            rows[-1].append(read_relation(r))
        elif r.take("\n"):
            if r.tokens[r.at][0] != "end":
                rows.append([read_relation(r)])
        else:
            raise Unreadable("matrix")
    r.at += 1
    if len({len(row) for row in rows}) > 1:
        raise Unreadable("ragged matrix")
    return ("mat", *map(tuple, rows))


def spread_signs(tree):
    r"""1 \pm x is the list 1 + x, 1 - x; the sign is the same all over one member."""
    if tree[0] in ("list", "set"):
        head = 2 if tree[0] == "list" else 1
        return (*tree[:head], *map(spread_signs, tree[head:]))
    if contains(tree, (r"\pm", r"\mp")):
        return ("list", False, with_signs(tree, r"\pm"), with_signs(tree, r"\mp"))
    return tree


def with_signs(tree, plus):
    if not isinstance(tree, tuple) or not tree:
        return tree
    if tree[0] in (r"\pm", r"\mp"):
        inner = with_signs(tree[1], plus)
        return inner if tree[0] == plus else ("neg", inner)
    return tuple(with_signs(part, plus) for part in tree)


def contains(tree, kinds):
    return tree[0] in kinds or any(contains(part, kinds) for part in tree if isinstance(part, tuple) and part)


# ----------------------------------------------------------------------------------------------- values
MP = mpmath.MPContext()
MP.dps = 50
MAX_BITS = 100_000          # of an exact number; a third for proper fractions
RNG = random.Random(0)
PRIMES = [p for p in range(7, 98) if all(p % q for q in (2, 3, 5, 7)) or p == 7]    # small: powers stay exact
POINTS = [[Fraction(*RNG.sample(PRIMES, 2)) for _ in range(30)] for _ in range(3)]
POINTS += [[RNG.choice((-1, 1)) * x for x in row] for row in POINTS[:2]] + [[-x for x in POINTS[2]]]
POSITIVE = 3                # the first rows; in the others only what is real all the way counts
WORK = 8_000                # steps one comparison may take, over all points and readings


class TooMuch(Exception):
    """The work of one comparison is spent."""


@dataclasses.dataclass
class Env:
    """Where trees are evaluated: a value for every name, how percent, degrees and a bare log are read."""
    work: list                                   # [steps left]
    values: dict = dataclasses.field(default_factory=dict)
    real: bool = False                           # roots and logs of negatives have no value
    percent: bool = False                        # 5% is 1/20, else 5
    radians: bool = False                        # 30 degrees is pi/6, else 30; always inside sin, cos, ...
    log10: bool = False                          # log is log10, else ln


CONSTANTS = {"pi": +MP.pi, "e": +MP.e, "i": MP.mpc(0, 1), "oo": MP.inf}


def exact(x):
    return isinstance(x, Fraction)


def to_mp(x):
    return MP.mpf(x.numerator) / x.denominator if exact(x) else x


def bounded(x, env):
    """Every intermediate value passes here: pay for its size; refuse nan and what is too large."""
    if isinstance(x, tuple):
        return x
    if exact(x):
        bits = x.numerator.bit_length() + x.denominator.bit_length()
        env.work[0] -= 1 + bits // 300
        if bits > MAX_BITS:
            raise Unreadable("too large")
        return x
    env.work[0] -= 4
    if MP.isnan(x) or (x and not MP.isinf(x) and abs(MP.mag(x)) > MAX_BITS):
        raise Unreadable("undefined or too large")
    return x.real if isinstance(x, MP.mpc) and x.imag == 0 else x


def value_of(tree, env):
    """Value of a tree of numbers: an exact Fraction as long as possible, else real or complex with 50
    digits; matrices are tuples of tuples. Raises Unreadable where there is no value, TooMuch when the work
    is spent."""
    if env.work[0] < 0:
        raise TooMuch
    kind = tree[0]
    if kind == "num":
        return tree[1]
    if kind == "name":
        value = env.values.get(tree[1], CONSTANTS.get(tree[1]))
        if value is None:
            raise Unreadable("no value")
        return value
    if kind == "call":
        return value_of(tree[2], env)
    if kind == "fn":
        return bounded(function_value(tree[1], tree[2], env), env)
    if kind in (r"\sum", r"\prod"):
        return series_value(*tree, env)
    if kind == "mat":
        return tuple(tuple(value_of(cell, env) for cell in row) for row in tree[1:])
    if kind not in OPERATIONS:
        raise Unreadable("no value")
    values = [value_of(part, env) for part in tree[1:]]
    if len(values) == 1:
        return bounded(OPERATIONS[kind](values[0], env), env)
    total = values[0]
    for value in values[1:]:
        total = bounded(OPERATIONS[kind](total, value, env), env)
    return total


def add(a, b, env):
    if isinstance(a, tuple) and isinstance(b, tuple):
        if [len(row) for row in a] != [len(row) for row in b]:
            raise Unreadable("shapes")
        return tuple(tuple(add(x, y, env) for x, y in zip(r, s)) for r, s in zip(a, b))
    if isinstance(a, tuple) or isinstance(b, tuple):
        raise Unreadable("shapes")
    if exact(a) and exact(b):
        return a + b
    a, b = to_mp(a), to_mp(b)
    if a and b and not MP.isinf(a) and not MP.isinf(b):
        low, high = sorted((MP.mag(a), MP.mag(b)))
        if low > -120 and high - low > 100:             # below -120 is what is left of an exact zero
            raise Unreadable("50 digits cannot hold the sum")
    return a + b


def multiply(a, b, env):
    if isinstance(a, tuple):
        a, b = b, a
    if isinstance(a, tuple):
        raise Unreadable("matrix product")
    if isinstance(b, tuple):
        return tuple(tuple(multiply(a, x, env) for x in row) for row in b)
    return a * b if exact(a) and exact(b) else to_mp(a) * to_mp(b)


def invert(a, env):
    if isinstance(a, tuple) or a == 0:
        raise Unreadable("division by zero")
    return 1 / a


def power(a, b, env):
    if isinstance(a, tuple) or isinstance(b, tuple) or (a == 0 and not (exact(b) and b > 0)):
        raise Unreadable("power")
    if exact(a) and exact(b) and b.denominator == 1:
        size = (a.numerator.bit_length() + a.denominator.bit_length()) * abs(b)
        if size <= (MAX_BITS if a.denominator == 1 else MAX_BITS // 3):
            env.work[0] -= int(size) // 300
            return a ** int(b)
        if env.values or a.denominator == 1:            # 50 digits could not tell 2^n from 2^n + 1
            raise Unreadable("too large")
    negative = not isinstance(a, MP.mpc) and a < 0
    if negative and exact(b) and b.denominator % 2:     # odd roots of negatives are real
        return power(-a, b, env) * (-1) ** b.numerator
    if negative and env.real:
        raise Unreadable("not real")
    a, b = to_mp(a), to_mp(b)
    if MP.isinf(a) or MP.isinf(b) or abs(b) * (abs(MP.mag(a)) + 2) > MAX_BITS:
        raise Unreadable("too large")
    return MP.power(a, b)


def factorial(a, env):
    if isinstance(a, tuple) or not abs(a) <= 3000:
        raise Unreadable("factorial")
    if exact(a) and a.denominator == 1 and a >= 0:
        env.work[0] -= int(a) // 10
        return Fraction(math.factorial(int(a)))
    return MP.gamma(to_mp(a) + 1)


def binomial(n, k, env):
    if isinstance(n, tuple) or isinstance(k, tuple) or not abs(n) < 10**6 or not abs(k) < 10**6:
        raise Unreadable("binomial")
    if exact(n) and exact(k) and n.denominator == k.denominator == 1 and 0 <= k <= n:
        k = min(k, n - k)
        if k * n.numerator.bit_length() > MAX_BITS // 2:
            raise Unreadable("binomial")
        env.work[0] -= int(k)
        return Fraction(math.comb(int(n), int(k)))
    return MP.binomial(to_mp(n), to_mp(k))


OPERATIONS = {"+": add, "*": multiply, "^": power, "!": factorial, "binom": binomial, "inv": invert,
              "neg": lambda a, env: multiply(Fraction(-1), a, env),
              "%": lambda a, env: multiply(Fraction(1, 100 if env.percent else 1), a, env),
              "°": lambda a, env: multiply(MP.pi / 180 if env.radians else Fraction(1), a, env),
              "ratio": lambda a, b, env: multiply(a, invert(b, env), env)}
MP_NAMES = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}


def function_value(name, arg, env):
    x = value_of(arg, dataclasses.replace(env, radians=True) if name in TRIGONOMETRIC else env)
    if isinstance(x, tuple):
        raise Unreadable("matrix")
    if name == "abs":
        return abs(x)
    if name in ("floor", "ceil"):
        sign = 1 if name == "floor" else -1             # ceil(x) = -floor(-x)
        if isinstance(x, MP.mpc) or abs(x) > 10**30:
            raise Unreadable(name)
        return Fraction(sign * math.floor(sign * x) if exact(x) else
                        sign * int(MP.floor(sign * x + MP.mpf(10)**-40)))
    x = to_mp(x)
    complex_or_negative = isinstance(x, MP.mpc) or x < 0
    if name in ("ln", "log", "lg"):
        if x == 0 or (env.real and complex_or_negative):
            raise Unreadable("log")
        return MP.ln(x) / MP.ln(10) if name == "lg" or (name == "log" and env.log10) else MP.ln(x)
    if abs(x) > 10_000 or (env.real and name in ("arcsin", "arccos") and abs(x) > 1):
        raise Unreadable("too large")
    if name == "arccot":
        return MP.pi / 2 - MP.atan(x)
    return getattr(MP, MP_NAMES.get(name, name))(x)


def series_value(kind, name, first, last, body, env):
    first, last = value_of(first, env), value_of(last, env)
    whole = exact(first) and exact(last) and first.denominator == last.denominator == 1
    if not whole or last - first > 1000:
        raise Unreadable(kind)
    total, step = (Fraction(0), add) if kind == r"\sum" else (Fraction(1), multiply)
    for k in range(int(first), int(last) + 1):
        inner = dataclasses.replace(env, values={**env.values, name: Fraction(k)})
        total = bounded(step(total, value_of(body, inner), env), env)
    return total


def try_value(tree, env):
    try:
        return value_of(tree, env)
    except (Unreadable, ArithmeticError, ValueError):   # mpmath raises the last two at poles
        return None


def close(a, b):
    """Exact values must be equal, 50-digit values must agree to 30 digits."""
    if isinstance(a, tuple) or isinstance(b, tuple):
        return isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) and all(map(close, a, b))
    if exact(a) and exact(b):
        return a == b
    a, b = to_mp(a), to_mp(b)
    if MP.isinf(a) or MP.isinf(b):
        return a == b
    size = max(abs(a), abs(b))
    return abs(a - b) <= size * MP.mpf(10)**-30 or size < MP.mpf(10)**-40


def names_in(tree):
    if tree[0] == "name":
        return set() if tree[1] in CONSTANTS or tree[1] == "mathbb R" else {tree[1]}
    if tree[0] in (r"\sum", r"\prod"):
        return names_in(tree[2:]) - {tree[1]}
    return set().union(*(names_in(part) for part in tree if isinstance(part, tuple) and part))


def points_for(names, env):
    """The environments in which trees are compared: this one where there are no names."""
    if not names:
        return [env]
    names = sorted(names)
    if len(names) > len(POINTS[0]):
        raise Unreadable("too many names")
    return [dataclasses.replace(env, values=dict(zip(names, row)), real=index >= POSITIVE)
            for index, row in enumerate(POINTS)]


def same_value(a, b, env):
    """Two expressions are equal if they are equal at several random points; nothing is rewritten.

    At the first points all names are positive, as school algebra assumes. At mixed signs a point counts
    only where both sides are real all the way: that tells |x| from x, yet lets sqrt(xy) be sqrt(x) sqrt(y).
    """
    names = names_in(a) | names_in(b)
    agreed = 0
    for point in points_for(names, env):
        x, y = try_value(a, point), try_value(b, point)
        if x is None or y is None:
            if (x is None) != (y is None) and not point.real:
                return False
            continue
        if not close(x, y):
            return not names and rounds_to(a, x, b, y)
        agreed += 1
    return agreed > 0


def rounds_to(a, x, b, y):
    """Whether one is a decimal of at least 4 significant digits and the other, no decimal, rounds to it."""
    places = [decimal_place(tree) for tree in (a, b)]
    if places.count(None) != 1 or any(isinstance(value, (tuple, MP.mpc)) for value in (x, y)):
        return False
    return abs(to_mp(x) - to_mp(y)) <= to_mp(places[0] or places[1])


def decimal_place(tree):
    while tree[0] in ("neg", "%", "°"):
        tree = tree[1]
    return tree[2] if tree[0] == "num" else None


# ------------------------------------------------------------------------------------------ equivalence
# A set of reals is a sorted list of intervals (low, high). An end is (value, nudge) with nudge -1, 0, +1:
# just below, at, just above the value. So (2, 5] is ((2, 1), (5, 0)), and ends compare as tuples do.
WHOLE = ((-MP.inf, 1), (MP.inf, -1))


def real_set(tree, name, env):
    """The set of reals a tree describes; inequalities are solved for `name`."""
    kind = tree[0]
    if tree == ("name", "mathbb R"):
        return [WHOLE]
    if kind == "br" and len(tree) == 5:
        low, high = end_value(tree[3], env), end_value(tree[4], env)
        open_low, open_high = tree[1] == "(" or MP.isinf(low), tree[2] == ")" or MP.isinf(high)
        return merge([((low, int(open_low)), (high, -int(open_high)))])
    if kind == "set":
        return merge([((x, 0), (x, 0)) for x in (end_value(part, env) for part in tree[1:])])
    if kind in ("list", r"\cup"):
        pieces = tree[2 if kind == "list" else 1:]
        return merge([part for piece in pieces for part in real_set(piece, name, env)])
    if kind == r"\cap":
        return intersect(real_set(tree[1], name, env), real_set(tree[2], name, env))
    if kind == r"\setminus":
        return intersect(real_set(tree[1], name, env), complement(real_set(tree[2], name, env)))
    if kind == "set_of" or tree[:2] == ("rel", ("in",)):
        return real_set(tree[-1], name, env)
    if kind != "rel":
        raise Unreadable("not a set")
    result = [WHOLE]
    for op, left, right in zip(tree[1], tree[2:], tree[3:]):
        result = intersect(result, solve_linear(op, left, right, name, env))
    return result


def end_value(tree, env):
    return rounded(value_of(tree, env))


def rounded(x):
    """An end as a 35-digit real, so that equal ends are equal."""
    x = to_mp(x)
    if isinstance(x, (tuple, MP.mpc)):
        raise Unreadable("not real")
    return x if MP.isinf(x) or not x else MP.mpf(MP.nstr(x, 35))


def solve_linear(op, left, right, name, env):
    """The reals for which `left op right`, linear in `name`, holds."""
    def at(x):
        point = dataclasses.replace(env, values={**env.values, name: Fraction(x)})
        return to_mp(value_of(left, point)) - to_mp(value_of(right, point))
    f0, f1, f3 = at(0), at(1), at(3)
    if MP.isinf(f0):                                            # x < oo says nothing
        return [WHOLE]
    slope = f1 - f0
    if isinstance(slope, MP.mpc) or abs(slope) < MP.mpf(10)**-30 or not close(f3 - f0, 3 * slope):
        raise Unreadable("not linear")
    x = rounded(-f0 / slope)
    below, point, above = ((-MP.inf, 1), (x, -1)), ((x, 0), (x, 0)), ((x, 1), (MP.inf, -1))
    rising = {"<": [below], "<=": [below, point], ">": [above], ">=": [point, above], "=": [point],
              "!=": [below, above]}
    turned = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
    return merge(rising[op if slope > 0 else turned.get(op, op)])


def merge(parts):
    result = []
    for low, high in sorted(part for part in parts if part[0] <= part[1]):
        if result and low <= (result[-1][1][0], result[-1][1][1] + 1):
            result[-1] = (result[-1][0], max(high, result[-1][1]))
        else:
            result.append((low, high))
    return result


def intersect(first, second):
    return merge([(max(a[0], b[0]), min(a[1], b[1])) for a in first for b in second])


def complement(parts):
    ends = [WHOLE[0]]
    for low, high in parts:
        ends += [(low[0], low[1] - 1), (high[0], high[1] + 1)]
    ends.append(WHOLE[1])
    return merge(list(zip(ends[::2], ends[1::2])))


def is_set(tree):
    """Whether the tree can only be meant as a set of reals: (a, b) and [a, b] may be points too."""
    return tree[0] in (r"\cup", r"\cap", r"\setminus", "set_of") or tree == ("name", "mathbb R") or (
        tree[0] == "br" and len(tree) == 5 and (tree[1] + tree[2] in ("(]", "[)") or "oo" in repr(tree))) or (
        tree[0] == "rel" and tree[1] != ("=",)) or (tree[0] == "list" and all(map(is_relation, tree[2:])))


def is_relation(tree):
    return tree[0] == "rel" and tree[1] != ("=",)


def same_set(a, b, env):
    names_a, names_b = names_in(a), names_in(b)
    bound = [solved_name(a, names_a, b, names_b), solved_name(b, names_b, a, names_a)]
    if None not in bound and bound[0] != bound[1]:
        return False
    for point in points_for((names_a | names_b) - set(bound), env)[:POSITIVE]:
        first, second = real_set(a, bound[0], point), real_set(b, bound[1], point)
        if len(first) != len(second) or not all(
                close(x[0], y[0]) and x[1] == y[1] for p, q in zip(first, second) for x, y in zip(p, q)):
            return False
    return True


def solved_name(tree, names, other, others):
    """The name an inequality is solved for: the one that the other side does not have, or has solved too."""
    own = names - others or (names if contains(other, ("rel",)) else set())
    return min(own) if contains(tree, ("rel",)) and len(own) == 1 else None


def same_relation(a, b, env):
    """Equations and inequalities are the same if their differences are proportional, part for part."""
    first, second = pairs_of(a), pairs_of(b)
    return len(first) == len(second) and all(any(same_pair(p, q, env) for q in second) for p in first) and \
        all(any(same_pair(p, q, env) for p in first) for q in second)


def pairs_of(tree):
    """a < b <= c as ("<", a, b), ("<=", b, c), with > turned round."""
    return [(op.replace(">", "<"), right, left) if op[0] == ">" else (op, left, right)
            for op, left, right in zip(tree[1], tree[2:], tree[3:])]


def same_pair(p, q, env):
    if p[0] != q[0]:
        return False
    if same(p[1], q[1], env) and same(p[2], q[2], env):
        return True
    f, g = (("+", left, ("neg", right)) for _, left, right in (p, q))
    names = names_in(f)
    if not names or names != names_in(g) or p[0] == "in":
        return False
    factors = []
    for point in points_for(names, env)[:POSITIVE]:
        x, y = value_of(f, point), value_of(g, point)
        factors.append(multiply(x, invert(y, env), env))
    if any(isinstance(x, tuple) or not close(x, factors[0]) or x == 0 for x in factors):
        return False
    return p[0] in ("=", "!=") or (not isinstance(factors[0], MP.mpc) and factors[0] > 0)


def named_value(tree):
    """x = 5, 5 = x, f(2) = 5, (x, y) = (1, 2), AB/AC = 5, x in {5}: (name, value); None for other trees."""
    if tree[0] != "rel" or set(tree[1]) != {"="}:
        return (tree[2], tree[3]) if tree[:2] == ("rel", ("in",)) else None
    return (tree[2], tree[-1]) if is_name(tree[2]) else (tree[-1], tree[2]) if is_name(tree[-1]) else None


def is_name(tree):
    if tree[0] == "name":
        return tree[1] not in CONSTANTS
    if tree[0] == "fn":
        return tree[1] == "abs" and is_name(tree[2])
    return tree[0] in ("call", "word") or (tree[0] in ("*", "inv", "br", "ratio") and
                                           all(map(is_name, tree[3 if tree[0] == "br" else 1:])))


def same_equation(a, b, env):
    one, two = named_value(a), named_value(b)
    if one and two and (one[0] == two[0] or one[0][0] != "name" or two[0][0] != "name"):
        return same(one[1], two[1], env)
    if a[0] == b[0] == "rel":
        return tried(same_relation, a, b, env)
    named, other = (one, b) if a[0] == "rel" else (two, a)
    return bool(named) and same(named[1], other, env)


def items_of(tree):
    """The members of a list or set, of the lists in it, and of a set that has a name."""
    named = named_value(tree)
    tree = named[1] if named and named[1][0] == "set" else tree
    if tree[0] not in ("list", "set"):
        return [tree]
    return [item for part in tree[2 if tree[0] == "list" else 1:] for item in items_of(part)]


MAX_PAIRED = 30         # longer lists are paired in the order of their values


def same_items(a, b, env):
    """Lists and sets: the same members in any order; a tuple may stand for a list in its own order."""
    for one, two in ((a, b), (b, a)):
        if one[0] == "br" and two[0] == "list" and all(part[0] != "br" for part in two[2:]):
            return same_parts(one[3:], items_of(two), env)
    first, second = items_of(a), items_of(b)
    repeats = "set" in (a[0], b[0])
    if len(first) != len(second) and not repeats:
        return False
    if max(len(first), len(second)) > MAX_PAIRED:
        return same_parts(in_order(first, env), in_order(second, env), env)
    left = list(second)
    for item in first:
        found = next((other for other in left if same(item, other, env)), None)
        if found is not None:
            left.remove(found)
        elif not repeats or not any(same(item, other, env) for other in second):
            return False
    return all(any(same(item, other, env) for item in first) for other in left)


def in_order(items, env):
    """By value where all are numbers, else by how they are written."""
    values = [try_value((named_value(item) or (0, item))[1], env) for item in items]
    if any(value is None or isinstance(value, tuple) for value in values):
        return sorted(items, key=repr)
    keys = [(float(MP.re(to_mp(value))), float(MP.im(to_mp(value)))) for value in values]
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


def same_parts(a, b, env):
    return len(a) == len(b) and all(same(x, y, env) for x, y in zip(a, b))


def vector_parts(tree):
    """The parts of a tuple or of a column; None for other trees."""
    if tree[0] == "br":
        return tree[3:]
    return [row[0] for row in tree[1:]] if tree[0] == "mat" and len(tree) > 2 and len(tree[1]) == 1 else None


def same(a, b, env):
    """Whether two trees state the same answer: by their kinds, then part by part, then by value."""
    if a == b:
        return True
    kinds = (a[0], b[0])
    if (is_set(a) or is_set(b)) and tried(same_set, a, b, env):
        return True
    if "list" in kinds or "set" in kinds:
        return same_items(a, b, env)
    if "rel" in kinds:
        return same_equation(a, b, env)
    if kinds == ("br", "br"):
        return a[1:3] == b[1:3] and same_parts(a[3:], b[3:], env)
    parts_a, parts_b = vector_parts(a), vector_parts(b)
    if parts_a and parts_b:
        return same_parts(parts_a, parts_b, env)
    if kinds == ("mat", "mat"):
        return len(a) == len(b) and all(same_parts(row, other, env) for row, other in zip(a[1:], b[1:]))
    if "ratio" in kinds and len(a) + len(b) > 6:                # 1:2:3
        return kinds[0] == kinds[1] and len(a) == len(b) and all(
            same(("ratio", x, a[1]), ("ratio", y, b[1]), env) for x, y in zip(a[2:], b[2:]))
    return same_value(a, b, env)


def tried(test, a, b, env):
    """The test, or False where it meets something without a value."""
    try:
        return test(a, b, env)
    except (Unreadable, ArithmeticError, ValueError, TypeError):
        return False


def same_units(a, b):
    """Units may be missing or spelt otherwise, but cm is not m: some must begin with the same letter."""
    first, second = ({word[0] for word in words if not word.startswith("unit")} for words in (a, b))
    return not first or not second or bool(first & second)


NAMING = re.compile(r"[A-Za-z]=(?=[^=]*$)")


def same_answer(a, b):
    """is_equivalent for two cleaned texts. A reading that only one of them needs is tried both ways."""
    (x, units_x, marks_x), (y, units_y, marks_y) = parse(a), parse(b)
    if units_x and not units_y:                                 # 5\text{ m} shows that m is a unit in "5m"
        y, units_y, marks_y = parse(b, tuple(units_x))
    elif units_y and not units_x:
        x, units_x, marks_x = parse(a, tuple(units_y))
    readings = [{}]
    if "%" in marks_x ^ marks_y:
        readings.append({"percent": True})
    if "°" in marks_x ^ marks_y:
        readings.append({"radians": True})
    if "log" in marks_x | marks_y:
        readings.append({"log10": True})
    work = [WORK]
    return same_units(units_x, units_y) and any(
        tried(same, x, y, Env(work, **reading)) for reading in readings)


def is_equivalent(pred, gold):
    r"""Whether two answers, in LaTeX or plain text, state the same thing. Never raises and never runs the
    text.

    >>> is_equivalent("0.5", r"\frac12"), is_equivalent("1,2", "2 and 1"), is_equivalent("(1,2]", "1<x<=2")
    (True, True, True)
    >>> is_equivalent("(1,2)", "(2,1)"), is_equivalent("5, 6", "5"), is_equivalent("0.333", r"\frac{1}{3}")
    (False, False, False)
    """
    if not isinstance(pred, str) or not isinstance(gold, str):
        return False
    if max(len(pred), len(gold)) > MAX_COMPARED:
        return pred == gold
    a, b = clean(pred), clean(gold)
    if not a or not b or a == b:
        return a == b != ""
    x, y = rational(NAMING.sub("", a) if "=" in a and "=" not in b else a), \
        rational(NAMING.sub("", b) if "=" in b and "=" not in a else b)
    if x is not None and y is not None and (x == y or "." not in a + b):
        return x == y
    if max(len(a), len(b)) > MAX_PARSED:
        return False
    words = words_of(a)
    if words and words == words_of(b):
        return True
    try:
        return same_answer(a, b)
    except (Unreadable, TooMuch, RecursionError):
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

    A solve is judged by its boxed answer; a verify by whether its verdict agrees with the truth about the
    solve just before it. No verdict never agrees.
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
    """R_o of §2.3.1: +1 if the response is finished and its last solution is right, else -1."""
    last = [action for action in actions if action.type == "solve"][-1:]
    return 1 if finished and last and judge(last[0].text, gold) else -1


# --------------------------------------------------------------------------------------------- adapters
def reward_func(prompts, completions, **columns):
    """R_o in TRL's reward signature; the gold answers stand in the data set's `answer` column.

    TRL does not say whether a response was cut off. It counts as finished: right before the cut earns +1.
    """
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [float(outcome_reward(parse_actions(text), gold, True))
            for text, gold in zip(texts, columns["answer"])]


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """R_o in verl's reward signature; a response that was cut off counts as finished, as in reward_func."""
    return float(outcome_reward(parse_actions(solution_str), str(ground_truth), True))


# ------------------------------------------------------------------------------------------- judge_many
def serve():
    """The worker of judge_many: a JSON pair in, a JSON bool out, line by line."""
    for line in sys.stdin:
        print(json.dumps(judge(*json.loads(line))), flush=True)


def start_worker():
    """A worker that has answered once: its start, slow on a busy machine, runs on no pair's clock."""
    worker = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--serve"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8")
    try:
        worker.stdin.write('["", "1"]\n')
        worker.stdin.flush()
        worker.stdout.readline()
    except OSError:                                             # it died: the first pair will notice
        pass
    return worker


def judge_many(texts, golds, workers=0, limit=5.0):
    """judge over many pairs; `workers` processes, or this one when 0.

    A pair that takes more than `limit` seconds counts as wrong; its worker is killed and replaced. Workers
    are fresh Python processes that import this file only: no fork of a process that holds a GPU.
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
