r"""Do two answers state the same thing? The room behind verifier.py, which alone imports it.

The policy is optimised against what is accepted here. So nothing here runs a text (no eval, no sympy
parser), raises or hangs: sizes are checked before work is done, and the work of one comparison is counted.
`is_equivalent(pred, gold)`, at the end of the file, asks the rooms in order until one can tell:

    clean     both texts without dollars, boxes, \left, spaces and thousands separators: equal texts?
    rational  plain numbers: equal fractions?    words_of  answers in words: equal words?
    tokens    a text as names, numbers, words, relations and signs
    parser    tokens -> a tree of tuples by a small grammar, ("+", ("num", 1, None), ("name", "x")) for 1 + x
    values    the value of a tree: an exact fraction as long as possible, else 50 digits
    sets      intervals, unions and inequalities: where they may end, and which numbers belong to them
    same      two trees by their kinds (list, tuple, set, equation, matrix ...), part by part; two
              expressions by their values at random points: nothing is ever rewritten

Reads and writes nothing. `python -m doctest equivalence.py` runs the examples.
"""
import dataclasses
import functools
import math
import operator
import random
import re
from fractions import Fraction

import mpmath

MAX_COMPARED, MAX_PARSED = 50_000, 1500     # characters: above these only equal texts are equal


class Unreadable(Exception):
    """Outside the grammar, without a value, or too large."""


class TooMuch(Exception):
    """The work of one comparison is spent."""


def require(condition, why):
    if not condition:
        raise Unreadable(why)


# ------------------------------------------------------------------------------------------------ clean
UNICODE = str.maketrans("−–—×·⋅∗÷⁄∕：，；（）．、’′％＝\n\t\r\u00a0\u2009\u202f",
                        "---****///:,;().,''%=      ") | str.maketrans({
    "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ",
    "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": r"\degree ", "º": r"\degree ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "∅": r"\emptyset ", "±": r"\pm ", "∓": r"\mp ",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "μ": r"\mu ",
    "φ": r"\phi ", "ω": r"\omega ", "∠": r"\angle ", "△": r"\triangle ", "…": r"\ldots ",
    "⟨": r"\langle ", "⟩": r"\rangle ", "²": "^{2}", "³": "^{3}", "½": r"\frac{1}{2}",
    "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "£": "", "€": "",
    **{chr(0xFF10 + digit): str(digit) for digit in range(10)}})
WRAPPER = re.compile(r"\s*\\(?:f?boxed|fbox)\s*\{(.*)\}\s*\.?\s*", re.DOTALL)
REWRITES = [(mark, re.compile(pattern), plain) for mark, pattern, plain in [
    # in this order: wherever the mark occurs, the pattern becomes plain
    ("\\\\", r"\\\\", "\n"),                                                # rows of a matrix
    ("$", r"\\?\$", ""),
    ("frac", r"\\[dt]frac", r"\\frac"),
    ("^", r"\^\s*(?:\\circ|\{\s*\\circ\s*\}|\\degree|\{\s*\\degree\s*\})(?![A-Za-z])", r"\\degree "),
    ("prime", r"\^\s*(?:\\prime(?![A-Za-z])|\{\s*(?:\\prime\s*)+\})",
     lambda match: "'" * match[0].count("prime")),
    ("\\!", r"\\!\s*", ""),
    ("\\not", r"\\not\s*=", r"\\ne "),
    ("\\,", r"(?<=\d)\\,(?=\d{3}(?!\d))", ""),                              # 12\,345
    ("\\", r"\\(?:left|right)\s*\.|\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|quad|"
           r"qquad|mathbf|boldsymbol|bm|mathit|mathsf|mathcal|rm|bf|hfill)(?![A-Za-z])|"
           r"\\[,;:> ()\[\]]|\\(?:text\w*|mbox|mathrm)\s*\{[\s~]*\}", " "),
    ("~", "~", " "),
    ("{,}", r"\{,\}", ","),
    ("angle", r"\\angle\s*\{([^{}]*)\}", r"\\angle \1 "),
    ("array", r"(\\begin\s*\{array\})\s*\{[clr| ]*\}", r"\1"),
    (" ", r" +(?![0-9A-Za-z ])|(?<![0-9A-Za-z ]) +", ""),           # not between letters or digits
    ("frac", r"\\frac ?(\d)", r"\\frac{\1}"),                               # \frac12
    ("frac", r"(\\frac\{\d+\}) ?(\d)", r"\1{\2}"),                          # \frac{1}2
    (" ", r"(?<![\d.,^_])[1-9]\d{0,2}(?: \d{3})+(?!\d| \d| ?/| ?\\frac)",   # 12 345, not 1 100/200
     lambda match: match[0].replace(" ", "")),
    ("frac", r"^([+-]?)\\frac\{(\d+)\}\{(\d+)\}$", r"\1\2/\3")]]            # 1/2
RATIONAL = re.compile(r"[+-]?\d{1,40}(?:\.\d{1,40}|/[1-9]\d{0,39})?")
THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
CHOICE = re.compile(r"\(?([A-Z])\)")


def clean(text):
    r"""One answer without its dress: no dollars, box, \left, spacing, thousands separators, final stop.

    >>> clean(r"$\left( 1{,}000 ,\; 2\right)$."), clean(r"\boxed{\$ 12,\! 345}"), clean(r"\dfrac12")
    ('(1,000,2)', '12345', '1/2')
    """
    if RATIONAL.fullmatch(text):
        return text
    if not text.isascii() or "\n" in text or "\t" in text:
        text = text.translate(UNICODE)
    for _ in range(3):
        match = WRAPPER.fullmatch(text) if "box" in text else None
        text = match[1] if match else text
    for mark, pattern, plain in REWRITES:
        if mark in text:
            text = pattern.sub(plain, text)
    text = text.strip(" \n").rstrip(" .,;:")
    if "," in text and not ("(" in text or "[" in text or "\\{" in text):   # (12,345) may be a point
        text = THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    return CHOICE.sub(r"\1", text) if len(text) < 4 else text


def rational(text):
    r"""The Fraction of a plain integer, decimal or a/b, as most answers are; None for other texts.

    >>> rational("-1/2"), rational("0.25"), rational("x"), rational("1/0")
    (Fraction(-1, 2), Fraction(1, 4), None, None)
    """
    return Fraction(text) if RATIONAL.fullmatch(text) else None


def words_of(text):
    r"""Answers in words compare without \text{} and case; None if there is more than words.

    >>> words_of(r"\text{June } 20"), words_of("Tuesday"), words_of("x+1")
    ('june 20', 'tuesday', None)
    """
    text = re.sub(r"\\(?:text\w*|mbox|mathrm)\s*\{([^{}]*)\}", r" \1 ", text)
    text = " ".join(text.lower().split()).strip(" .")
    return text if re.fullmatch(r"[a-z0-9 .,':()-]{3,}", text) and re.search("[a-z]", text) else None


# ----------------------------------------------------------------------------------------------- tokens
def spellings(table):
    """{meaning: "spelling spelling"} -> {spelling: meaning}."""
    return {spelling: meaning for meaning, line in table.items() for spelling in line.split()}


TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
FUNCTIONS = TRIGONOMETRIC | set("sinh cosh tanh coth arcsin arccos arctan arccot ln log lg exp".split())
NAMED = {name: ("fn" if name in FUNCTIONS else "name", name) for name in [*FUNCTIONS] + (
    "pi oo alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi "
    "chi psi omega varphi vartheta ell hbar Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega triangle ldots "
    "cdots dots aleph star odot nabla partial").split()}
NAMED |= {alias: NAMED[name] for alias, name in spellings({
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "tan": "tg", "cot": "ctg",
    "oo": "infinity infty inf", "varepsilon": "epsilon"}).items()}
# xpi, 2cosx, asqrt: a known name with at most two letters before and after it
INSIDE = re.compile(r"([A-Za-z]{0,2}?)(arc(?:sin|cos|tan)|sqrt|theta|sinh?|cosh?|tanh?|log|exp|pi|ln)"
                    r"([A-Za-z]{0,2})")
SHORT_WORDS = set("cm mm km kg mg ml mi ft lb lbs oz yd sec min hr hrs mph kmh rpm yes no not all odd is the "
                  "for in if any day hz gal usd may".split())
SCALES = {"dozen": "12", "hundred": "1e2", "thousand": "1e3", "million": "1e6", "billion": "1e9",
          "trillion": "1e12"}
WORD_SIGNS = {"and": ",", "or": "or ", "percent": "%", "degree": "°", "degrees": "°", "sqrt": r"\sqrt",
              "angle": r"\angle"}
RELATIONS = spellings({
    "=": r"= == \approx \equiv", "<": r"< \lt", ">": r"> \gt", "<=": r"<= \le \leq \leqslant \leqq",
    ">=": r">= \ge \geq \geqslant \geqq", "!=": r"!= \ne \neq", "in": r"\in"})
SIGNS = spellings({
    "*": r"\cdot \times \ast", "/": r"\div", "^": "**", "%": r"\%", "°": r"\degree \circ", "'": r"\prime",
    "|": r"\lvert \rvert \vert \mid", r"\{": r"\lbrace", r"\}": r"\rbrace", "[": r"\lbrack",
    "]": r"\rbrack", "<(": r"\langle", ")>": r"\rangle", ":": r"\colon", ",": r"; \land \wedge",
    r"\frac": r"\cfrac", r"\binom": r"\dbinom \tbinom", r"\setminus": r"\backslash",
    r"\emptyset": r"\varnothing \oslash", r"\overline": r"\bar \dot", r"\angle": r"\measuredangle",
    "or ": r"\lor \vee"})                       # with a blank: no sign is letters only
TEXT = set(r"\text \textbf \textit \textrm \textnormal \mbox \mathrm \hbox \textsf \operatorname \emph "
           r"\texttt".split())
TOKEN = re.compile(r"""\ *(?:
      (?P<mixed>(?<![.^_])\d+(?:\ +\d+\ */\ *\d+|\ *\\frac\{\d+\}\{\d+\})(?![\d.]))     # 2 1/2, 2\frac{1}{2}
    | (?P<repeating>\d*\.\d*\\(?:overline|bar|dot)\{\d+\})                              # 0.1\overline{6}
    | (?P<num>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<letters>[A-Za-z]+)
    | (?P<op>\\[A-Za-z]+|\\.|\*\*|[<>!=]=|\n|[^ ]))""", re.VERBOSE)
GROUP = re.compile(r"\{((?:[^{}]|\{[^{}]*\})*)\}")          # {...}, with simple groups in it


def tokens_of(text, in_text=False, units=()):
    r"""Tokens as pairs (kind, value); kinds: num, mixed, repeating, name, fn, word, rel, begin, end, op.

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
        elif value in TEXT or value in (r"\begin", r"\end"):
            group = GROUP.match(text, at)
            require(group, "no group after " + value)
            inner, at = group[1], group.end()
            if value in TEXT:
                tokens += tokens_of(inner, in_text=value != r"\operatorname" and inner not in ("e", "i"))
            else:
                tokens.append((value[1:], inner))
        elif value[1:] in NAMED:
            tokens.append(NAMED[value[1:]])
        else:
            tokens.append((kind, SIGNS.get(value, value)))
    return tokens


def split_letters(run, in_text):
    """A run of letters is a known name, a word, or a product of one-letter variables."""
    if len(run) == 1:
        return [("word" if in_text else "name", run)]
    if run.lower() in WORD_SIGNS:
        return [("op", WORD_SIGNS[run.lower()])]
    if run.lower() in SCALES:
        return [("num", SCALES[run.lower()])]
    if in_text or run.lower() in SHORT_WORDS:
        return [("word", run)]
    if run in NAMED:
        return [NAMED[run]]
    if inside := INSIDE.fullmatch(run):
        before, known, after = inside.groups()
        return [("name", c) for c in before] + split_letters(known, False) + [("name", c) for c in after]
    return [("word", run)] if len(run) > 3 else [("name", c) for c in run]


# ----------------------------------------------------------------------------------------------- parser
MAX_DEPTH = 30          # nested groups, arguments and exponents
EMPTY, ALL_REALS = ("set",), ("name", "mathbb R")
PHRASES = {"all real numbers": ALL_REALS, "all reals": ALL_REALS, "dne": ("word", "does not exist"),
           **dict.fromkeys(("no solution", "no solutions", "no real solutions", "empty set", "none"), EMPTY)}
MATRICES = "matrix pmatrix bmatrix Bmatrix smallmatrix array".split()
CLOSERS = {"(": (")", "]"), "[": (")", "]"), "{": ("}",), r"\{": (r"\}",), "<(": (")>",), "|": ("|",),
           r"\lfloor": (r"\rfloor",), r"\lceil": (r"\rceil",)}
FACTOR_STARTS = set(CLOSERS) - {"|"} | set(
    r"\sqrt \frac \binom \overline \vec \hat \sum \prod \mathbb \emptyset \angle".split())


@dataclasses.dataclass
class Reader:
    """The tokens and where we are. Values of op tokens are never letters only: a value tells the kind."""
    tokens: list
    at: int = 0
    bars: bool = False  # inside |...| and {...} a bar closes or separates, it opens nothing
    depth: int = 0
    units: list = dataclasses.field(default_factory=list)   # the words that were dropped after numbers

    def take(self, *values):
        """Step over the next token if its value is among these; -> the value, or None."""
        value = self.tokens[self.at][1]
        if value in values:
            self.at += 1
            return value


@functools.lru_cache(maxsize=4096)
def parse(text, units=()):
    r"""LaTeX or plain text -> (tree of tuples, dropped units); raises Unreadable. Loosest level first:

    list = relation (, relation)*            relation = side (= < > <= >= != in side)*
    side = union (: union)*                  union = sum (cup | cap | setminus sum)*
    sum = term (+ - pm term)*                term = factor (* | / | nothing, factor)*
    factor = sign* power                     power = atom (! | % | degree | ' | ^ exponent)*

    Kinds of tree: num name word based fn + * neg inv ^ ! % ° binom \sum \prod call ratio; br (brackets or a
    matrix) list set set_of \cup \cap \setminus rel; \pm \mp, which become lists. Letters in `units` are
    words, not variables: the other answer has shown that they are units.

    >>> parse("(1,x+2]")[0]
    ('br', '(', ']', ('num', Fraction(1, 1), None), ('+', ('name', 'x'), ('num', Fraction(2, 1), None)))
    """
    reader = Reader(tokens_of(text, units=units) + [("", "end of text")])
    tree = read_list(reader)
    require(reader.at == len(reader.tokens) - 1, "something is left over")
    return spread_signs(tree) if r"\pm" in text or r"\mp" in text else tree, reader.units


def read_list(r):
    items, either = [read_relation(r)], False
    while word := r.take(",", "or "):
        while word:                                 # "1, 2, and 3"
            either |= word == "or "
            word = r.take(",", "or ")
        items.append(read_relation(r))
    return items[0] if len(items) == 1 else ("list", either, *items)


def read_relation(r):
    """a < b <= c as ("rel", ("<", "<="), a, b, c). What only falls is turned round: b > a is a < b."""
    if r.tokens[r.at] == ("rel", "="):              # "= 5"
        r.at += 1
    sides, ops = [read_side(r)], []
    while r.tokens[r.at][0] == "rel":
        ops.append(r.tokens[r.at][1])
        r.at += 1
        sides.append(read_side(r))
    if set(ops) <= {">", ">="}:
        sides, ops = sides[::-1], [op.replace(">", "<") for op in ops[::-1]]
    return ("rel", tuple(ops), *sides) if ops else sides[0]


def read_side(r):
    """One side of a relation; f(3) alone on a side is a call: it names a value."""
    start = r.at
    items = [read_union(r)]
    while not r.bars and r.take(":"):
        items.append(read_union(r))
    if len(items) == 2:
        return ("ratio", *items)
    if len(items) > 2:                              # 1:2:3 by its ratios to the first, 2:1 and 3:1
        return ("br", ":", ":", *(("ratio", item, items[0]) for item in items[1:]))
    if r.tokens[start][0] == "name" and r.tokens[start + 1][1] == "(":
        values = [value for _, value in r.tokens[start:r.at]]
        if values[-1] == ")" and values.count(")") == 1:
            return ("call", items[0])
    return items[0]


def read_union(r):
    tree = read_sum(r)
    while op := r.take(r"\cup", r"\cap", r"\setminus"):
        tree = (op, tree, read_sum(r))
    return tree


def read_sum(r):
    terms = [read_term(r)]
    while sign := r.take("+", "-", r"\pm", r"\mp"):
        terms.append(signed(sign, read_term(r)))
    return terms[0] if len(terms) == 1 else ("+", *terms)


def signed(sign, tree):
    return tree if sign == "+" else ("neg", tree) if sign == "-" else (sign, tree)


def read_term(r):
    factors = [read_factor(r)]
    while True:
        sign = r.take("*", "/")
        if r.tokens[r.at][0] == "word" and sign != "*" and occurs(("num", "pi"), factors):
            skip_unit(r)                            # 5 m, 5 m/s
        elif sign:
            factors.append(read_factor(r) if sign == "*" else ("inv", read_factor(r)))
        elif starts_factor(r):
            factors.append(read_power(r))
        else:
            return factors[0] if len(factors) == 1 else ("*", *factors)


def starts_factor(r):
    kind, value = r.tokens[r.at]
    return kind in ("name", "num", "fn", "mixed", "repeating", "begin") or value in FACTOR_STARTS or \
        (value == "|" and not r.bars)


def occurs(wanted, tree):
    """Whether one of these kinds, names or signs stands anywhere in a tree or a list of trees."""
    for part in tree:
        if part in wanted if isinstance(part, str) else isinstance(part, tuple) and occurs(wanted, part):
            return True
    return False


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
    sign = r.take("-", "+", r"\pm", r"\mp")
    return signed(sign, read_factor(r)) if sign else read_power(r)


def read_power(r):
    tree = read_atom(r)
    while mark := r.take("^", "!", "%", "°", "'"):
        if mark == "^":
            tree = ("^", tree, read_exponent(r))
        elif mark != "'":
            tree = (mark, tree)
        else:
            require(tree[0] == "name", "prime")                 # f'
            tree = ("name", tree[1] + "'")
    return tree


def read_exponent(r):
    sign = r.take("-", "+") or "+"
    tree = read_atom(r)
    if r.take("^"):
        tree = ("^", tree, read_exponent(r))                    # a tower without braces
    return signed(sign, tree)


def read_atom(r):
    """Every nesting passes here, so the depth is bounded here."""
    r.depth += 1
    require(r.depth <= MAX_DEPTH, "nested too deeply")
    kind, value = r.tokens[r.at]
    r.at += 1
    if kind == "num" and r.tokens[r.at][1] == "_":
        tree = ("based", value, read_subscript(r))              # 2516_8
    elif kind in ("num", "mixed", "repeating"):
        tree = ("num", number(kind, value), last_place(value) if kind == "num" and "." in value else None)
    elif kind == "name":
        tree = ("name", value + read_subscript(r))
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


def number(kind, text):
    r"""The exact value of a num, mixed or repeating token.

    >>> number("num", "1.5e2"), number("mixed", "2 1/3"), number("repeating", r"0.1\overline{6}")
    (Fraction(150, 1), Fraction(7, 3), Fraction(1, 6))
    """
    exponent = text.lower().partition("e")[2] if kind == "num" else ""
    require(len(text) <= 500 and len(exponent) <= 4, "digits")
    try:
        if kind == "num":
            return Fraction(int(text)) if text.isdigit() else Fraction(text)
        digits = re.findall(r"[\d.]+", text)
        if kind == "mixed":
            whole, part = int(digits[0]), Fraction(int(digits[1]), int(digits[2]))
            return whole * part if "frac" in text and part >= 1 else whole + part   # 2\frac53 is a product
        start, repeat = digits
        places = len(start.partition(".")[2])
        return Fraction(start + "0") + Fraction(int(repeat), (10**len(repeat) - 1) * 10**places)
    except (ValueError, ZeroDivisionError):
        raise Unreadable(text) from None


def last_place(text):
    """Half a unit in the last place of a decimal with at least 4 significant digits, else None."""
    digits, _, exponent = text.lower().partition("e")
    places = len(digits.partition(".")[2]) - int(exponent or 0)
    significant = len(digits.replace(".", "").lstrip("0"))
    return Fraction(1, 2) / Fraction(10) ** places if significant >= 4 else None


def read_subscript(r):
    """x_1, x_{max}: the subscript is part of the name, as it is written; x_1 is x_{1}."""
    if not r.take("_"):
        return ""
    name = "_"
    while name == "_" or name.count("{") > name.count("}"):
        require(r.at < len(r.tokens) - 1, "subscript")
        name += r.tokens[r.at][1]
        r.at += 1
    return name.replace("{", "").replace("}", "")


def read_words(r, value):
    """Words that follow no number: one letter is a name (a choice), more are a phrase."""
    words = [value]
    while r.tokens[r.at][0] == "word":
        words.append(r.tokens[r.at][1])
        r.at += 1
    if len(words) == 1 and len(value) == 1:
        return ("name", value + read_subscript(r))
    phrase = " ".join(words).lower()
    return PHRASES.get(phrase, ("word", phrase))


def read_function(r, name):
    """sin^2 x, log_2 8, tan^{-1}(2): the argument is a bracket, or a product up to a function or sign."""
    base = read_argument(r) if r.take("_") else None
    exponent = read_exponent(r) if r.take("^") else None
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
    if base:
        tree = ("*", ("fn", "ln", arg), ("inv", ("fn", "ln", base)))
    return ("^", tree, exponent) if exponent else tree


def read_matrix(r):
    """A matrix is a tuple of its rows, a column a tuple of its cells."""
    require(r.tokens[r.at - 1][1] in MATRICES, "environment")
    rows = [[read_relation(r)]]
    while r.tokens[r.at][0] != "end":
        if r.take("&"):
            rows[-1].append(read_relation(r))
        else:
            require(r.take("\n"), "matrix")
            rows += [] if r.tokens[r.at][0] == "end" else [[read_relation(r)]]
    r.at += 1
    require(len({len(row) for row in rows}) == 1, "ragged matrix")
    return ("br", "", "", *(row[0] if len(row) == 1 else ("br", "", "", *row) for row in rows))


def read_group(r, opened):
    """Brackets of every kind. (tree) is the tree; (a, b) keeps its brackets: a point or an interval."""
    bars, r.bars = r.bars, opened in ("|", r"\{")
    kind, value = r.tokens[r.at]
    if opened == "{" and kind in ("num", "name") and r.tokens[r.at + 1][1] == "}":
        tree = read_atom(r)                                     # {2}: most groups, without the descent
    else:
        tree = EMPTY if opened == r"\{" and value == r"\}" else read_list(r)
    if opened == r"\{" and r.take("|", ":"):                    # {x | x > 2}
        tree = ("set_of", tree, read_list(r))
    elif opened == "{" and r.take(r"\choose"):
        tree = ("binom", tree, read_list(r))
    closed = r.take(*CLOSERS[opened])
    require(closed, "unclosed " + opened)
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
        return ("^", read_atom(r), ("inv", index))
    if value in (r"\overline", r"\vec", r"\hat"):
        return ("name", value + repr(read_argument(r)))
    if value == r"\mathbb":
        return ("name", "mathbb " + str(read_argument(r)[1]))
    if value == r"\emptyset":
        return EMPTY
    if value == r"\angle":
        return read_angle(r)
    if value in (r"\sum", r"\prod") and r.take("_"):
        first = read_argument(r)
        if r.take("^") and first[:2] == ("rel", ("=",)) and first[2][0] == "name":
            return (value, first[2][1], first[3], read_exponent(r), read_term(r))
    raise Unreadable("unknown " + value)


def read_angle(r):
    r"""\angle ABC has its vertex in the middle and reads the same from its other end, \angle CBA."""
    points = []
    while r.tokens[r.at][0] == "name":
        r.at += 1
        points.append(r.tokens[r.at - 1][1] + read_subscript(r))
    return ("name", "angle " + " ".join(min(points, points[::-1]))) if points else read_atom(r)


def read_argument(r):
    r"""The argument of a command: a group, or one token, of which \frac12 takes one digit."""
    kind, value = r.tokens[r.at]
    if kind == "num" and len(value) > 1:
        r.tokens[r.at] = ("num", value[1:])
        return ("num", number("num", value[0]), None)
    return read_atom(r)


def spread_signs(tree):
    r"""1 \pm x is the list 1 + x, 1 - x; the sign is the same all over one member."""
    if tree[0] in ("list", "set"):
        return tuple(spread_signs(part) if isinstance(part, tuple) else part for part in tree)
    if occurs((r"\pm", r"\mp"), tree):
        return ("list", False, with_signs(tree, r"\pm"), with_signs(tree, r"\mp"))
    return tree


def with_signs(tree, plus):
    if not isinstance(tree, tuple):
        return tree
    if tree[0] in (r"\pm", r"\mp"):
        inner = with_signs(tree[1], plus)
        return inner if tree[0] == plus else ("neg", inner)
    return tuple(with_signs(part, plus) for part in tree)


# ----------------------------------------------------------------------------------------------- values
MP = mpmath.MPContext()
MP.dps = 50
CONSTANTS = {"pi": +MP.pi, "e": +MP.e, "i": MP.mpc(0, 1), "oo": MP.inf}
MAX_BITS = 100_000          # of an exact number; a third for proper fractions
STEPS = 8_000               # one comparison may take, over all points and readings
RNG = random.Random(0)
PRIMES = [p for p in range(7, 98) if all(p % q for q in (2, 3, 5, 7)) or p == 7]    # small: powers stay exact
POINTS = [[Fraction(*RNG.sample(PRIMES, 2)) for _ in range(30)] for _ in range(3)]
POINTS += [[RNG.choice((-1, 1)) * x for x in row] for row in POINTS[:2]] + [[-x for x in POINTS[2]]]
POSITIVE = 3                # the first rows; in the others only what is real all the way counts


@dataclasses.dataclass
class Env:
    """Where trees are evaluated."""
    steps: list             # [how many are left], shared by all points and readings
    reading: str = ""       # "percent": 5% is 1/20, else 5; "radians": 30° is pi/6, else 30; "log10"
    values: dict = dataclasses.field(default_factory=dict)      # of the names
    real: bool = False      # roots and logs of negatives have no value

    def at(self, **changes):
        return dataclasses.replace(self, **changes)

    def pay(self, steps):
        self.steps[0] -= steps
        if self.steps[0] < 0:
            raise TooMuch


def exact(x):
    return isinstance(x, Fraction)


def to_mp(x):
    """A number as mpmath's."""
    require(not isinstance(x, tuple), "matrix")
    return MP.mpf(x.numerator) / x.denominator if exact(x) else x


def bounded(x, env):
    """Every intermediate value passes here: pay for its size; refuse nan and what is too large."""
    if isinstance(x, tuple):
        return x
    if exact(x):
        bits = x.numerator.bit_length() + x.denominator.bit_length()
        env.pay(1 + bits // 300)
        require(bits <= MAX_BITS, "too large")
        return x
    env.pay(4)
    require(not MP.isnan(x), "undefined")
    require(not x or MP.isinf(x) or abs(MP.mag(x)) <= MAX_BITS, "too large")
    return x.real if isinstance(x, MP.mpc) and x.imag == 0 else x


def value_of(tree, env):
    """Value of a tree: an exact Fraction as long as possible, else real or complex with 50 digits; a tuple
    of a point or matrix. Raises Unreadable where there is no value, TooMuch when the steps are spent."""
    kind = tree[0]
    if kind == "num":
        return tree[1]
    if kind == "name":
        value = env.values.get(tree[1], CONSTANTS.get(tree[1]))
        require(value is not None, "no value")
        return value
    if kind == "fn":
        return bounded(function_value(tree[1], tree[2], env), env)
    if kind in (r"\sum", r"\prod"):
        return series_value(*tree, env)
    if kind == "br" and tree[1] + tree[2] in ("()", "") and not occurs(("oo",), tree):
        return tuple(value_of(part, env) for part in tree[3:])
    require(kind in OPERATIONS, "no value")
    values = [value_of(part, env) for part in tree[1:]]
    require(kind in ("+", "*", "neg") or tuple not in map(type, values), "matrix")
    if len(values) == 1:
        return bounded(OPERATIONS[kind](*values, env), env)
    total = values[0]
    for value in values[1:]:
        total = bounded(OPERATIONS[kind](total, value, env), env)
    return total


def add(a, b, env):
    if isinstance(a, tuple) and isinstance(b, tuple):
        require(len(a) == len(b), "shapes")
        return tuple(add(x, y, env) for x, y in zip(a, b))
    if exact(a) and exact(b):
        return a + b
    a, b = to_mp(a), to_mp(b)
    if a and b and not MP.isinf(a) and not MP.isinf(b):
        low, high = sorted((MP.mag(a), MP.mag(b)))
        require(low <= -120 or high - low <= 100, "50 digits cannot hold the sum")  # -120: an exact zero
    return a + b


def multiply(a, b, env):
    if isinstance(a, tuple):
        a, b = b, a
    if isinstance(b, tuple):
        return tuple(multiply(a, x, env) for x in b)
    return a * b if exact(a) and exact(b) else to_mp(a) * to_mp(b)


def invert(a, env):
    require(a != 0, "division by zero")
    return 1 / a


def power(a, b, env):
    require(a != 0 or (exact(b) and b > 0), "power of zero")
    if exact(a) and exact(b) and b.denominator == 1:
        size = (a.numerator.bit_length() + a.denominator.bit_length()) * abs(b)
        if size <= (MAX_BITS if a.denominator == 1 else MAX_BITS // 3):
            env.pay(int(size) // 300)
            return a ** int(b)
    negative = not isinstance(a, MP.mpc) and a < 0
    if negative and exact(b) and b.denominator % 2:     # odd roots of negatives are real
        return power(-a, b, env) * (-1) ** b.numerator
    require(not negative or not env.real, "not real")
    a, b = to_mp(a), to_mp(b)
    require(not MP.isinf(a) and not MP.isinf(b) and abs(b) * (abs(MP.mag(a)) + 2) <= MAX_BITS, "too large")
    return MP.power(a, b)


def factorial(a, env):
    require(abs(a) <= 3000, "factorial")
    if exact(a) and a.denominator == 1 and a >= 0:
        env.pay(int(a) // 10)
        return Fraction(math.factorial(int(a)))
    return MP.gamma(to_mp(a) + 1)


def binomial(n, k, env):
    require(abs(n) < 10**6 and abs(k) <= 3000, "binomial")
    if exact(n) and exact(k) and n.denominator == k.denominator == 1 and 0 <= k <= n:
        env.pay(int(k))
        return Fraction(math.comb(int(n), int(k)))
    return MP.binomial(to_mp(n), to_mp(k))


OPERATIONS = {"+": add, "*": multiply, "^": power, "!": factorial, "binom": binomial, "inv": invert,
              "neg": lambda a, env: multiply(Fraction(-1), a, env),
              "%": lambda a, env: multiply(Fraction(1, 100 if env.reading == "percent" else 1), a, env),
              "°": lambda a, env: multiply(MP.pi / 180 if env.reading == "radians" else Fraction(1), a, env),
              "ratio": lambda a, b, env: multiply(a, invert(b, env), env), "call": lambda a, env: a}


def function_value(name, arg, env):
    x = value_of(arg, env.at(reading="radians") if name in TRIGONOMETRIC else env)
    number = to_mp(x)
    if name == "abs":
        return abs(x)
    negative = isinstance(number, MP.mpc) or number < 0
    if name in ("floor", "ceil"):
        require(abs(number) < 10**30, name)
        return Fraction(int(getattr(MP, name)(rounded(number))))    # what should be 3 may be 2.999...9
    if name in ("ln", "log", "lg"):
        require(number != 0 and not (env.real and negative), "log")
        tens = name == "lg" or (name == "log" and env.reading == "log10")
        return MP.ln(number) / MP.ln(10) if tens else MP.ln(number)
    require(abs(number) <= (1 if env.real and name in ("arcsin", "arccos") else 10_000), "too large")
    return getattr(MP, name.replace("arc", "a"))(number)


def series_value(kind, name, first, last, body, env):
    first, last = value_of(first, env), value_of(last, env)
    require(exact(first) and exact(last) and first.denominator == last.denominator == 1, "no integers")
    total, step = (Fraction(0), add) if kind == r"\sum" else (Fraction(1), multiply)
    for k in range(int(first), int(last) + 1):
        term = value_of(body, env.at(values={**env.values, name: Fraction(k)}))
        total = bounded(step(total, term, env), env)
    return total


def attempt(function, *args):
    """What the function gives, or None where it meets something without a value (mpmath raises at poles)."""
    try:
        return function(*args)
    except (Unreadable, ArithmeticError, ValueError, TypeError):
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
    """The names of a tree that have no value of their own."""
    if tree[0] == "name":
        return set() if tree[1] in CONSTANTS or tree == ALL_REALS else {tree[1]}
    if tree[0] in (r"\sum", r"\prod"):
        return names_in(tree[2:]) - {tree[1]}
    return set().union(*(names_in(part) for part in tree if isinstance(part, tuple) and part))


def points_for(names, env):
    """The environments in which trees are compared: this one where there are no names."""
    if not names:
        return [env]
    names = sorted(names)
    require(len(names) <= len(POINTS[0]), "too many names")
    return [env.at(values=dict(zip(names, row)), real=index >= POSITIVE) for index, row in enumerate(POINTS)]


def same_value(a, b, env):
    """Two expressions are equal if they are equal at several random points; nothing is rewritten.

    At the first points all names are positive, as school algebra assumes. At mixed signs a point counts
    only where both sides are real all the way: that tells |x| from x, yet lets sqrt(xy) be sqrt(x) sqrt(y).
    """
    names = names_in(a) | names_in(b)
    agreed = 0
    for point in points_for(names, env):
        x, y = attempt(value_of, a, point), attempt(value_of, b, point)
        if x is None or y is None:
            if (x is None) != (y is None) and not point.real:
                return False
        elif not close(x, y):
            return not names and rounds_to(a, x, b, y)
        else:
            agreed += 1
    return agreed > 0


def rounds_to(a, x, b, y):
    """Whether one is a decimal of at least 4 significant digits and the other, no decimal, rounds to it."""
    halves = []
    for tree in (a, b):
        while tree[0] in ("neg", "%", "°"):
            tree = tree[1]
        halves += [tree[2]] if tree[0] == "num" and tree[2] else []
    return len(halves) == 1 and abs(to_mp(x) - to_mp(y)) <= to_mp(halves[0])


# ------------------------------------------------------------------------------------------------- sets
# A set of reals is a pair (ends, holds): the numbers where it may begin or end, and the test whether x is in
# it. Two sets are the same if their tests agree at every end, between neighbouring ends, and outside of all.
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq,
           "!=": operator.ne}


def is_relation(tree):
    return tree[0] == "rel" and tree[1] != ("=",)


def is_set(tree):
    """Whether the tree can only be meant as a set of reals: (a, b) and [a, b] may be points too."""
    if tree[0] == "br" and len(tree) == 5:
        return tree[1] + tree[2] in ("(]", "[)") or occurs(("oo",), tree)
    return tree[0] in (r"\cup", r"\cap", r"\setminus", "set_of") or tree == ALL_REALS or \
        is_relation(tree) or (tree[0] == "list" and all(map(is_relation, tree[2:])))


def real_set(tree, name, env):
    """(ends, holds) of the set of reals that a tree describes; inequalities are solved for `name`."""
    kind = tree[0]
    if tree == ALL_REALS:
        return [], lambda x: True
    if kind == "br" and len(tree) == 5:
        low, high = rounded(value_of(tree[3], env)), rounded(value_of(tree[4], env))
        require(low < high or env.values or tree[1:3] == ("[", "]"), "no interval")     # (a, b) may be one
        return [low, high], lambda x: (low <= x <= high and (x != low or tree[1] == "[")
                                       and (x != high or tree[2] == "]"))
    if kind == "set":
        members = [rounded(value_of(part, env)) for part in tree[1:]]
        return members, lambda x: x in members
    if kind == "set_of" or tree[:2] == ("rel", ("in",)):
        return real_set(tree[-1], name, env)
    if kind == "rel":
        parts = [solve_linear(op, *sides, name, env) for op, *sides in zip(tree[1], tree[2:], tree[3:])]
    elif kind in ("list", r"\cup", r"\cap", r"\setminus"):
        parts = [real_set(part, name, env) for part in tree[2 if kind == "list" else 1:]]
    else:
        raise Unreadable("not a set")
    ends = [end for part_ends, _ in parts for end in part_ends]
    tests = [holds for _, holds in parts]
    if kind == r"\setminus":
        return ends, lambda x: tests[0](x) and not tests[1](x)
    together = any if kind in ("list", r"\cup") else all
    if kind == "list" and not tree[1] and all(map(is_relation, tree[2:])) and any(
            all(holds(x) for holds in tests) for x in probes(ends)):
        together = all              # conditions, without "or", that can hold together: x > 1 and x < 3
    return ends, lambda x: together(holds(x) for holds in tests)


def rounded(x):
    """A real with 35 digits, so that equal ends are equal."""
    x = to_mp(x)
    require(not isinstance(x, MP.mpc), "not real")
    return x if MP.isinf(x) or not x else MP.mpf(MP.nstr(x, 35))


def solve_linear(op, left, right, name, env):
    """(ends, holds) of the reals for which `left op right`, linear in `name`."""
    def at(x):
        point = env.at(values={**env.values, name: Fraction(x)})
        return to_mp(value_of(left, point)) - to_mp(value_of(right, point))
    f0, f1, f3 = at(0), at(1), at(3)
    if MP.isinf(f0):                                            # x < oo says nothing
        return [], lambda x: True
    slope = f1 - f0
    require(not isinstance(slope, MP.mpc) and abs(slope) > MP.mpf(10)**-30, "not linear")
    require(close(f3 - f0, 3 * slope), "not linear")
    root, compare = rounded(-f0 / slope), COMPARE[op]
    return [root], lambda x: compare(x, root) if slope > 0 else compare(root, x)


def probes(ends):
    """Every end, a number between each two neighbours, one below and one above all."""
    ends = sorted({end for end in ends if not MP.isinf(end)} or {MP.mpf(0)})
    middles = [(low + high) / 2 for low, high in zip(ends, ends[1:])]
    return [ends[0] - abs(ends[0]) - 1, *ends, *middles, ends[-1] + abs(ends[-1]) + 1]


def same_set(a, b, env):
    names_a, names_b = names_in(a), names_in(b)
    bound = [solved_name(a, names_a, b, names_b), solved_name(b, names_b, a, names_a)]
    if None not in bound and bound[0] != bound[1]:
        return False
    parameters = (names_a | names_b) - set(bound)
    told = not parameters
    for point in points_for(parameters, env):
        if told and point.real:                     # negative parameters only for sets that were empty so far
            break
        (ends_a, in_a), (ends_b, in_b) = real_set(a, bound[0], point), real_set(b, bound[1], point)
        env.pay(len(ends_a + ends_b) ** 2 // 4)
        numbers = probes(ends_a + ends_b)
        if any(in_a(x) != in_b(x) for x in numbers):
            return False
        told = told or any(in_a(x) for x in numbers)
    return told


def solved_name(tree, names, other, others):
    """The name an inequality is solved for: the one that the other side does not have, or has solved too."""
    own = names - others or (names if occurs(("rel",), other) else set())
    return min(own) if occurs(("rel",), tree) and len(own) == 1 else None


# ------------------------------------------------------------------------------------------------- same
def same_relation(a, b, env):
    """Equations and inequalities are the same if their differences are proportional, part for part."""
    first, second = (list(zip(tree[1], tree[2:], tree[3:])) for tree in (a, b))
    return len(first) == len(second) and all(any(same_pair(p, q, env) for q in second) for p in first) and \
        all(any(same_pair(p, q, env) for p in first) for q in second)


def same_pair(p, q, env):
    if p[0] != q[0]:
        return False
    if same(p[1], q[1], env) and same(p[2], q[2], env):
        return True
    f, g = (("+", left, ("neg", right)) for _, left, right in (p, q))
    names = names_in(f)
    if not names or names != names_in(g) or p[0] == "in":
        return False
    factors = [value_of(("ratio", f, g), point) for point in points_for(names, env)[:POSITIVE]]
    if any(x == 0 or not close(x, factors[0]) for x in factors):
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
    if one and two:                     # y may be called f(x), or in words; but f(2) is not f(3)
        names = (one[0], two[0])
        if names[0][0] != names[1][0] or occurs(("word",), names) or same(*names, env):
            return same(one[1], two[1], env)
    if a[0] == b[0] == "rel":
        return attempt(same_relation, a, b, env)
    named, other = (one, b) if a[0] == "rel" else (two, a)
    return bool(named) and same(named[1], other, env)


def items_of(tree):
    """The members of a list or set, of the lists in it, and of a set that has a name."""
    named = named_value(tree)
    tree = named[1] if named and named[1][0] == "set" else tree
    if tree[0] not in ("list", "set"):
        return [tree]
    return [item for part in tree[2 if tree[0] == "list" else 1:] for item in items_of(part)]


def same_items(a, b, env):
    """Lists and sets: the same members in any order; a tuple may stand for a list in its own order."""
    for one, two in ((a, b), (b, a)):
        if one[0] == "br" and one[1] and two[0] == "list" and all(part[0] != "br" for part in two[2:]):
            return same_parts(one[3:], items_of(two), env)
    first, second = items_of(a), items_of(b)
    repeats = "set" in (a[0], b[0])
    if len(first) != len(second) and not repeats:
        return False
    left = list(second)
    for item in first:
        found = next((other for other in left if same(item, other, env)), None)
        if found is not None:
            left.remove(found)
        elif not repeats or not any(same(item, other, env) for other in second):
            return False
    return all(any(same(item, other, env) for item in first) for other in left)


def same_parts(a, b, env):
    return len(a) == len(b) and all(same(x, y, env) for x, y in zip(a, b))


def same(a, b, env):
    """Whether two trees state the same answer: by their kinds, then part by part, then by value."""
    env.pay(4)
    if a == b:
        return True
    kinds = (a[0], b[0])
    if (is_set(a) or is_set(b)) and attempt(same_set, a, b, env):
        return True
    if "list" in kinds or "set" in kinds:
        return same_items(a, b, env)
    if "rel" in kinds:
        return same_equation(a, b, env)
    if kinds == ("br", "br"):                                   # a column has no brackets of its own
        return (a[1:3] == b[1:3] or "" in (a[1], b[1])) and same_parts(a[3:], b[3:], env)
    return same_value(a, b, env)


def same_units(a, b):
    """Units may be missing or spelt otherwise, but cm is not m: some must begin with the same letter."""
    first, second = ({word[0] for word in words if not word.startswith("unit")} for words in (a, b))
    return not first or not second or bool(first & second)


def same_answer(a, b):
    """is_equivalent for two cleaned texts. A reading that only one of them needs is tried both ways."""
    (x, units_x), (y, units_y) = parse(a), parse(b)
    if units_x != units_y:                                      # 5\text{ m} shows that m is a unit in "5m"
        (x, units_x), (y, units_y) = parse(a, tuple(units_y)), parse(b, tuple(units_x))
    steps = [STEPS]
    return same_units(units_x, units_y) and any(
        attempt(same, x, y, Env(steps, reading)) for reading in readings(x, y))


def readings(x, y):
    yield ""
    if occurs(("%",), x) != occurs(("%",), y):
        yield "percent"
    if occurs(("°",), x) != occurs(("°",), y):
        yield "radians"
    if occurs(("log",), (x, y)):
        yield "log10"


def is_equivalent(pred, gold):
    r"""Whether two answers, in LaTeX or plain text, state the same thing. Never raises, never runs the text.

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
    x, y = rational(a), rational(b)
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
