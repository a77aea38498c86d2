"""verifier.py and equivalence.py behind it: every kind of answer by hand-checked pairs, the cut into actions,
rewards, adapters, bounds."""
import dataclasses
import doctest
import functools
import json
import os
import random
import subprocess
import sys

import pytest

import equivalence
import verifier
from verifier import (SOLVE_PHRASE, VERIFY_PHRASE, Action, action_ids, action_rewards, check_gold, checks,
                      compute_score, extract_boxed, is_equivalent, judge, judge_many, judge_solves,
                      outcome_reward, parse_actions, parse_verdict, reward_func, solves)

# kind: pairs that are the same answer, pairs that are not
KINDS = {
    "integers": ([("54", "54"), ("+12", "12"), ("5.", "5"), ("$4$", "4"), (r"\(7\)", "7"), ("007", "7"),
                  (r"\boxed{5}", "5"), (r"\mathbf{-84}", "-84"), ("5 .", "5")],
                 [("54", "55"), ("-3", "3"), ("3", "-3"), ("10", "1"), ("", "5"), ("5", ""), ("x", "5")]),
    "thousands": ([("1,234", "1234"), (r"12,\!345", "12345"), ("1{,}000{,}000", "1000000"), (r"12\,345",
    "12345"),
                   ("1,000,000", "10^6"), ("1,000.99", "1000.99"), ("2, 345", "2, 345")],
                  [("(12,345)", "12345"), ("1,003", "1,013"), ("12,345", "123,45"), ("0,125", "125")]),
    "decimals": ([("0.50", "1/2"), (".5", "0.5"), ("5.0", "5"), ("0.3333", r"\frac{1}{3}"), ("3.1416",
    r"\pi"),
                  (r"0.\overline{3}", "1/3"), (r"0.1\overline{6}", r"\frac16"), ("-0.25", r"-\frac14")],
                 [("0.333", r"\frac{1}{3}"), ("4.9999", "5"), ("3.14", r"\pi"), ("0.01", "0.1"), ("3.14",
                 "314"),
                  ("0.3334", "1/3"), ("0.3333", "0.33333"), (r"0.\overline{4}", r"\frac{1}{3}")]),
    "fractions": ([(r"\frac{2}{4}", r"\frac12"), (r"\dfrac34", "3/4"), (r"\tfrac{3}{4}", "0.75"),
    (r"\frac 9 5", "9/5"),
                   (r"\frac9{19}", "9/19"), (r"\frac{3}{-4}", r"-\frac34"), ("(-3)/4", r"\frac{-3}{4}"),
                   (r"\frac{1}{\frac{1}{2}}", "2")],
                  [(r"\frac{1}{2}", r"\frac{1}{3}"), (r"\frac{3}{4}", r"-\frac{3}{4}"), ("1/0", "1"), ("32",
                  r"\frac32")]),
    "mixed numbers": ([(r"2\frac{1}{3}", r"\frac73"), (r"1 \frac{1}{4}", "1.25"), ("2 1/2", "2.5"),
    (r"6\frac23", "20/3"),
                       (r"-1\frac{1}{4}", "-1.25"), (r"a\frac{b}{c}", r"\frac{ab}{c}"),
                       (r"2\frac{5}{3}", r"\frac{10}{3}"), (r"x_2\frac{1}{3}", r"\frac{x_2}{3}")],
                      [(r"\frac{21}{3}", r"2\frac{1}{3}"), ("2 1/2", "21/2"), (r"2\frac13", r"\frac23")]),
    "percent": ([(r"60\%", "60"), ("60%", r"60 \%"), ("28 percent", r"28\%"), ("0.6", r"60\%"), ("5.3",
    r"$5.3\%$")],
                [(r"40\%", r"60\%"), (r"-8\%", r"8\%"), (r"0.6\%", r"60\%")]),
    "degrees": ([("90 degrees", r"90^\circ"), ("75", r"75^{\circ}"), ("36°", r"36^\circ"), (r"\sin 30^\circ",
    "1/2"),
                 (r"\frac{\pi}{2}", r"90^\circ"), (r"\tan 45^{\circ}", "1"),
                 (r"\sin 30^\circ", r"\cos 60^\circ")],
                [("35", r"30^\circ"), (r"90^\circ", r"9^\circ"), (r"\sin 30", "1/2")]),
    "money and units": ([(r"\$18.90", "18.9"), (r"18.90\text{ dollars}", r"\$18.90"), (r"15\mbox{ cm}^2",
    "15"),
                         (r"7\pi \text{ square cm}", r"7\pi\text{ cm}^2"), ("450 m", r"$450 \mathrm{~m}$"),
                         ("2.5m", r"2.5 \mathrm{~m}"), ("5.4cents", r"5.4 \text{ cents}"), ("2m/s",
                         r"2\text{ m/s}"),
                         ("54 minutes", "54"), ("2 million", "2000000"), ("5 hr", "5 hours")],
                        [("7", r"7\pi\text{ cm}^2"), ("100", r"10\text{ m/s}"), ("3x", r"3\text{ cm}"),
                         (r"450\text{ m}", r"450\text{ cm}"), ("20 May", "20 June"), ("16x", "16")]),
    "scientific": ([(r"3\times10^8", "3.0e8"), ("4e33", r"4 \times 10^{33}"), ("1E-8", "1e-8"), ("300000000",
    "3e8"),
                    (r"1.4 \cdot 10^{-3}", "0.0014")],
                   [("3", r"3.0\times 10^{8}"), (r"2.5\times10^3", r"2.5\times 10^{-3}"), ("1.24e-7",
                   "1.24e-8")]),
    "radicals and powers": ([(r"2\sqrt2", r"\sqrt{8}"), (r"\frac{1}{\sqrt3}", r"\frac{\sqrt3}{3}"),
    ("2*sqrt(5)", r"2\sqrt{5}"),
                             (r"\sqrt[3]{-8}", "-2"), ("4^{50}", "2^{100}"), (r"\sqrt[4]{x^3}",
                             r"x^{\frac34}"),
                             ("2^{-1}", "0.5"), (r"\sqrt{3+2\sqrt2}", r"1+\sqrt2"), ("3√2", r"3\sqrt{2}")],
                            [("2^{99}", "2^{100}"), (r"\sqrt8", "8"), ("2^{-98}", "2^{-99}"), ("52^2", "52"),
                             (r"\sqrt{x^2}", "x"), ("2^{100000}", "2^{100000}+1"), ("10^{19}", "10^{20}")]),
    "constants": ([("12pi", r"12\pi"), (r"\frac{\pi}{2}", "0.5π"), (r"1-\frac1e", "1-e^{-1}"), ("π/2",
    "pi/2")],
                  [(r"\pi", "22/7"), ("2e", "e^2"), (r"6\pi", "6"), (r"\pi^2", r"\pi"), ("e^{1000}+1",
                  "e^{1000}")]),
    "complex": ([("3+4i", "4i+3"), ("i^2", "-1"), (r"\frac1i", "-i"), (r"e^{i\pi}", "-1"),
    (r"\frac{5+i\sqrt{3}}{5}",
                                                                                      r"1+\frac{\sqrt3}{5}i")],
                [("3+4", "3+4i"), ("-1", "-i"), ("i", "2i"), ("5i", "5")]),
    "logs and trigonometry": ([(r"\log_2 8", "3"), (r"\frac{\ln3}{\ln2}", r"\log_2 3"), (r"\log 100", "2"),
                               (r"\sin 2x", r"2\sin x\cos x"), (r"\sec^2(y)", r"\tan^2(y)+1"), ("cosx",
                               r"\cos x"),
                               (r"\tan^{-1}(1)", r"\frac{\pi}{4}"), (r"\arctan 2", r"\tan^{-1} 2")],
                              [(r"\sin x^2", r"\sin^2 x"), (r"\ln 3", r"\ln 2"), (r"\sin 2x", r"\sin^2 x"),
                               (r"\tan 60^\circ", "1"), (r"\frac32", r"\frac{\log 3}{\log 2}")]),
    "factorials and binomials": ([("5!", "120"), (r"\binom{10}{3}", "120"), (r"{10 \choose 3}", "120"),
    ("10!/8!", "90"),
                                  ("n!", "n!"), (r"\sum_{k=1}^{10} k", "55"), (r"\frac{(n+1)!}{n!}", "n+1")],
                                 [("4!", "120"), (r"\binom{9}{3}", "120"), (r"\sum_{k=1}^{10} k", "45")]),
    "tuples": ([("(2, 3)", "(2,3)"), (r"\left(3,\frac{\pi}{2}\right)", "(3.0,pi/2)"), ("(x,y)=(2,3)",
    "(2,3)"),
                (r"\langle 1,2\rangle", "(1,2)"), ("(0.25,1)", r"(\frac14,1)"), ("(12,345)", r"(12,\;345)")],
               [("(6,4)", "(4,6)"), ("(1,2)", "(1,2,3)"), ("6", "(2,3)"), ("(1,2)", "(1,2),(3,4)"),
               ("(12,346)", "(12,345)")]),
    "matrices": ([(r"\begin{pmatrix}1\\2\end{pmatrix}",
    r"\left[\begin{array}{c}1.0\\\frac42\end{array}\right]"),
                  (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}+\begin{bmatrix}1&0\\0&1\end{bmatrix}",
                   r"\begin{pmatrix}2&2\\3&5\end{pmatrix}")],
                 [(r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
                  (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
                  (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}12\end{pmatrix}")]),
    "intervals": ([("[1, \\infty)", r"[1,+\infty)"), ("(1,2]", r"1 < x \le 2"), ("[-1,0)", "-1≤x<0"),
    ("x > 5", r"(5,\infty)"),
                   (r"x \in [2,\infty)", r"x\ge2"), (r"(-\infty,\infty)", r"\mathbb{R}"), (r"(-\infty,a)",
                   "x<a"),
                   ("[0,1]", r"[0,\frac{2}{2}]")],
                  [("(1,2)", "[1,2]"), ("(1,2]", "[1,2)"), ("[0,3]", r"[0,1]\cup[2,3]"), (r"(0,\infty)",
                  r"\mathbb{R}"),
                   ("2", r"x\ge2"), ("(1, +∞)", "[1, +∞)"), ("(-2,7)", r"-2\le x\le7")]),
    "unions": ([(r"(4,9)\cup(-1,2)", r"(-1,2)\cup(4,9)"), (r"[0,7)\cup\{-1\}", r"\{-1\}\cup[0,7)"),
                (r"x<0 \text{ or } x>1", r"(-\infty,0)\cup(1,\infty)"), (r"[0,1]\cup[1,2]", "[0,2]"),
                (r"\mathbb{R}\setminus\{5\}", r"x \neq 5"), (r"(0,3)\cap(1,5)", "1<x<3")],
               [("(1,3)", r"(1,2)\cup(2,3)"), (r"[0,1]\cup(2,3]", r"[0,1]\cup[2,3]"),
                (r"(-\infty,1)\cap(2,3)", r"(-\infty,1)\cup(2,3)")]),
    "sets and lists": ([(r"\{3,1,2\}", r"\{1,2,3\}"), ("1, 2", "2 and 1"), (r"6\text{ and }8", "8, 6"),
    ("1 or -2", "1,-2"),
                        (r"19, 0, \text{and } 1", "0,1,19"), (r"x=1 \text{ or } x=-2", "1,-2"), ("x=1,3",
                        "1,3"),
                        (r"\{1,1,2\}", r"\{1,2\}"), (r"\{(1,2),(0,1)\}", "(0,1),(1,2)"), ("$48$, $384$",
                        "48,384"),
                        (r"x\in\{1,2\}", "2,1"), ("-12;-11", r"\{-11,-12\}"), (r"\emptyset", r"\varnothing")],
                       [("5, 6", "5"), ("1 or 2 or 3", "2"), ("1,2", "1,2,3"), ("-1,2", "1,-2"), ("1,1,2",
                       "1,2,2"),
                        ("68", r"6\text{ and }8"), (r"\emptyset", "0"), ("1-2", "1,-2"), (r"\{2,3\}",
                        r"\{2,3,5\}")]),
    "equations": ([("x = 5", "5"), ("5 = x", "x=5"), ("f(x)=x+1", "1+x"), ("2x+3=y", "y=2x+3"), ("2x-y+3=0",
    "y=2x+3"),
                   ("x^2/16+y^2/12=1/4", "x^2/4+y^2/3=1"), ("f(3)=10", "10"), (r"\frac{NO}{BO}=\frac12",
                   "0.5"),
                   ("a_3=2, a_{37}=19", "a_{37} = 19, a_3 = 2"), ("A:B=1", "1")],
                  [("x=-5", "5"), ("y=6", "x=5"), ("x=5", "y=5"), ("x+y=5", "x^2+y^2=25"), ("x^2+y^2=25",
                  "25"),
                   ("2x=10", "10"), ("f(x)=x-1", "f(x)=x+1"), ("x^2=4", "x=2"), ("D=(0,1.5)", "D=(0,1)")]),
    "inequalities": ([("5 \\geq x", "x<=5"), ("-x > -1", "x<1"), (r"7\ge x\ge -2", r"-2 \le x \le 7"),
    ("x != 5", r"x\ne5"),
                      ("b > a > c", "c<a<b")],
                     [("x<5", r"x\le5"), ("x<5", "x>5"), ("-1<x", "-1<x<3"), ("x<5", "y<5"), ("x<1",
                     "-x<-1")]),
    "plus or minus": ([("3,-3", r"\pm 3"), (r"\{1+\sqrt2,1-\sqrt2\}", r"1\pm\sqrt2"), (r"x=\pm2\sqrt6",
    r"\pm 2\sqrt{6}"),
                       (r"(\pm2,0)", "(2,0),(-2,0)"), (r"\mp 3", r"\pm 3")],
                      [("2021", r"\pm 2021"), (r"1+\sqrt2", r"1\pm\sqrt2"), (r"\pm 3", r"\pm 4")]),
    "algebra": ([("(x+1)^2", "x^2+2x+1"), ("b*a", "ab"), ("x**2-1", "(x+1)(x-1)"), (r"\frac{x^2-1}{x-1}",
    "x+1"),
                 ("3x^2/(2y)", r"\frac{3x^2}{2y}"), ("1/2x", r"\frac{x}{2}"), (r"\sqrt{2m}",
                 r"\sqrt2\sqrt m"),
                 ("x_1+x_{2}", "x_2+x_1"), ("|x||y|", "|xy|"),
                  ("x^{2017}+1", "1+x^{2017}"), ("2^{k-n}", r"\frac{2^k}{2^n}")],
                [("x^2+2x", "x^2+2x+1"), ("x^{3000}", "x^{3001}"), ("2w", "2n"), ("a^b", "ab"),
                  ("x_1", "x_2"), (r"\frac{y}{x}", r"\frac{x}{y}"),
                 ("|x|", "x"), ("x|y|", "|x|y"), ("|x||y|", "xy"), ("(x+y)^{5000}", "(x+y)^{5000}+1"),
                  ("11+9a/20", r"\frac{11+9a}{20}"), ("x", "X")]),
    "choices": ([("(A)", "A"), (r"\text{(B)}", "B"), (r"\textbf{(C)}", r"\text{C}"), ("B)", "B"),
    (r"\mathrm{E}", "E")],
                [("A", "B"), ("(A)", r"\text{(C)}"), ("B", r"\text{A, B}"), ("AB", "A")]),
    "text": ([("yes", r"\text{Yes}"), ("ellipse", r"\text{ellipse}"), (r"\text{does not exist}.",
    "does not exist"),
              ("Evelyn", r"\text{Evelyn}"), ("no", r"\text{No}"), (r"\text{June 20}", "June 20")],
             [("not Evelyn", r"\text{Evelyn}"), ("Eve", r"\text{Evelyn}"), ("seat", r"\text{east}"), ("0",
             r"\text{no solution}"),
              ("odd", r"\text{even}"), ("20 May", r"\text{June 20}")]),
    "bases": ([("2516_{8}", "2516_8"), ("(4210)_5", "4210_{5}")],
              [("2516_8", "2516_9"), ("2516", "2516_8"), ("4343_6", "4344_6"), ("101_2", "5")]),
    "ratios": ([("3:2", "6:4"), ("1:2:3", "2:4:6"), ("12:30 p.m.", r"12:30 \text{ p.m.}")],
               [("2:3", "3:2"), ("5:31", "5:30"), ("1:2:3", "1:2:4"), ("2:3:4", r"(\frac32,2)")]),
    "angles": ([(r"\angle BAC", r"\angle CAB"), (r"\angle{BAC}", "∠ CAB"),
                (r"\angle A_1OB", r"\angle BOA_{1}"),
                (r"\angle ABC=30^\circ", "30"), (r"\angle ABC=30^\circ", r"\angle CBA = 30"),
                ("angle A", r"\angle A")],
               [(r"\angle BAC", r"\angle ABC"), (r"\angle ABC=30^\circ", r"\angle ACB=30^\circ"),
                (r"\angle BAC", "BAC"), (r"\angle B E A_{1}=90", r"\angle B E A_{2}=90")]),
    "not equal": ([(r"a \not= 1", r"a\ne 1"), (r"a \not = 1", r"(-\infty,1)\cup(1,\infty)"),
                   (r"x\neq\pm2", r"\mathbb{R}\setminus\{-2,2\}")],
                  [(r"a\not=1", "a=1"), (r"x\neq\pm2", r"\mathbb{R}\setminus\{2\}"),
                   (r"x\ne\pm6", r"x\ne\pm5")]),
    "spaced thousands": ([("1 000 000", "1000000"), ("1 000 000", "10^6"), ("12 345.6", "12345.6"),
                          (r"27\ 648", "27648"), ("2 1/2", "2.5"), ("x=1 000", "1000")],
                         [("1 000 000", "1000"), ("2 300", "600"), ("2 100/3", "2100/3"),
                          ("2^3 100", "2^{3100}")]),
    "conditions": ([(r"-1<x \text{ and } x<3", "(-1,3)"), ("x>-1, x<3", "(-1,3)"),
                    (r"x\ge0, x\ne2", r"[0,2)\cup(2,\infty)"),
                    (r"x<-1 \text{ and } x>1", r"(-\infty,-1)\cup(1,\infty)"),
                    (r"x>-1 \text{ or } x<3", r"\mathbb{R}"),
                    (r"\{x : -2\le x<5\}", "[-2,5)"), (r"\{x\mid x>3\}", r"(3,\infty)"), ("3>x>1", "(1,3)"),
                    (r"1<x<3, x\ne2", r"(1,2)\cup(2,3)"), (r"(1,2)\cap(3,4)", r"\emptyset")],
                   [("x>-1, x<3", r"\mathbb{R}"), (r"x>-1 \text{ or } x<3", "(-1,3)"),
                    (r"x\ge0, x\ne2", r"[0,\infty)"),
                    ("3>x\\ge1", "(1,3]"), ("(3,1]", "(5,2]"), ("(20,0)", "[20,0)"),
                    ("-2x<6", r"(-\infty,-3)")]),
    "intervals with names": ([("(a,b]", r"a<x\le b"), ("(b,a]", r"b<x\le a"), ("(m,0)", "m<x<0"),
                              ("(-a,a)", "-a<x<a")],
                             [("(b,a]", r"a<x\le b"), ("(m,0)", "[m,0)"), ("[y,1)", "[3y,1)")]),
    "names": ([("f(x)=2x+1", "y=2x+1"), ("x_{max}=3", "3"), (r"v_{\text{max}}=3", "v_{max}=3"),
               ("f(2)=7", "7"),
               (r"m_{\max}=3", "3"), (r"M_{\odot}+1", r"1+M_{\odot}")],
              [("f(2)=7", "f(3)=7"), ("P(X=6)=0.5", "P(X=5)=0.5"), ("-n=2", "2")]),
    "vectors": ([(r"2\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\4\end{pmatrix}"),
                 (r"\begin{pmatrix}1\\-2\end{pmatrix}", "(1,-2)"),
                 (r"\begin{pmatrix}1\\-2\end{pmatrix}", "[1,-2]"),
                 (r"\begin{pmatrix}1\\2\end{pmatrix}+t\begin{pmatrix}3\\4\end{pmatrix}", "(1+3t,2+4t)")],
                [(r"\begin{pmatrix}1\\-2\end{pmatrix}", "(-2,1)"), ("-(1,2)", "(1,2)"),
                 (r"2(-\infty,\infty)", r"(-\infty,\infty)"), (r"\begin{pmatrix}1\\2\end{pmatrix}", "1, 2"),
                 (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}")]),
    "python-like": ([("sqrt(3)/2", r"\frac{\sqrt3}{2}"), ("2**(1/2)", r"\sqrt2"), ("2**3**2", "512"),
                     ("exp(2)", "e^2"),
                     ("log(8)/log(2)", "3"), ("sqrt(x**2+1)", r"\sqrt{x^2+1}"), ("[1, 2, 3]", "[1,2,3]"),
                     ("--5", "5")],
                    [("sqrt(x)**2+1", r"\sqrt{x^2+1}"), ("2**3**2", "64"), ("sqrt(2)", "2")]),
    "roots of numbers": ([("√12", r"2\sqrt3"), (r"\sqrt12", r"2\sqrt3"), (r"\sqrt[3]8", "2"),
                          (r"\frac12\frac34", "3/8")],
                         [("√12", "2"), (r"\sqrt12", r"\sqrt{1}2")]),
    "floors": ([(r"\lfloor 3.7\rfloor", "3"), (r"\lceil 3.2\rceil", "4"), (r"\lfloor \log_2 8\rfloor", "3"),
                (r"\lfloor -0.5\rfloor", "-1"), (r"\lfloor \sqrt[3]{64}\rfloor", "4"),
                (r"\lceil \sqrt5\sqrt5\rceil", "5")], [(r"\lfloor 3.7\rfloor", "4"),
                                                  (r"\lceil 3.2\rceil", "3")]),
    "inverse functions": ([(r"\sec^{-1}(2)", r"\frac{\pi}{3}"), (r"\cot^{-1}(1)", r"\frac{\pi}{4}")],
                          [(r"\sec^{-1}(2)", r"\frac{\pi}{6}")]),
    "text around": ([(r"\text{\frac{1}{2}}", "0.5"), ("5 km/h", r"5\text{ km/h}"),
                     ("2 thousand", "2000"), ("5 dozen", "60")],
                    [(r"\text{\frac{1}{2}}", "0.25"), ("2 thousand", "200"), (r"\textbf{(B)}\ 12", "12")]),
}
SAME = [(kind, a, b) for kind, (pairs, _) in KINDS.items() for a, b in pairs]
OTHER = [(kind, a, b) for kind, (_, pairs) in KINDS.items() for a, b in pairs]


@pytest.mark.parametrize("kind, a, b", SAME)
def test_same_answers(kind, a, b):
    assert is_equivalent(a, b) is True and is_equivalent(b, a) is True


@pytest.mark.parametrize("kind, a, b", OTHER)
def test_other_answers(kind, a, b):
    assert is_equivalent(a, b) is False and is_equivalent(b, a) is False


def test_doctests():
    for module, examples in ((verifier, 5), (equivalence, 8)):
        found = doctest.testmod(module)
        assert found.failed == 0 and found.attempted >= examples, module.__name__


# ------------------------------------------------------------------------------------------------ boxed
@pytest.mark.parametrize("text, content", [
    (r"so \boxed{5}", "5"), (r"\boxed{1} then \boxed{2}", "2"), (r"\boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
    (r"\fbox{7}", "7"), (r"\boxed 5", "5"), (r"\boxed { 12 }", "12"), (r"$\boxed{\{1,2\}}$", r"\{1,2\}"),
    (r"\boxed{3} and \boxed{4", "3"), (r"\boxed{a \boxed{b}}", "b"), (r"\boxed{1\boxed{2", None), ("5", None),
    ("", None),
    (r"\boxed{}", ""), (r"\boxed{\text{a}}x}", r"\text{a}"), (r"\boxed", None),
    (r"\boxed 5, so", "5"), (r"$\boxed 5;$", "5")])
def test_extract_boxed(text, content):
    assert extract_boxed(text) == content


def test_judge():
    assert judge(r"We get \boxed{\frac{2}{4}}.", r"$\frac12$")
    assert judge(r"first \boxed{3}, no: \boxed{4}", r"\boxed{4}")
    assert not judge("the answer is 4", "4")                     # no box, no match
    assert not judge(r"\boxed{}", "") and not judge(r"\boxed{ }", " ") and not judge(r"\boxed{$$}", "$$")


@pytest.mark.parametrize("text", ["\ud800", r"\boxed{" + "\ud800}", r"\boxed{" + "7" * 5000 + "}",
                                  r"\boxed{\boxed{}}"])
@pytest.mark.parametrize("gold", ["\ud800", "7" * 5000, "1e99999", ["5"], {"answer": 5}, 10**400,
                                  float("nan"), True])
def test_odd_texts_and_golds_are_no_match_and_no_exception(text, gold):
    """Lone surrogates, numbers of 5,000 digits, golds that are no text: what broken data files hold."""
    same = text[7:-1] == gold
    assert judge(text, gold) is same and judge(r"\boxed{1}", gold) is False
    assert (check_gold(gold) is None) is isinstance(gold, str)
    assert action_rewards(parse_actions(text), gold, True) == [1 if same else -1]


@pytest.mark.parametrize("gold", ["", "  ", "$$", r"\boxed{}", ".", None, 5, r"\text{}"])
def test_check_gold_refuses(gold):
    assert isinstance(check_gold(gold), str)


@pytest.mark.parametrize("gold", ["5", r"\frac{1}{2}", "$x=3$", r"\text{Yes}", r"\int_0^1 f(x)\,dx", "18.0"])
def test_check_gold_accepts(gold):
    assert check_gold(gold) is None and is_equivalent(gold, gold)


# ----------------------------------------------------------------------------------- actions and verdicts
W, L = VERIFY_PHRASE, SOLVE_PHRASE


def types(text):
    actions = parse_actions(text)
    assert "".join(a.text for a in actions) == text                       # spans concatenate to the text
    assert all(text[a.start:a.end] == a.text for a in actions)
    return [a.type for a in actions]


def test_parse_actions_cuts_at_the_phrase():
    text = f"s1\n\n{W}\n\nv1\n\n{L}\n\ns2\n\n{W}\n\nv2"
    assert [a.text for a in parse_actions(text)] == [
        "s1\n\n", f"{W}\n\nv1\n\n", f"{L}\n\ns2\n\n", f"{W}\n\nv2"]
    assert types(text) == ["solve", "verify", "solve", "verify"]
    assert parse_actions("") == [Action("solve", "", 0, 0)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse_actions("x")[0].type = "verify"


@pytest.mark.parametrize("gap", ["", " ", "\n", "\n\n", "\n\n\n\n", "  \n \n"])
def test_parse_actions_any_gap(gap):
    assert types(f"5{gap}{W}{gap}no{gap}{L}{gap}6") == ["solve", "verify", "solve"]


@pytest.mark.parametrize("text, expected", [
    (f"5 {W} a {W} b {L} 6", ["solve", "verify", "solve"]),             # a second check within a check
    (f"5 {L} 6 {W} ok", ["solve", "verify"]),                           # a retry within a solution
    (f"5 {W} ok {L} 6 {L} 7", ["solve", "verify", "solve"]),
    (f'5 I may say "{W}" but', ["solve"]),                              # quoted
    (f"5 {W} as in '{L}' yes", ["solve", "verify"]),
    (f"{W} 5", ["solve"]), (f" \n{W} 5 {L} 6", ["solve"]),              # nothing to check yet
    (f"5 {W} Therefore, the answer is correct. {L} 6", ["solve", "verify", "solve"]),
    (f"5 {W[:-1]}", ["solve"]), (f"5 {W.lower()}", ["solve"]), (f"5 {W}{L}", ["solve", "verify", "solve"])])
def test_parse_actions_transition_rule(text, expected):
    assert types(text) == expected


@pytest.mark.parametrize("mark", "\"'`“‘«{")
def test_a_phrase_right_after_a_quotation_mark_is_plain_text(mark):
    assert types(f"5 I wrote {mark}{W} but") == ["solve"]
    assert types(f"5 {W} it said {mark}{L} 6") == ["solve", "verify"]


@pytest.mark.parametrize("text, verdict", [
    ("Therefore, the answer is correct.", "correct"), ("Therefore, the answer is incorrect.", "incorrect"),
    ("Therefore, the answer cannot be verified.", "incorrect"), ("So the answer is not correct.",
    "incorrect"),
    ("Therefore, the answer is incorrect. No: therefore, the answer is correct.", "correct"),
    ("Therefore, the answer is correct. Hmm.\nTherefore,\nthe answer is incorrect", "incorrect"),
    ("**Therefore, the answer is correct**", "correct"), ("Let me check.", None), ("", None),
    ("We ask whether the answer is correct.", None), ("Therefore, the answer is correctly rounded.", None),
    ("Therefore, the answer is correct only if x > 0", None), ("Also, the answer is correct.", None),
    ("Thus the answer is correct!", "correct"), ("Hence, the answer is incorrect\nas 2 < 3", "incorrect")])
def test_parse_verdict(text, verdict):
    assert parse_verdict(text) == verdict


def test_rewards():
    right, wrong = r"\boxed{4} ", r"\boxed{5} "
    yes, no = "Therefore, the answer is correct. ", "Therefore, the answer is incorrect. "
    text = f"{wrong}{W} {no}{L} {wrong}{W} {yes}{L} {right}{W} {yes}"
    actions = parse_actions(text)
    assert action_rewards(actions, "4", True) == [-1, 1, -1, -1, 1, 1]
    assert action_rewards(actions, "4", False) == [-1, 1, -1, -1, 1, -1]
    assert outcome_reward(actions, "4", True) == 1 and outcome_reward(actions, "4", False) == -1
    assert outcome_reward(actions, "5", True) == -1
    spoilt = parse_actions(f"{right}{W} {no}{L} {wrong}{W} {yes}")      # right once, not for good
    assert action_rewards(spoilt, "4", True) == [1, -1, -1, -1]
    silent = parse_actions(f"{right}{W} hm. {L} no box")
    assert action_rewards(silent, "4", True) == [1, -1, -1] and outcome_reward(silent, "4", True) == -1
    assert action_rewards(parse_actions(""), "4", True) == [-1] and outcome_reward([], "4", True) == -1


def test_solves_and_checks_are_asked_for_by_name():
    right, wrong = r"\boxed{4} ", r"\boxed{5} "
    yes, no = "Therefore, the answer is correct. ", "Therefore, the answer is incorrect. "
    actions = parse_actions(f"{wrong}{W} {no}{L} {right}{W} {yes}{L} {wrong}")
    assert [a.text for a in solves(actions)] == [wrong, f"{L} {right}", f"{L} {wrong}"]
    assert [a.text for a in checks(actions)] == [f"{W} {no}", f"{W} {yes}"]
    assert judge_solves(actions, "4") == [False, True, False]
    assert judge_solves(actions, "5") == [True, False, True]
    assert solves([]) == checks([]) == judge_solves([], "4") == [] and checks(parse_actions(right)) == []
    # each verdict against the solution just before it, not against the last one: VA 1, ER 1, CP 1
    pairs = list(zip(judge_solves(actions, "4"), [parse_verdict(check.text) for check in checks(actions)]))
    assert pairs == [(False, "incorrect"), (True, "correct")]


def test_unfinished_counts_for_accuracy_but_not_for_reward():
    """Accuracy is the last solution's answer, finished or not; the reward of an unfinished response is -1."""
    actions = parse_actions(r"\boxed{4}")
    assert judge_solves(actions, "4")[-1] is True
    assert outcome_reward(actions, "4", False) == -1 and action_rewards(actions, "4", False) == [-1]
    assert outcome_reward(actions, "4", True) == 1 and action_rewards(actions, "4", True) == [1]


def test_adapters():
    texts = [r"\boxed{4}", rf"\boxed{{5}} {W} no. {L} \boxed{{4}}", "4"]
    assert reward_func(["p"] * 3, texts, answer=["4"] * 3, trainer_state=None) == [1.0, 1.0, -1.0]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    assert reward_func(["p"] * 3, chats, answer=["4", "5", "4"]) == [1.0, -1.0, -1.0]
    turns = [{"role": "assistant", "content": texts[0]}, {"role": "assistant", "content": texts[2]}]
    assert reward_func(["p"] * 2, [turns, turns[::-1]], answer=["4"] * 2) == [-1.0, 1.0]    # the last one
    end = {"prompts": ["p"] * 3, "completions": [texts[0]] * 3, "answer": ["4"] * 3}
    ids = [[7, 9], [7, 8, 9], [9]]
    assert reward_func(**end, completion_ids=ids) == [1.0] * 3              # which token stops is not known
    assert reward_func(**end, completion_ids=ids, eos_token_id=9) == [1.0] * 3
    ids = [[7, 9], [7, 8, 6], []]                                           # the last two were cut off
    assert reward_func(**end, completion_ids=ids, eos_token_id=9) == [1.0, -1.0, -1.0]
    assert functools.partial(reward_func, eos_token_id=[9, 6])(**end, completion_ids=ids) == [1.0, 1.0, -1.0]
    with pytest.raises(ValueError):
        reward_func(["p"] * 2, texts, answer=["4"] * 2)
    assert compute_score("math", texts[0], "4") == 1.0 and compute_score("math", texts[0], 5, {}) == -1.0


# --------------------------------------------------------------------------------------------- token map
def reference_owners(tokenizer, ids):
    """By decoding every prefix: the slow definition of action_ids."""
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    actions = parse_actions(text)
    owners, owner = [], 0
    for position, token in enumerate(ids):
        if token not in tokenizer.all_special_ids:
            prefix = tokenizer.decode(ids[:position], skip_special_tokens=True,
            clean_up_tokenization_spaces=False)
            offset = len(os.path.commonprefix([prefix, text]))
            owner = max(i for i, action in enumerate(actions) if action.start <= min(offset,
            max(len(text) - 1, 0)))
        owners.append(owner)
    stop = len(ids)
    while stop and ids[stop - 1] in tokenizer.all_special_ids:
        stop -= 1
    return owners[:stop] + [len(actions) - 1] * (len(ids) - stop)


@pytest.fixture(params=["tiny_qwen2", "tiny_llama"])
def tokenizer(request):
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(request.getfixturevalue(request.param))


TEXTS = [f"So \\boxed{{7}} 你好 é🙂\n\n{W}\n\nWe see Waiting — 🙂🙂\n\n{L}\n\n\\boxed{{8}} Lasst uns\n\n{W}\n\nok",
         f"7{W}no{L}8{W}Therefore, the answer is correct.", f"W L {W} {W} L {L} x", "no phrase, W and L",
         "🙂" * 5, "",
         f"é{W}é{L}é", f"{W} starts", f"5\t{W}\r\n{L}"]


def test_action_ids_against_prefix_decoding(tokenizer):
    rng = random.Random(0)
    stop, vocabulary = tokenizer.eos_token_id, len(tokenizer)
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for case in (ids, ids + [stop], ids + [stop] * 3, ids[:len(ids) // 2]):
            actions, owners = action_ids(tokenizer, case)
            assert owners == reference_owners(tokenizer, case) and len(owners) == len(case)
            assert actions == parse_actions(tokenizer.decode(
                case, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def test_action_ids_on_sampled_garbage(tokenizer):
    """Broken characters and special tokens anywhere: every action's first own token carries on its phrase."""
    rng, cuts = random.Random(0), 0

    def decode(ids):
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    for _ in range(60):
        ids = [rng.randrange(len(tokenizer)) for _ in range(12)]
        for phrase in (W, L, W):
            ids += tokenizer(phrase, add_special_tokens=False)["input_ids"]
            ids += [rng.randrange(len(tokenizer)) for _ in range(12)]
        actions, owners = action_ids(tokenizer, ids)
        assert len(owners) == len(ids) and owners == sorted(owners)
        cuts += len(actions) - 1
        for k in range(1, len(actions)):
            first, phrase = owners.index(k), (L, W)[k % 2]
            cut = [j for j in range(9) if decode(ids[first:]).startswith(phrase[j:])]
            assert cut and (cut[0] == 0 or decode(ids[first - 1:first]).strip() == phrase[:cut[0]])
    assert cuts > 100


def test_action_ids_by_hand(tokenizer):
    phrase = tokenizer(f"5\n{W}", add_special_tokens=False)["input_ids"]
    actions, owners = action_ids(tokenizer, phrase + [tokenizer.eos_token_id])
    assert [a.type for a in actions] == ["solve", "verify"]
    assert owners == sorted(owners) and owners[0] == 0 and owners[-2:] == [1, 1]
    assert action_ids(tokenizer, []) == ([Action("solve", "", 0, 0)], [])
    assert action_ids(tokenizer, [tokenizer.eos_token_id])[1] == [0]


def hand_made_tokenizer(pieces, decoder):
    """A tokenizer of these pieces, and their ids by name."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    vocab = {piece: i for i, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend), vocab


def test_straddling_token_belongs_to_its_first_character():
    from tokenizers import decoders, pre_tokenizers
    blank = "\u0120"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer, vocab = hand_made_tokenizer(
        alphabet + [f"5{blank}W", "ait,", f"{blank}let{blank}me", "WW"], decoders.ByteLevel())
    rest = [vocab["ait,"], vocab[f"{blank}let{blank}me"]]
    rest += [vocab[c.replace(" ", blank)] for c in W[len("Wait, let me"):]]
    for first in (f"5{blank}W", "WW"):                          # "5 W" and "WW" begin in the solution
        ids = [vocab["7"], vocab[blank], vocab[first], *rest]
        actions, owners = action_ids(tokenizer, ids)
        assert [a.text for a in actions] == ["7 " + first[:-1].replace(blank, " "), W]
        assert owners == [0, 0, 0] + [1] * len(rest)


def test_a_sentencepiece_blank_before_a_phrase_belongs_to_the_action_before():
    from tokenizers import decoders
    pieces = ["5", *("\u2581" + word for word in W.split()), "."]
    tokenizer, vocab = hand_made_tokenizer(pieces, decoders.Metaspace())
    for first, expected in ((["5"], [0, 0, 1, 1, 1, 1, 1]), (["5", "5"], [0, 0, 0, 1, 1, 1, 1, 1])):
        actions, owners = action_ids(tokenizer, [vocab[piece] for piece in first + pieces[1:-1]])
        assert [a.text for a in actions] == ["5" * len(first) + " ", W] and owners == expected


def test_broken_bytes_at_the_very_beginning(tiny_llama):
    """0xFF and W are no valid UTF-8: two replacement marks, so this W is not that of the phrase."""
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    phrase = tokenizer(f"5 {W}", add_special_tokens=False)["input_ids"]
    ids = tokenizer.convert_tokens_to_ids(["<0xFF>", "<0x57>"]) + phrase
    actions, owners = action_ids(tokenizer, ids)
    assert [a.text for a in actions] == ["\ufffd\ufffd 5 ", W] and owners == reference_owners(tokenizer, ids)
    assert owners[:3] == [0, 0, 0] and owners[-1] == 1


def calls_of(function):
    """How many functions, of Python or C, function() calls: work that does not depend on the machine."""
    calls = [0]

    def count(frame, event, arg):
        calls[0] += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls[0]


def test_action_ids_is_linear(tokenizer):
    ids = tokenizer((f"x = 1 and 你好 L W so \\boxed{{1}} {W} no {L} " * 400),
    add_special_tokens=False)["input_ids"]
    assert len(ids) >= 8000
    action_ids(tokenizer, ids[:100])
    work = [calls_of(lambda: action_ids(tokenizer, ids[:n])) for n in (len(ids) // 4, len(ids))]
    assert work[1] < 5 * work[0]                    # four times the tokens; quadratic would be 16 times


# ---------------------------------------------------------------------------------------------- bounds
HOSTILE = [
    "10^{10^{10}}", "10**10**10**10", "9!!!!!!!!!", "((9!)!)!", r"\binom{10^9}{5*10^8}",
    r"\binom{999999}{500000}",
    r"\frac{1}{" * 5000 + "1" + "}" * 5000, "(" * 5000 + "1" + ")" * 5000, "{" * 1400, "|" * 1400,
    "-" * 1400 + "1",
    "2^" * 700 + "2", "2^{" * 400 + "2" + "}" * 400, r"\sum_{k=1}^{10^9} k", r"\sum_{k=1}^{1000} k^{k}",
    r"\sum_{a=1}^{999}\sum_{b=1}^{999}\sum_{c=1}^{999} abc", r"\prod_{k=1}^{1000} k!",
    r"\int_0^\infty e^{-x^2} dx",
    "(x+y)^{5000}", "(x+y)^{500000000}", "((((x+1)^{99}+1)^{99}+1)^{99}+1)^{99}", "(x^{9999})^{9999}",
    "x^{x^{x^{x^x}}}",
    "1e999999999", "1e-999999999", "1E9999", "9" * 1400, "9" * 5000, "1/" * 700 + "3",
    r"\sqrt{" * 240 + "2" + "}" * 240,
    ",".join(map(str, range(370))), ",".join(map(str, range(9000))),
    r"\{" + ",".join(f"x_{i}" for i in range(240)) + r"\}",
    r"\begin{pmatrix}" + r"\\".join("&".join("1" * 20) for _ in range(30)) + r"\end{pmatrix}", "\x00" * 50,
    "\ud800",
    "𝟙𝟚" * 300, "__import__('os').system('touch pwned')", "().__class__.__bases__[0].__subclasses__()",
    r"\sin(10^{10^5})", "e^{e^{e^{e^e}}}", r"\exp(10^9)", "0^0", r"\frac{0}{0}", r"\infty-\infty",
    r"\log_1 5",
    r"\sqrt[0]{5}", r"\tan\frac{\pi}{2}", "(1/3)^{30000}", "100000!/99999!", "(3000!)^{5}", r"\pm 1" * 200,
    r"\cup".join(f"({i},{i}.5)" for i in range(120)), "x<" * 600 + "1", ":".join("1" * 700), "1" + "%" * 900,
    r"\boxed{1" * 20000, "1," * 90000, r"\frac{1}{2}" * 15000, "( " * 50000, "g" * 10**6, r"\text{" * 250,
    "x'" * 700,
    r"\sqrt1e3 cm", r"\frac1.", r"\sec^{-1}(0)", r"\sqrt[3]" * 400 + "2", "1 000" * 250, r"\angle A" * 150,
    ",".join(f"x+{i}" for i in range(200)), r"\cup".join(f"[{i},{i + 1})" for i in range(60)), "1\\frac{" * 150,
    r"\{x:" * 300, r"\not" * 300, "x_{" + "{" * 700,
    r"\frac" * 250, r"\begin{array}" * 100, "12_" * 450, "x_{" * 450, r"\sin" * 300 + " x", r"\sin(" * 200,
    "a+" * 700 + "b"]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts_are_answered_with_little_work(text, tmp_path, monkeypatch):
    """Work is counted in calls of Python functions: the clock of a busy machine says nothing."""
    monkeypatch.chdir(tmp_path)

    def answer():
        for other in (text + "+1", "1", "x+1", "(1,2)", "1,2,3", r"(-\infty,3)"):
            for a, b in ((text, other), (other, text)):
                assert is_equivalent(a, b) in (True, False)
            assert not (other == "1" and is_equivalent(text, "1")) or text[:2] in ("1%", "0^", "1/",
            "|") or len(text) < 90
        assert judge(text, "7") is False and judge("\\boxed{" + text, "7") is False
        parse_actions(text), parse_verdict(text), check_gold(text)

    assert calls_of(answer) < 20_000_000
    assert not list(tmp_path.iterdir())


def test_many_boxes_are_read_in_linear_time():
    assert extract_boxed(r"\boxed{" * 100_000) is None
    assert extract_boxed(r"\boxed{2}" + r"\boxed{{" * 50_000) == "2"
    work = [calls_of(lambda: extract_boxed(r"\boxed{2}" + r"\boxed{{" * n)) for n in (1000, 4000)]
    assert work[1] < 5 * work[0]


@pytest.mark.parametrize("a, b", [
    (",".join(f"x+{i}" for i in range(220)), ",".join(f"{i}+x" for i in range(219, -1, -1))),
    (",".join(map(str, range(370))), ",".join(map(str, range(369, -1, -1)))),
    (r"\cup".join(f"[{i},{i}.5]" for i in range(100)), r"\cup".join(f"[{i},{i}.5]" for i in range(99, -1, -1))),
    (r"x\in\mathbb{R}," + ",".join(f"x<{i}" for i in range(200)), "x<0")])
def test_long_lists_and_unions_cost_little(a, b):
    """Every pair of members may have to be compared: the work of one comparison is counted and bounded."""
    is_equivalent(a, "1"), is_equivalent(b, "1")                # the parsing is not what is measured
    assert calls_of(lambda: is_equivalent(a, b)) < 400_000


def test_lists_in_any_order():
    for count in (2, 5, 20, 40):
        answers = [f"\\frac{{{i}}}{{7}}" for i in range(count)]
        assert is_equivalent(", ".join(answers), ", ".join(reversed(answers)))
        assert not is_equivalent(", ".join(answers[1:] + ["99"]), ", ".join(answers))
    assert is_equivalent(r"\cup".join(f"[{i},{i}.5]" for i in range(30)),
                         r"\cup".join(f"[{i},{i}.5]" for i in range(29, -1, -1)))


def test_depth_is_bounded_wherever_it_is_called_from():
    for depth, expected in ((10, True), (25, True), (32, False), (60, False)):
        assert is_equivalent("(" * depth + "2" + ")" * depth + "+1", "3") is expected


def test_deep_stack():
    """Near the caller's recursion limit the answer is False, not an exception."""
    def down(n):
        return down(n - 1) if n else is_equivalent(r"\frac{(x+(1))}{2}", r"\frac{1+x}{2.0}")
    assert down(20) is True
    assert down(sys.getrecursionlimit() - 150) in (True, False)


# ---------------------------------------------------------------------------------- judge_many, imports
def test_judge_many():
    texts, golds = [r"\boxed{5}", r"\boxed{\frac12}", "5", "\\boxed{é\n}"] * 5, ["5", "0.5", "5", "é"] * 5
    assert judge_many(texts, golds) == [True, True, False, True] * 5
    assert judge_many([], []) == []
    with pytest.raises(ValueError):
        judge_many(["a"], [])


def test_import_is_light():
    """No torch, no transformers: a reward worker of another engine starts at once."""
    code = "import sys, verifier; print(*(name in sys.modules for name in ('torch', 'transformers', 'sympy')))"
    folder = os.path.dirname(verifier.__file__)
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=folder, text=True)
    assert printed.split() == ["False"] * 3


def test_loads_by_its_path_from_another_folder(tmp_path):
    """As verl does it: from any working directory, under another name, without its folder in sys.path."""
    code = """
import importlib.util, sys
sys.path[:] = [folder for folder in sys.path if folder not in ("", sys.argv[2])]
spec = importlib.util.spec_from_file_location("custom_module", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["custom_module"] = module
spec.loader.exec_module(module)
print(module.compute_score("math", "so \\\\boxed{1/2}", "0.5", {}), module.compute_score("math", "1/2", "0.5"))
"""
    path = os.path.abspath(verifier.__file__)
    printed = subprocess.check_output([sys.executable, "-c", code, path, os.path.dirname(path)], cwd=tmp_path,
                                      text=True, env={**os.environ, "PYTHONPATH": ""})
    assert printed.split() == ["1.0", "-1.0"]


def test_nothing_is_evaluated():
    for module in (verifier, equivalence):
        source = open(module.__file__, encoding="utf-8").read().replace("re.compile(", "")
        for word in ("eval(", "exec(", "compile(", "sympify", "parse_expr", "parse_latex", "signal",
                     "__import__"):
            assert word not in source, (module.__name__, word)


# ---------------------------------------------------------------------------------------- shared data
def rows_of(path):
    if not path.exists():
        pytest.skip(f"{path.name} is not beside this checkout")
    return [json.loads(line) for line in open(path, encoding="utf-8")]


def test_labelled_pairs(shared):
    rows = rows_of(shared / "verifier" / "equiv_dev.jsonl")
    wrong = [r for r in rows if is_equivalent(r["pred"], r["gold"]) != r["label"]]
    accepted = [r for r in wrong if not r["label"]]
    assert len(wrong) <= 0.015 * len(rows) and len(accepted) <= 0.003 * sum(not r["label"] for r in
    rows), wrong[:5]


def test_labelled_responses(shared):
    rows = rows_of(shared / "verifier" / "resp_dev.jsonl")
    wrong = [r["id"] for r in rows if judge(r["pred"], r["gold"]) != r["label"]]
    assert len(wrong) <= 0.01 * len(rows), wrong


def gold_of(name, row):
    if name.startswith("gsm8k"):
        return row["answer"].split("####")[-1].strip()
    if name == "minerva_math":
        return extract_boxed(row["solution"])
    answer = row.get("final_answer", row.get("answer"))
    return ", ".join(answer) if isinstance(answer, list) else str(answer)


@pytest.mark.parametrize("name", ["aime24", "amc23", "college_math", "gaokao2023en", "gsm8k_test", "math500",
                                  "minerva_math", "olympiadbench", pytest.param("gsm8k_train",
                                  marks=pytest.mark.slow)])
def test_gold_answers(shared, name):
    golds = [gold_of(name, row) for row in rows_of(shared / "data" / f"{name}.jsonl")]
    golds = [gold for gold in golds if gold]
    # two answers of gaokao2023en are empty in the file
    assert [gold for gold in golds if check_gold(gold) or not judge("\\boxed{" + gold + "}", gold)] == []
    some = golds[:400]
    same = [(a, b) for a, b in zip(some,
    some[1:]) if equivalence.clean(a) != equivalence.clean(b) and is_equivalent(a, b)]
    assert len(same) <= 2, same
    # $-2$ and {-2}, 5 and x=5 are neighbours by chance
