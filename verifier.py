"""Rule-based judging: V_golden, Parser(v), the cut into actions and the reward of every action.

(first version: the equivalence grammar follows)
"""
import dataclasses
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


# -------------------------------------------------------------------------------------------- normalise
MAX_PARSED, MAX_COMPARED = 3000, 200_000    # characters: beyond the first only equal texts are equal
UNICODE = str.maketrans({
    "−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/", "⁄": "/", "∕": "/", "：": ":",
    "，": ",", "；": ";", "（": "(", "）": ")", "．": ".", "、": ",", "’": "'", "′": "'", "％": "%", "＝": "=",
    "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ",
    "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": r"\degree ", "º": r"\degree ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "∅": r"\emptyset ", "±": r"\pm ", "∓": r"\mp ", "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ",
    "ω": r"\omega ", "∠": "", "△": r"\triangle ", "…": r"\ldots ", "⟨": r"\langle ", "⟩": r"\rangle ",
    "²": "^{2}", "³": "^{3}", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "£": "", "€": "",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\n": " ", "\t": " ", "\r": " ",
    **{chr(0xFF10 + digit): str(digit) for digit in range(10)}})
WRAPPER = re.compile(r"\s*(?:\\f?boxed|\\fbox)\s*\{(.*)\}\s*", re.DOTALL)
JUNK = re.compile(r"\\(?:left|right)\s*\.|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|quad|qquad|"
                  r"mathbf|boldsymbol|bm|mathit|mathsf|mathcal|angle|rm|bf|hfill|,)(?![A-Za-z])|"
                  r"\\[;:> ()\[\]]|(?<![A-Za-z])\{\}|~| ")
DEGREE = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\}|\\degree|\{\s*\\degree\s*\})")
PRIME = re.compile(r"\^\s*(?:\\prime(?![A-Za-z])|\{\s*(?:\\prime\s*)+\})")
THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
BRACKETS = re.compile(r"[(\[]|\\\{")
SPACES = re.compile(r" +(?![0-9A-Za-z])|(?<![0-9A-Za-z]) +")
PLAIN = re.compile(r"[+-]?\d{1,40}(?:\.\d{1,40})?")


def clean(text):
    r"""One answer without dress: no dollars, boxes, \left, spacing commands, thousands separators, final stop.

    >>> clean(r"$\left( 1{,}000 ,\; 2\right)$."), clean(r"\boxed{\$ 12,\! 345}")
    ('(1,000,2)', '12345')
    """
    if not text.isascii():
        text = text.translate(UNICODE)
    elif "\n" in text or "\t" in text:
        text = text.translate(UNICODE)
    while "boxed" in text or "fbox" in text:
        match = WRAPPER.fullmatch(text)
        if not match:
            break
        text = match.group(1)
    if "\\" in text:
        text = DEGREE.sub(r"\\degree ", text)
        text = PRIME.sub(lambda match: "'" * match.group().count("prime"), text)
        text = text.replace("\\\\", "\n").replace("\\$", "").replace("{,}", ",")
        text = re.sub(r"\\!\s*", "", text)
        text = re.sub(r"(?<=\d)\\,(?=\d{3}(?!\d))", "", text)
        text = JUNK.sub(" ", text)
    text = SPACES.sub("", text.replace("$", "").replace("~", " ")).strip(" \n")
    while text and text[-1] in ".,;:":
        text = text[:-1].rstrip(" ")
    if "," in text and not BRACKETS.search(text):
        text = THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    return text


def words_of(text):
    r"""Text answers compare by their words: no \text{}, no case. None if there is anything but words.

    >>> words_of(r"\text{June } 20"), words_of("No."), words_of("x+1")
    ('june 20', 'no', None)
    """
    text = re.sub(r"\\(?:text\w*|mbox|mathrm|textbf)\s*\{([^{}]*)\}", r" \1 ", text)
    text = " ".join(text.replace("\\", " ").lower().split()).strip(" .")
    return text if re.fullmatch(r"[a-z0-9][a-z0-9 .,'’:()-]*[a-z][a-z0-9 .,'’:()-]*", text) and len(text) > 2 else None


# ----------------------------------------------------------------------------------------------- parser
class Unreadable(Exception):
    """The text is outside the grammar, or a value is undefined, or the work is over the budget."""


MAX_DEPTH = 30          # nesting of braces, brackets, signs and powers
FUNCTIONS = set("sin cos tan cot sec csc sinh cosh tanh coth arcsin arccos arctan arccot ln log lg exp det".split())
ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "Log": "log", "tg": "tan", "ctg": "cot",
           "infinity": "oo", "infty": "oo", "inf": "oo", "oo": "oo", "epsilon": "varepsilon"}
GREEK = set("alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi "
            "omega varphi vartheta varrho ell hbar Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega triangle "
            "ldots cdots dots aleph star ast nabla partial".split())
NAMED = FUNCTIONS | set(ALIASES) | GREEK | {"pi", "sqrt"}
INSIDE = re.compile(r"([A-Za-z]{0,2}?)(arc(?:sin|cos|tan)|sqrt|theta|sinh?|cosh?|tanh?|log|exp|pi|ln)([A-Za-z]{0,2})")
SHORT_WORDS = set("cm mm km kg mg ml mi ft lb lbs oz yd sec min hr hrs mph kmh rpm yes no not all odd is the for in "
                  "if any day days inch deg hz gal usd rs".split())
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
RELATIONS = {"=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=", r"\lt": "<", r"\gt": ">",
             r"\le": "<=", r"\leq": "<=", r"\leqslant": "<=", r"\leqq": "<=", r"\ge": ">=", r"\geq": ">=",
             r"\geqslant": ">=", r"\geqq": ">=", r"\ne": "!=", r"\neq": "!=", r"\approx": "=", r"\equiv": "=",
             r"\in": "in"}
SYNONYMS = {r"\cdot": "*", r"\times": "*", r"\ast": "*", r"\div": "/", "**": "^", r"\%": "%", r"\lvert": "|",
            r"\rvert": "|", r"\vert": "|", r"\mid": "|", r"\lbrace": r"\{", r"\rbrace": r"\}", r"\lbrack": "[",
            r"\rbrack": "]", r"\langle": "<(", r"\rangle": ")>", r"\lfloor": "floor(", r"\rfloor": ")floor",
            r"\lceil": "ceil(", r"\rceil": ")ceil", r"\degree": "deg", r"\circ": "deg", r"\colon": ":", ";": ",",
            r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\dbinom": r"\binom",
            r"\tbinom": r"\binom", r"\sqrt": "sqrt", r"\setminus": "setminus", r"\backslash": "setminus",
            r"\cup": "cup", r"\cap": "cap", r"\pm": "pm", r"\mp": "mp", r"\prime": "'", r"\land": ",",
            r"\varnothing": r"\emptyset", r"\oslash": r"\emptyset", r"\lor": "or", r"\vee": "or", r"\wedge": ",",
            r"\choose": r"\choose", r"\bar": r"\overline", r"\dot": r"\overline"}
TEXT = {r"\text", r"\textbf", r"\textit", r"\textrm", r"\textnormal", r"\mbox", r"\mathrm", r"\hbox", r"\textsf",
        r"\operatorname", r"\emph", r"\texttt"}
TOKEN = re.compile(r"""\s*(?:(?P<mixed>\d+\ +\d+\ */\ *\d+(?![\d.]))
    | (?P<num>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<word>[A-Za-z]+)
    | (?P<op>\\[A-Za-z]+|\\.|\*\*|[<>!=]=|\n|\S))""", re.VERBOSE | re.DOTALL)


def tokens_of(text, in_text=False):
    r"""Tokens as pairs (kind, value); kinds: num, mixed, name, fn, word, and op for all else.

    >>> tokens_of(r"2\pi \text{ cm}")
    [('num', '2'), ('name', 'pi'), ('word', 'cm')]
    """
    tokens, at = [], 0
    while at < len(text):
        match = TOKEN.match(text, at)
        if not match:
            break
        at, kind, value = match.end(), match.lastgroup, match[match.lastgroup]
        if kind == "word":
            tokens += split_letters(value, in_text)
        elif kind == "op" and value in TEXT:
            close = text.find("}", at)
            if text[at:at + 1] != "{" or close < 0:
                raise Unreadable("text without braces")
            inner = text[at + 1:close]
            named = value == r"\operatorname" or inner in ("e", "i")
            tokens += tokens_of(inner, in_text=not named)
            at = close + 1
        elif kind == "op" and value in (r"\begin", r"\end"):
            match = re.compile(r"\{(\w+)\*?\}(?:\{[clr| ]*\})?").match(text, at)
            if not match:
                raise Unreadable("environment")
            tokens.append((value[1:], match.group(1)))
            at = match.end()
        elif kind == "op" and value in RELATIONS:
            tokens.append(("rel", RELATIONS[value]))
        elif kind == "op" and value[0] == "\\" and value[1:] in NAMED and value != r"\sqrt":
            tokens += split_letters(value[1:], False)
        else:
            tokens.append((kind, SYNONYMS.get(value, value)))
    return tokens


def split_letters(run, in_text):
    """A run of letters is a known name, a word, or a product of one-letter variables."""
    lower = run.lower()
    if lower in ("and", "or"):
        return [("op", "," if lower == "and" else "or")]
    if lower in ("percent", "degree", "degrees"):
        return [("op", "%" if lower == "percent" else "deg")]
    if in_text:
        return [("word", run)]
    if run in NAMED:
        run = ALIASES.get(run, run)
        return [("op", run)] if run == "sqrt" else [("fn" if run in FUNCTIONS else "name", run)]
    if lower in SHORT_WORDS:
        return [("word", run)]
    inside = INSIDE.fullmatch(run)
    if inside:
        before, known, after = inside.groups()
        return [("name", c) for c in before] + split_letters(known, False) + [("name", c) for c in after]
    return [("word", run)] if len(run) > 3 else [("name", c) for c in run]


@dataclasses.dataclass
class Reader:
    tokens: list
    at: int = 0
    bars: int = 0       # open |...|: a bar then closes instead of opening
    depth: int = 0

    def peek(self):
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end of text", "")

    def take(self, *values):
        """Step over the next token if its value is one of these."""
        kind, value = self.peek()
        if kind in ("op", "rel") and value in values:
            self.at += 1
            return value
        return None

    def need(self, value):
        if not self.take(value):
            raise Unreadable(f"no {value}")


def parse(text):
    r"""LaTeX or plain text -> tree of tuples; raises Unreadable. Level by level, loosest first:

    answer = relation (, relation)*          relation = ratio (= < > <= >= != in ratio)*
    ratio = union (: union)*                 union = sum (cup | cap | setminus sum)*
    sum = term (+ | - | pm term)*            term = factor (* | / | nothing, factor)*
    factor = sign factor | power             power = atom (! | % | degree | ^ factor)*
    """
    reader = Reader(tokens_of(text))
    tree = read_list(reader)
    if reader.at < len(reader.tokens):
        raise Unreadable("something is left over")
    return tree


def read_list(r):
    items, words = [read_relation(r)], set()
    while True:
        word = r.take(",", "or")
        if not word:
            break
        while r.take(",", "or"):        # "1, 2, and 3"
            pass
        words.add(word)
        items.append(read_relation(r))
    return items[0] if len(items) == 1 else ("list", "or" in words, *items)


def read_relation(r):
    if r.peek() == ("rel", "="):        # "= 5"
        r.at += 1
    sides, ops = [read_side(r)], []
    while r.peek()[0] == "rel":
        ops.append(r.peek()[1])
        r.at += 1
        sides.append(read_side(r))
    return ("rel", tuple(ops), *sides) if ops else sides[0]


def read_side(r):
    """One side of a relation; f(3) alone on a side is a call: it names a value."""
    start = r.at
    items = [read_union(r)]
    while r.take(":"):
        items.append(read_union(r))
    inside = r.tokens[start:r.at]
    if len(inside) > 3 and inside[0][0] == "name" and inside[1] == ("op", "(") and inside[-1] == ("op", ")") \
            and ("op", ")") not in inside[:-1]:
        return ("call", inside[0][1], items[0])
    return items[0] if len(items) == 1 else ("ratio", *items)


def read_union(r):
    tree = read_sum(r)
    while True:
        op = r.take("cup", "cap", "setminus")
        if not op:
            return tree
        tree = (op, tree, read_sum(r))


def read_sum(r):
    terms = []
    while True:
        sign = r.take("+", "-", "pm", "mp")
        if terms and not sign:
            return terms[0] if len(terms) == 1 else ("+", *terms)
        term = read_term(r)
        terms.append(("neg", term) if sign == "-" else (sign, term) if sign in ("pm", "mp") else term)


def starts_factor(r):
    kind, value = r.peek()
    if kind != "op":
        return kind in ("num", "mixed", "name", "fn", "begin")
    return value in ("(", "[", "{", r"\{", "<(", "floor(", "ceil(", "sqrt", r"\frac", r"\binom", r"\overline",
                     r"\vec", r"\hat", r"\sum", r"\prod", r"\mathbb") or (value == "|" and not r.bars)


def read_term(r):
    factors = [read_factor(r)]
    while True:
        if r.take("*"):
            factors.append(read_factor(r))
        elif r.take("/"):
            if r.peek()[0] == "word" and has_number(factors):
                skip_unit(r)
            else:
                factors.append(("inv", read_factor(r)))
        elif r.peek()[0] == "word" and has_number(factors):
            scale = SCALES.get(r.peek()[1].lower())
            if scale:
                r.at += 1
                factors.append(("num", Fraction(scale), None))
            else:
                skip_unit(r)
        elif starts_factor(r):
            factors.append(read_factor(r))
        else:
            return factors[0] if len(factors) == 1 else ("*", *factors)


def has_number(tree):
    return isinstance(tree, (tuple, list)) and any(
        has_number(part) or part in ("num", "pi") for part in tree)


def skip_unit(r):
    """Units are dropped: cm^2, m/s, kg*m, square feet, dollars per hour."""
    while r.peek()[0] == "word":
        r.at += 1
        if r.take("^"):
            read_exponent(r)
        if r.peek()[1] in ("/", "*") and r.tokens[r.at + 1:r.at + 2] and r.tokens[r.at + 1][0] == "word":
            r.at += 1


def read_factor(r):
    r.depth += 1
    if r.depth > MAX_DEPTH:
        raise Unreadable("nested too deeply")
    sign = r.take("-", "+", "pm", "mp")
    tree = read_factor(r) if sign else read_power(r)
    r.depth -= 1
    return tree if sign in (None, "+") else ("neg", tree) if sign == "-" else (sign, tree)


def read_power(r):
    tree = read_atom(r)
    for _ in range(MAX_DEPTH):
        mark = r.take("!", "%", "deg", "^", "'")
        if not mark:
            return tree
        if mark == "^":
            tree = ("^", tree, read_exponent(r))
        elif mark == "'":
            if tree[0] != "name":
                raise Unreadable("prime")
            tree = ("name", tree[1] + "'")
        else:
            tree = (mark, tree)
    raise Unreadable("too many marks")


def read_exponent(r):
    r.depth += 1
    if r.depth > MAX_DEPTH:
        raise Unreadable("nested too deeply")
    sign = r.take("-", "+")
    tree = read_atom(r)
    if r.take("^"):
        tree = ("^", tree, read_exponent(r))
    r.depth -= 1
    return ("neg", tree) if sign == "-" else tree


def read_atom(r):
    kind, value = r.peek()
    r.at += 1
    if kind == "num":
        return read_number(r, value)
    if kind == "mixed":
        whole, top, bottom = map(small_int, re.findall(r"\d+", value))
        return number_tree(whole + ratio(top, bottom))
    if kind == "name":
        return ("name", value + read_subscript(r))
    if kind == "word":
        return read_words(r, value)
    if kind == "fn":
        return read_function(r, value)
    if kind == "begin":
        return read_matrix(r)
    if kind != "op":
        raise Unreadable("unexpected " + kind)
    return read_group(r, value) or read_command(r, value)


def read_group(r, opened):
    """Brackets of every kind; None if this token opens none. (tree) is tree; (a, b) keeps its brackets."""
    closers = {"(": ")]", "[": ")]", "{": "}", r"\{": [r"\}"], "<(": [")>"], "|": "|", "floor(": [")floor"],
               "ceil(": [")ceil"]}
    if opened not in closers:
        return None
    bars, r.bars = r.bars, int(opened in ("|", r"\{"))
    r.depth += 1
    if r.depth > MAX_DEPTH:
        raise Unreadable("nested too deeply")
    empty = opened == r"\{" and r.peek() == ("op", r"\}")
    tree = ("set",) if empty else read_list(r)
    if opened == r"\{" and r.take("|", ":"):                   # {x | x > 2}
        tree = ("set_of", tree, read_list(r))
    if opened == "{" and r.take(r"\choose"):
        tree = ("binom", tree, read_list(r))
    closed = r.take(*closers[opened])
    if not closed:
        raise Unreadable("unclosed " + opened)
    r.bars, r.depth = bars, r.depth - 1
    items = tree[2:] if tree[0] == "list" else (tree,)
    if opened == r"\{":
        return tree if tree[0] in ("set", "set_of") else ("set", *items)
    if opened in ("|", "floor(", "ceil("):
        return ("fn", {"|": "abs"}.get(opened, opened[:-1]), tree)
    if opened == "{" or len(items) == 1:
        return read_based(r, tree) if opened == "(" else tree
    return ("br", opened.replace("<(", "("), closed.replace(")>", ")"), *items)


def read_based(r, tree):
    """(4210)_{5}: the digits of a number in another base."""
    if r.peek() != ("op", "_") or tree[0] != "num":
        return tree
    return ("based", str(tree[1]), read_subscript(r)[1:])


def read_command(r, value):
    if value == r"\frac":
        top, bottom = read_argument(r), read_argument(r)
        return ("*", top, ("inv", bottom))
    if value == "sqrt":
        index = ("num", Fraction(2), None)
        if r.take("["):
            index = read_sum(r)
            r.need("]")
        return ("root", read_argument(r), index)
    if value == r"\binom":
        return ("binom", read_argument(r), read_argument(r))
    if value in (r"\overline", r"\vec", r"\hat"):
        inner = read_argument(r)
        return ("name", value + repr(inner))
    if value in (r"\sum", r"\prod"):
        return read_sum_of(r, value[1:])
    if value == r"\mathbb":
        return ("name", "mathbb " + str(read_argument(r)[1]))
    if value == r"\emptyset":
        return ("set",)
    if value == "or":
        raise Unreadable("or")
    raise Unreadable("unknown " + value)


def read_argument(r):
    r"""The argument of a command: a group, or one token, of which \frac12 takes one digit."""
    kind, value = r.peek()
    if kind == "num" and len(value) > 1:
        r.tokens[r.at] = ("num", value[1:])
        return number_tree(Fraction(small_int(value[0])))
    r.depth += 1
    if r.depth > MAX_DEPTH:
        raise Unreadable("nested too deeply")
    tree = read_atom(r)
    r.depth -= 1
    return tree


MIXED = re.compile(r"\\frac (?:\{ (\d+) \}|(\d)) ?(?:\{ (\d+) \}|(\d))(?: |$)")


def read_number(r, text):
    if r.peek() == ("op", "_"):
        return ("based", text, read_subscript(r)[1:])
    if r.peek() == ("op", r"\overline"):                         # 0.1\overline{6}
        r.at += 1
        r.need("{")
        digits = r.peek()[1]
        r.at += 1
        r.need("}")
        places = len(text.partition(".")[2])
        if not digits.isdigit() or "." not in text:
            raise Unreadable("repeating decimal")
        repeat = ratio(small_int(digits), (10**len(digits) - 1) * 10**places)
        return number_tree(Fraction(text + "0") + repeat)
    value = decimal_value(text)
    mixed = text.isdigit() and MIXED.match(" ".join(value for _, value in r.tokens[r.at:r.at + 7]))
    if mixed:
        top, bottom = (Fraction(small_int(digits)) for digits in mixed.groups() if digits)
        if top < bottom:                                        # 2\frac{1}{3}
            r.at += 1
            read_argument(r), read_argument(r)
            return number_tree(value + top / bottom)
    return ("num", value, last_place(text))


def number_tree(value):
    return ("num", value, None)


def ratio(top, bottom):
    if bottom == 0:
        raise Unreadable("division by zero")
    return Fraction(top, bottom)


def small_int(digits):
    if len(digits) > 1000:
        raise Unreadable("too many digits")
    return int(digits)


def decimal_value(text):
    digits, _, exponent = text.lower().partition("e")
    if len(digits) > 1000 or len(exponent) > 4:
        raise Unreadable("too many digits")
    return Fraction(digits) * Fraction(10) ** int(exponent or 0)


def last_place(text):
    """Half a unit in the last place of a decimal with at least 4 significant digits, else None."""
    digits, _, exponent = text.lower().partition("e")
    places = digits.partition(".")[2]
    if not places or len(digits.replace(".", "").lstrip("0")) < 4:
        return None
    return Fraction(1, 2) / 10 ** len(places) * Fraction(10) ** int(exponent or 0)


def read_subscript(r):
    """x_1, x_{max}: the subscript is part of the name, so x_1 = x_{1}."""
    if not r.take("_"):
        return ""
    if not r.take("{"):
        r.at += 1
        return "_" + r.tokens[r.at - 1][1] if r.at <= len(r.tokens) else "_"
    depth, parts = 1, []
    while depth:
        kind, value = r.peek()
        if kind == "end of text":
            raise Unreadable("unclosed subscript")
        r.at += 1
        depth += {"{": 1, "}": -1}.get(value, 0)
        parts.append(value if depth else "")
    return "_" + "".join(part for part in parts if part not in "{}")


def read_words(r, value):
    """Words that follow no number: one is a choice letter or a word, several are a phrase."""
    words = [value]
    while r.peek()[0] == "word":
        words.append(r.peek()[1])
        r.at += 1
    if len(words) == 1 and len(value) == 1:
        return ("name", value + read_subscript(r))
    phrase = " ".join(words).lower()
    return PHRASE_VALUES.get(phrase, ("word", phrase))


PHRASE_VALUES = {"all real numbers": ("name", "mathbb R"), "all reals": ("name", "mathbb R"),
                 "no solution": ("set",), "no solutions": ("set",), "no real solutions": ("set",),
                 "empty set": ("set",), "dne": ("word", "does not exist"), "none": ("set",)}


def read_function(r, name):
    """sin^2 x, log_2 8, tan^{-1}(2): the argument is a bracket or the product up to the next function or sign."""
    base, power = None, None
    for _ in range(2):
        if r.take("_"):
            base = read_argument(r)
        if r.take("^"):
            power = read_exponent(r)
    if r.peek()[1] in ("(", "[", "{", "|") and r.peek()[0] == "op":
        arg = read_atom(r)
    else:
        factors = [read_factor(r)]
        while starts_factor(r) and r.peek()[0] != "fn" and r.peek() != ("name", "e"):
            factors.append(read_power(r))
        arg = factors[0] if len(factors) == 1 else ("*", *factors)
    if power == ("neg", ("num", 1, None)) and name in ("sin", "cos", "tan", "cot"):
        return ("fn", "arc" + name, arg)
    if name == "log" and base:
        tree = ("*", ("fn", "ln", arg), ("inv", ("fn", "ln", base)))
    else:
        tree = ("fn", name, arg)
    return ("^", tree, power) if power else tree


def read_matrix(r):
    kind = r.tokens[r.at - 1][1]
    if kind not in ("pmatrix", "bmatrix", "Bmatrix", "matrix", "smallmatrix", "array", "vmatrix"):
        raise Unreadable("environment " + kind)
    rows = [[read_relation(r)]]
    while r.peek() != ("end", kind):
        if r.take("&"):
            rows[-1].append(read_relation(r))
        elif r.take("\n"):
            if r.peek() == ("end", kind):
                break
            rows.append([read_relation(r)])
        else:
            raise Unreadable("matrix")
    r.at += 1
    if len({len(row) for row in rows}) > 1:
        raise Unreadable("ragged matrix")
    tree = ("mat", *(tuple(row) for row in rows))
    return ("fn", "det", tree) if kind == "vmatrix" else tree


def read_sum_of(r, kind):
    r.need("_")
    first = read_argument(r)
    r.need("^")
    last = read_exponent(r)
    if first[0] != "rel" or first[1] != ("=",) or first[2][0] != "name":
        raise Unreadable(kind)
    return (kind, first[2][1], first[3], last, read_term(r))


# ------------------------------------------------------------------------------------------- evaluation
MP = mpmath.MPContext()
MP.dps = 50
MAX_BITS = 100_000          # of an exact integer; fractions beyond a tenth of it become 50-digit floats
RNG = random.Random(0)
POINTS = [[Fraction(RNG.randrange(300, 3000), 1009) for _ in range(40)] for _ in range(3)]
POINTS += [[RNG.choice((-1, 1)) * x for x in row] for row in POINTS[:2]] + [[-x for x in POINTS[2]]]
POSITIVE = 3                # the first three rows; in the others only what is real all the way counts


class TooMuch(Exception):
    """The work budget of one comparison is spent."""


@dataclasses.dataclass
class Env:
    """Where a tree is evaluated: a value for every name, and how %, degrees and a bare log are read."""
    work: list                                   # [steps left], shared by one whole comparison
    values: dict = dataclasses.field(default_factory=dict)
    real: bool = False                           # roots and logs of negatives are undefined
    percent: bool = False                        # 5% is 5/100, else 5
    radians: bool = False                        # 30 degrees is pi/6, else 30; inside sin, cos, ... always
    log10: bool = False                          # log without a base is log10, else ln


CONSTANTS = {"pi": MP.pi, "e": MP.e, "i": MP.mpc(0, 1), "oo": MP.inf}


def exact(x):
    return isinstance(x, Fraction)


def to_mp(x):
    return MP.mpf(x.numerator) / x.denominator if exact(x) else x


def bounded(x, env):
    """Every intermediate value passes here: charge its size, refuse nan and what is too large to go on with."""
    if exact(x):
        bits = x.numerator.bit_length() + x.denominator.bit_length()
        env.work[0] -= 1 + bits // 300
        if bits > MAX_BITS:
            raise Unreadable("too large")
        return to_mp(x) if x.denominator.bit_length() > MAX_BITS // 10 else x
    env.work[0] -= 4
    if isinstance(x, tuple):
        return x
    if MP.isnan(x):
        raise Unreadable("undefined")
    if not MP.isinf(x) and x and abs(MP.mag(x)) > MAX_BITS:
        raise Unreadable("too large")
    return x.real if isinstance(x, MP.mpc) and x.imag == 0 else x


def value_of(tree, env):
    """Value of a tree of numbers: an exact Fraction as long as possible, else 50 digits, real or complex;
    matrices are tuples of tuples. Raises Unreadable where there is no value, TooMuch over the budget."""
    if env.work[0] < 0:
        raise TooMuch
    kind = tree[0]
    if kind == "num":
        return bounded(tree[1], env)
    if kind == "name":
        if tree[1] in env.values:
            return env.values[tree[1]]
        if tree[1] in CONSTANTS:
            return +CONSTANTS[tree[1]]
        raise Unreadable("no value")
    if kind == "call":
        return value_of(tree[2], env)
    if kind == "fn":
        return bounded(apply(tree[1], tree[2], env), env)
    if kind in ("sum", "prod"):
        return sum_value(tree, env)
    if kind == "br":
        return tuple((value_of(part, env),) for part in tree[3:])
    if kind == "mat":
        return tuple(tuple(value_of(cell, env) for cell in row) for row in tree[1:])
    if kind not in OPERATIONS:
        raise Unreadable("no value for " + kind)
    total = None
    for part in tree[1:]:
        value = value_of(part, env)
        total = value if total is None else bounded(OPERATIONS[kind](total, value, env), env)
    return total if len(tree) > 2 else bounded(OPERATIONS[kind](total, None, env), env)


def add(a, b, env):
    if isinstance(a, tuple) or isinstance(b, tuple):
        if not (isinstance(a, tuple) and isinstance(b, tuple)) or [len(r) for r in a] != [len(r) for r in b]:
            raise Unreadable("shapes")
        return tuple(tuple(bounded(add(x, y, env), env) for x, y in zip(r, s)) for r, s in zip(a, b))
    return a + b if exact(a) and exact(b) else to_mp(a) + to_mp(b)


def multiply(a, b, env):
    if isinstance(b, tuple) and not isinstance(a, tuple):
        a, b = b, a
    if isinstance(b, tuple):
        if any(len(row) != len(b) for row in a):
            raise Unreadable("shapes")
        columns = list(zip(*b))
        return tuple(tuple(dot(row, column, env) for column in columns) for row in a)
    if isinstance(a, tuple):
        return tuple(tuple(bounded(multiply(x, b, env), env) for x in row) for row in a)
    return a * b if exact(a) and exact(b) else to_mp(a) * to_mp(b)


def dot(row, column, env):
    total = Fraction(0)
    for x, y in zip(row, column):
        total = bounded(add(total, bounded(multiply(x, y, env), env), env), env)
    return total


def invert(a, _, env):
    if isinstance(a, tuple) or a == 0:
        raise Unreadable("division by zero")
    return 1 / a


def power(a, b, env):
    if isinstance(b, tuple):
        raise Unreadable("power")
    if isinstance(a, tuple):
        if not exact(b) or b.denominator != 1 or not 1 <= b <= 20:
            raise Unreadable("power")
        result = a
        for _ in range(int(b) - 1):
            result = multiply(result, a, env)
        return result
    if a == 0 and (not exact(b) or b <= 0):
        raise Unreadable("undefined")
    if exact(a) and exact(b) and b.denominator == 1:
        size = (a.numerator.bit_length() + a.denominator.bit_length()) * abs(b)
        if size <= MAX_BITS // 10 or (a.denominator == 1 and size <= MAX_BITS):
            env.work[0] -= int(size) // 300
            return a ** int(b)
        if a.denominator == 1 and not env.values:
            raise Unreadable("too large")               # 50 digits could not tell 2^n from 2^n + 1
    negative = not isinstance(a, MP.mpc) and a < 0
    if negative and exact(b) and b.denominator % 2:     # odd roots of negatives are real
        return power(-a, b, env) * (-1 if b.numerator % 2 else 1)
    if negative and env.real:
        raise Unreadable("not real")
    if exact(a) and exact(b) and b.denominator <= 8 and a > 0:
        parts = [exact_root(part, b.denominator) for part in (a.numerator, a.denominator)]
        if None not in parts:
            return power(Fraction(*parts), Fraction(b.numerator), env)
    a, b = to_mp(a), to_mp(b)
    if MP.isinf(a) or MP.isinf(b) or abs(b) * (abs(MP.mag(a)) + 2) > MAX_BITS:
        raise Unreadable("too large")
    return MP.power(a, b)


def exact_root(n, index):
    """The integer whose power is n, or None."""
    if n.bit_length() > 200:
        return math.isqrt(n) if index == 2 and math.isqrt(n) ** 2 == n else None
    root = int(MP.nint(MP.root(n, index)))
    return root if root ** index == n else None


def root(a, index, env):
    if not exact(index) or index == 0:
        raise Unreadable("root")
    return power(a, 1 / index, env)


def factorial(a, _, env):
    if exact(a) and a.denominator == 1 and 0 <= a <= 5000:
        env.work[0] -= int(a) // 10
        return Fraction(math.factorial(int(a)))
    if isinstance(a, tuple) or not abs(a) < 1000 or (exact(a) and a.denominator == 1):
        raise Unreadable("factorial")
    return MP.gamma(to_mp(a) + 1)


def binomial(n, k, env):
    if exact(n) and exact(k) and n.denominator == k.denominator == 1 and 0 <= k <= n:
        k = min(k, n - k)
        if k * n.numerator.bit_length() > MAX_BITS:
            raise Unreadable("binomial")
        env.work[0] -= int(k)
        return Fraction(math.comb(int(n), int(k)))
    if isinstance(n, tuple) or isinstance(k, tuple) or not abs(n) < 1000 or not abs(k) < 1000:
        raise Unreadable("binomial")
    return MP.binomial(to_mp(n), to_mp(k))


def scaled(unit):
    return lambda a, _, env: multiply(a, unit(env), env)


OPERATIONS = {"+": add, "*": multiply, "neg": lambda a, _, env: multiply(a, Fraction(-1), env), "inv": invert,
              "^": power, "root": root, "!": factorial, "binom": binomial,
              "%": scaled(lambda env: Fraction(1, 100) if env.percent else Fraction(1)),
              "deg": scaled(lambda env: MP.pi / 180 if env.radians else Fraction(1)),
              "ratio": lambda a, b, env: multiply(a, invert(b, None, env), env) if b is not None else a}
TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
MP_NAMES = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot"}


def apply(name, arg, env):
    if name in TRIGONOMETRIC and not env.radians:
        env = dataclasses.replace(env, radians=True)
    x = value_of(arg, env)
    if name == "det":
        return determinant(x, env)
    if isinstance(x, tuple):
        raise Unreadable("matrix")
    if name == "abs":
        return abs(x)
    if name in ("floor", "ceil"):
        if exact(x):
            return Fraction(math.floor(x) if name == "floor" else math.ceil(x))
        if isinstance(x, MP.mpc) or MP.isinf(x) or abs(x) > 10**40:
            raise Unreadable(name)
        return MP.floor(x + MP.mpf(10)**-40) if name == "floor" else MP.ceil(x - MP.mpf(10)**-40)
    x = to_mp(x)
    if name in ("ln", "log", "lg"):
        if x == 0 or (env.real and (isinstance(x, MP.mpc) or x < 0)):
            raise Unreadable("log")
        return MP.ln(x) / MP.ln(10) if name == "lg" or (name == "log" and env.log10) else MP.ln(x)
    if abs(x) > 10_000 and (name in ("exp", "sinh", "cosh", "tanh", "coth") or abs(x) > 10**20):
        raise Unreadable("too large")
    if name == "arccot":
        return MP.pi / 2 - MP.atan(x)
    if env.real and name in ("arcsin", "arccos") and abs(x) > 1:
        raise Unreadable("not real")
    try:
        return getattr(MP, MP_NAMES.get(name, name))(x)
    except (ZeroDivisionError, ValueError, OverflowError):
        raise Unreadable("undefined") from None


def determinant(rows, env):
    if not isinstance(rows, tuple) or any(len(row) != len(rows) for row in rows) or len(rows) > 4:
        raise Unreadable("determinant")
    if len(rows) == 1:
        return rows[0][0]
    minors = [tuple(row[:j] + row[j + 1:] for row in rows[1:]) for j in range(len(rows))]
    signed = [multiply(x, Fraction((-1)**j), env) for j, x in enumerate(rows[0])]
    return dot(signed, [determinant(minor, env) for minor in minors], env)


def sum_value(tree, env):
    kind, name, first, last, body = tree
    first, last = value_of(first, env), value_of(last, env)
    if not (exact(first) and exact(last) and first.denominator == last.denominator == 1) or last - first > 1000:
        raise Unreadable(kind)
    total = Fraction(0 if kind == "sum" else 1)
    for k in range(int(first), int(last) + 1):
        inner = dataclasses.replace(env, values={**env.values, name: Fraction(k)})
        total = bounded((add if kind == "sum" else multiply)(total, value_of(body, inner), env), env)
    return total


# ------------------------------------------------------------------------------------------ equivalence
def names_in(tree):
    if tree[0] == "name":
        return set() if tree[1] in CONSTANTS else {tree[1]}
    return set().union(*(names_in(part) for part in tree[1:] if isinstance(part, tuple) and part))


def contains(tree, kind):
    return tree[0] == kind or any(contains(part, kind) for part in tree if isinstance(part, tuple) and part)


def close(a, b):
    """Exact values must be equal; 50-digit values agree to 30 digits."""
    if isinstance(a, tuple) or isinstance(b, tuple):
        return isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) and all(map(close, a, b))
    if exact(a) and exact(b):
        return a == b
    a, b = to_mp(a), to_mp(b)
    if MP.isinf(a) or MP.isinf(b):
        return a == b
    return abs(a - b) <= max(abs(a), abs(b)) * MP.mpf(10)**-30 or max(abs(a), abs(b)) < MP.mpf(10)**-40


def try_value(tree, env):
    try:
        return value_of(tree, env)
    except Unreadable:
        return None


def environments(names, env):
    """The points at which two trees are compared: one where there are no names."""
    if not names:
        return [env]
    names = sorted(names)
    if len(names) > len(POINTS[0]):
        raise Unreadable("too many names")
    return [dataclasses.replace(env, values=dict(zip(names, row)), real=index >= POSITIVE)
            for index, row in enumerate(POINTS)]


def same_value(a, b, env):
    """Two expressions are equal if they are at several random points (50 digits decide, nothing is rewritten).

    The signs are first all positive, as school algebra assumes; at mixed signs a point counts only where both
    sides are real all the way. That tells |x| from x and lets sqrt(xy) be sqrt(x) sqrt(y).
    """
    names = names_in(a) | names_in(b)
    agreed = 0
    for point in environments(names, env):
        x, y = try_value(a, point), try_value(b, point)
        if x is None or y is None:
            if (x is None) != (y is None) and not point.real:
                return False
            continue
        if not close(x, y):
            return not names and rounded(a, b, x, y)
        agreed += 1
    return agreed > 0


def rounded(a, b, x, y):
    """A decimal of at least 4 significant digits stands for the other value if that rounds to it."""
    place_a, place_b = decimal_place(a), decimal_place(b)
    if (place_a is None) == (place_b is None) or isinstance(x, (tuple, MP.mpc)) or isinstance(y, (tuple, MP.mpc)):
        return False
    if contains(b if place_b is None else a, "decimal"):
        return False
    return abs(to_mp(x) - to_mp(y)) <= to_mp(place_a or place_b)


def decimal_place(tree):
    while tree[0] in ("neg", "deg", "%"):
        tree = tree[1]
    return tree[2] if tree[0] == "num" else None

# Real sets: a sorted list of intervals (low, high); an end is (value, nudge), the nudge -1, 0 or +1 saying whether
# the end lies just below, at or just above the value. So (2, 5] is ((2, 1), (5, 0)) and ends compare as tuples.
def real_set(tree, name, env):
    """The set of reals that a tree describes (for inequalities: the solutions for `name`)."""
    kind = tree[0]
    if kind == "br" and len(tree) == 5:
        low, high = end_value(tree[3], env), end_value(tree[4], env)
        return merge([((low, int(tree[1] == "(" or MP.isinf(low))), (high, -int(tree[2] == ")" or MP.isinf(high))))])
    if kind == "name" and tree[1] == "mathbb R":
        return [WHOLE]
    if kind == "set":
        return merge([((x, 0), (x, 0)) for x in (end_value(part, env) for part in tree[1:])])
    if kind == "list":
        return merge(sum((real_set(part, name, env) for part in tree[2:]), []))
    if kind == "cup":
        return merge(real_set(tree[1], name, env) + real_set(tree[2], name, env))
    if kind == "cap":
        return intersect(real_set(tree[1], name, env), real_set(tree[2], name, env))
    if kind == "setminus":
        return intersect(real_set(tree[1], name, env), complement(real_set(tree[2], name, env)))
    if kind == "set_of":
        return real_set(tree[2], name, env)
    if kind == "rel" and tree[1] == ("in",):
        return real_set(tree[3], name, env)
    if kind == "rel":
        result = [WHOLE]
        for op, left, right in zip(tree[1], tree[2:], tree[3:]):
            result = intersect(result, solutions(op, left, right, name, env))
        return result
    raise Unreadable("not a real set")


WHOLE = ((-MP.inf, 1), (MP.inf, -1))


def end_value(tree, env):
    x = to_mp(value_of(tree, env))
    if isinstance(x, (tuple, MP.mpc)):
        raise Unreadable("not real")
    return x if MP.isinf(x) or not x else MP.mpf(MP.nstr(x, 35))      # so that equal ends are equal


def solutions(op, left, right, name, env):
    """The reals that solve a linear relation in one name."""
    infinite = [side for side in (left, right) if contains(side, "name") and names_in(side) == set()
                and isinstance(try_value(side, env), MP.mpf) and MP.isinf(try_value(side, env))]
    if infinite:                                                       # x < oo says nothing
        return [WHOLE]
    def at(x):
        point = dataclasses.replace(env, values={**env.values, name: Fraction(x)})
        return to_mp(value_of(left, point)) - to_mp(value_of(right, point))
    f0, f1, f3 = at(0), at(1), at(3)
    slope = f1 - f0
    if abs(slope) < 1e-30 or not close(f3, f0 + 3 * slope) or isinstance(slope, MP.mpc):
        raise Unreadable("not linear")
    x = MP.mpf(MP.nstr(-f0 / slope, 35)) if f0 else MP.mpf(0)
    below, above = ((-MP.inf, 1), (x, -1)), ((x, 1), (MP.inf, -1))
    if op == "=":
        return [((x, 0), (x, 0))]
    if op == "!=":
        return [below, above]
    closed = op.endswith("=")
    if (op[0] == "<") == (slope > 0):
        return [((-MP.inf, 1), (x, 0))] if closed else [below]
    return [((x, 0), (MP.inf, -1))] if closed else [above]


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
    ends = [(-MP.inf, 1)] + [end for low, high in parts for end in
                             ((low[0], low[1] - 1), (high[0], high[1] + 1))] + [(MP.inf, -1)]
    return merge(list(zip(ends[::2], ends[1::2])))


def is_set(tree):
    """Whether the tree can only be meant as a set of reals: (a, b) and [a, b] alone may be points too."""
    return tree[0] in ("cup", "cap", "setminus", "set_of") or tree == ("name", "mathbb R") or (
        tree[0] == "br" and len(tree) == 5 and (tree[1] + tree[2] != "()" or contains(tree, "name"))) or (
        tree[0] == "rel" and tree[1] != ("=",)) or (
        tree[0] == "list" and len(tree) > 2 and all(part[0] == "rel" and is_set(part) for part in tree[2:]))


def same_set(a, b, env):
    names_a, names_b = names_in(a) - {"mathbb R"}, names_in(b) - {"mathbb R"}
    bound_a, bound_b = bound_name(a, names_a - names_b), bound_name(b, names_b - names_a)
    if bound_a is None and bound_b is None and names_a and names_a == names_b and len(names_a) == 1:
        bound_a = bound_b = min(names_a) if contains(a, "rel") and contains(b, "rel") else None
    for point in environments((names_a | names_b) - {bound_a, bound_b}, env)[:POSITIVE]:
        first, second = real_set(a, bound_a, point), real_set(b, bound_b, point)
        if len(first) != len(second) or not all(
                close(x[0], y[0]) and x[1] == y[1] for p, q in zip(first, second) for x, y in zip(p, q)):
            return False
    return True


def bound_name(tree, own):
    return min(own) if contains(tree, "rel") and len(own) == 1 else None


def same_relation(a, b, env):
    """Equations and inequalities are the same if their differences are proportional (not just solved by the same)."""
    left, right = pairs_of(a), pairs_of(b)
    if len(left) != len(right):
        return False
    return all(any(same_pair(p, q, env) for q in right) for p in left) and \
        all(any(same_pair(p, q, env) for p in left) for q in right)


def pairs_of(tree):
    """a < b <= c as [("<", a - b), ("<=", b - c)]; > turned round."""
    pairs = []
    for op, left, right in zip(tree[1], tree[2:], tree[3:]):
        if op[0] == ">":
            op, left, right = op.replace(">", "<"), right, left
        pairs.append((op, ("+", left, ("neg", right)), right))
    return pairs


def same_pair(p, q, env):
    if p[0] != q[0]:
        return False
    if p[0] == "in":
        return same(p[2], q[2], env) and names_in(p[1]) == names_in(q[1])
    factor = None
    for point in environments(names_in(p[1]) | names_in(q[1]), env)[:POSITIVE]:
        x, y = value_of(p[1], point), value_of(q[1], point)
        if isinstance(x, tuple) or isinstance(y, tuple) or x == 0 or y == 0:
            return same_value(p[1], q[1], env)
        here = multiply(x, invert(y, None, env), env)
        if factor is not None and not close(factor, here):
            return False
        factor = here
    return p[0] in ("=", "!=") or (not isinstance(factor, MP.mpc) and factor > 0)


def named_value(tree):
    """x = 5, 5 = x, f(2) = 5, (x, y) = (1, 2), BO/AC = 5: (the name, what it equals); None for other trees."""
    if tree[0] != "rel" or set(tree[1]) != {"="}:
        return None
    if is_name(tree[2]):
        return tree[2], tree[-1]
    return (tree[-1], tree[2]) if is_name(tree[-1]) else None


def is_name(tree):
    if tree[0] == "name":
        return tree[1] not in CONSTANTS
    if tree[0] == "fn":
        return tree[1] == "abs" and is_name(tree[2])
    parts = tree[3:] if tree[0] == "br" else tree[1:]
    return tree[0] in ("call", "word") or (tree[0] in ("*", "inv", "br", "ratio") and all(map(is_name, parts)))


def is_list(tree):
    return tree[0] in ("list", "set")


def items_of(tree):
    """The members of a list or set, and of the lists in it."""
    if not is_list(tree):
        return [tree]
    return [item for part in tree[2 if tree[0] == "list" else 1:] for item in items_of(part)]


def with_signs(tree, plus):
    if not isinstance(tree, tuple):
        return tree
    if tree[0] in ("pm", "mp") and len(tree) == 2:
        inner = with_signs(tree[1], plus)
        return inner if plus == (tree[0] == "pm") else ("neg", inner)
    return tuple(with_signs(part, plus) for part in tree)


def spread_signs(tree):
    """1 \\pm x is the list 1 + x, 1 - x."""
    if is_list(tree):
        return (*tree[:2 if tree[0] == "list" else 1], *map(spread_signs, tree[2 if tree[0] == "list" else 1:]))
    if contains(tree, "pm") or contains(tree, "mp"):
        return ("list", False, with_signs(tree, True), with_signs(tree, False))
    return tree


def same(a, b, env):
    """Whether two trees state the same answer: by their kinds, then part by part, then by value."""
    if a == b:
        return True
    if is_set(a) or is_set(b):
        if a[0] == b[0] == "br":
            return a[1:3] == b[1:3] and same_parts(a[3:], b[3:], env)
        if a[0] == b[0] == "rel" and same_or_false(same_relation, a, b, env):
            return True
        if not (is_list(a) and is_list(b)) and same_or_false(same_set, a, b, env):
            return True
        if not (is_list(a) and is_list(b)):
            return False
    if is_list(a) or is_list(b):
        return same_items(a, b, env)
    if a[0] == "rel" or b[0] == "rel":
        return same_equation(a, b, env)
    parts_a, parts_b = vector_parts(a), vector_parts(b)
    if parts_a and parts_b:
        return same_parts(parts_a, parts_b, env)
    if a[0] == b[0] == "mat":
        return list(map(len, a[1:])) == list(map(len, b[1:])) and all(
            same_parts(row, other, env) for row, other in zip(a[1:], b[1:]))
    if a[0] == b[0] == "ratio" and len(a) == len(b) > 3:
        return all(same(("ratio", x, a[1]), ("ratio", y, b[1]), env) for x, y in zip(a[2:], b[2:]))
    if len(a) > 3 and a[0] == "ratio" or len(b) > 3 and b[0] == "ratio":
        return False
    return same_value(a, b, env)


def same_or_false(test, a, b, env):
    try:
        return test(a, b, env)
    except Unreadable:
        return False


def vector_parts(tree):
    """A tuple, or a column of two or more."""
    if tree[0] == "br":
        return tree[3:]
    if tree[0] == "mat" and len(tree) > 2 and all(len(row) == 1 for row in tree[1:]):
        return [row[0] for row in tree[1:]]
    return None


def same_parts(a, b, env):
    return len(a) == len(b) and all(same(x, y, env) for x, y in zip(a, b))


def same_equation(a, b, env):
    one, two = named_value(a), named_value(b)
    if one and two and (one[0] == two[0] or one[0][0] != "name" or two[0][0] != "name"):
        return same(one[1], two[1], env)
    if a[0] == b[0] == "rel":
        return same_or_false(same_relation, a, b, env)
    named, other = (one, b) if a[0] == "rel" else (two, a)
    return bool(named) and same(named[1], other, env)


MAX_PAIRED = 40         # longer lists are paired in the order of their values


def same_items(a, b, env):
    """Lists and sets: the same members in any order; a tuple may stand for a list in its own order."""
    for one, two in ((a, b), (b, a)):
        if one[0] == "br" and two[0] == "list" and all(part[0] != "br" for part in two[2:]):
            return same_parts(one[3:], items_of(two), env)
    first, second = items_of(a), items_of(b)
    if len(first) != len(second) and "set" not in (a[0], b[0]):
        return False
    if max(len(first), len(second)) > MAX_PAIRED:
        return len(first) == len(second) and same_parts(in_order(first, env), in_order(second, env), env)
    left = list(second)
    for item in first:
        found = next((other for other in left if same(item, other, env)), None)
        if found is not None:
            left.remove(found)
        elif "set" not in (a[0], b[0]) or not any(same(item, other, env) for other in second):
            return False
    return all(any(same(item, other, env) for item in first) for other in left)


def in_order(items, env):
    keys = []
    for item in items:
        value = try_value((named_value(item) or (None, item))[1], env)
        keys.append(str(value) if value is None or isinstance(value, tuple) else
                    (float(MP.re(to_mp(value))), float(MP.im(to_mp(value)))))
    if len({type(key) for key in keys}) > 1:
        raise Unreadable("a long mixed list")
    return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]


WORK = 20_000           # steps one comparison may take (about 0.3 s at the very worst)


def is_equivalent(pred, gold):
    r"""Whether two answers, in LaTeX or plain text, state the same thing. Never raises, never runs the text.

    >>> is_equivalent("0.5", r"\frac12"), is_equivalent("1,2", "2 and 1"), is_equivalent("(1,2]", r"1 < x \le 2")
    (True, True, True)
    >>> is_equivalent("(1,2)", "(2,1)"), is_equivalent("5, 6", "5"), is_equivalent("0.333", r"\frac{1}{3}")
    (False, False, False)
    """
    if not isinstance(pred, str) or not isinstance(gold, str):
        return False
    if max(len(pred), len(gold)) > MAX_COMPARED:
        return pred == gold
    a, b = clean(pred), clean(gold)
    if not a or not b:
        return False
    if a == b:
        return True
    if PLAIN.fullmatch(a) and PLAIN.fullmatch(b):
        return Fraction(a) == Fraction(b)
    if max(len(a), len(b)) > MAX_PARSED:
        return False
    words = words_of(a)
    if words and words == words_of(b):
        return True
    try:
        return same_answer(a, b)
    except (Unreadable, TooMuch, RecursionError, ArithmeticError, ValueError, TypeError, IndexError, MemoryError):
        return False        # TODO narrow


def same_answer(a, b):
    x, y = (spread_signs(parse(text)) for text in (a, b))
    work = [WORK]
    readings = [{}]
    if ("%" in a) != ("%" in b):
        readings.append({"percent": True})
    if contains(x, "deg") != contains(y, "deg"):
        readings.append({"radians": True})
    if "log" in a or "log" in b:
        readings.append({"log10": True})
    return any(same_or_false(same, x, y, Env(work, **reading)) for reading in readings)


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
