"""Which functions make up which assignment: all that make.py and grade.py know about the course.

Functions are found by name in every file of the project that defines them, so a copy in another stage is
part of the same assignment, and moving a function needs no change here. A class stands for all its methods.
"""
import ast
import functools
from dataclasses import dataclass, field
from pathlib import Path

COURSE = Path(__file__).resolve().parent
ROOT = COURSE.parent


@dataclass
class Assignment:
    name: str                                           # of the handout: NN-name.md
    functions: list = field(default_factory=list)       # "home_file.function"; copies are found by name
    stand_ins: dict = field(default_factory=dict)       # function -> body, where another one shows the idea


NAIVE_KL = """\
logp = (hidden.float() @ weight.float().T).log_softmax(1)
base_logp = (base_hidden.float() @ base_weight.float().T).log_softmax(1)
return (logp.exp() * (logp - base_logp)).sum()
"""

ASSIGNMENTS = {
    1: Assignment("actions", ["verifier.parse_actions", "verifier.parse_verdict"]),
    2: Assignment("imitation-mask", ["sft.trained_actions"]),
    3: Assignment("logprobs", ["sft.token_logprobs"], {"sum_kl": NAIVE_KL}),
    4: Assignment("full-kl", ["sft.sum_kl"]),
    5: Assignment("sampling", ["rl_outcome.choose"]),
    6: Assignment("baseline", ["rl_outcome.leave_one_out", "rl_outcome.advantage"]),
    7: Assignment("clipped-loss", ["rl_outcome.clipped_loss"]),
    8: Assignment("rollout", ["rl_outcome.rollout"]),
    9: Assignment("reward-contexts", ["rl_process.reward_contexts", "rl_process.ContextBaseline"]),
    10: Assignment("who-weighs-what", ["rl_process.per_action", "rl_process.action_weights"]),
    11: Assignment("error-bars", ["evaluate.pass_at_k", "evaluate.wilson"]),
    12: Assignment("rewards", ["verifier.action_rewards", "verifier.outcome_reward"]),
    13: Assignment("hack-and-cure"),                    # no blanks: a report, marked by the teacher
    14: Assignment("your-own-method"),
}
# which assignments a command runs through: where one of them is blank, it stops there
NEEDS = {"curve.py rl_outcome": [1, 3, 5, 6, 7, 8, 12], "curve.py rl_process": [1, 3, 5, 6, 7, 8, 9, 10, 12],
         "curve.py sft": [2, 3, 4], "run.sh": list(range(1, 13))}
GRADED = [n for n, a in ASSIGNMENTS.items() if a.functions]


def sources(folder=ROOT):
    """{file name: text} of the project's own scripts."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).glob("*.py"))}


@functools.lru_cache(maxsize=256)
def definitions(text):
    """Top-level functions and classes of a source text: name -> syntax tree."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name: node for node in ast.parse(text).body if isinstance(node, kinds)}


def places(number, files):
    """{file name: [functions]} of an assignment, copies included. A missing function is an error."""
    wanted, found = ASSIGNMENTS[number].functions, {}
    for file, text in files.items():
        names = [name for name in definitions(text) if name in {f.split(".")[1] for f in wanted}]
        if names:
            found[file] = names
    for function in wanted:
        file, name = function.split(".")
        if name not in found.get(f"{file}.py", []):
            raise SystemExit(f"error: assignment {number}: {file}.py has no {name}; see course/catalogue.py")
    return found


def replace_body(text, name, body):
    """The source text with `body` in the place of a function's; signature, decorators, docstring stay.

    Of a class every method is replaced.
    """
    node = definitions(text)[name]
    functions = [node] if isinstance(node, ast.FunctionDef) else [
        method for method in node.body if isinstance(method, ast.FunctionDef)]
    lines = text.split("\n")
    for f in reversed(functions):
        inner = " " * (f.col_offset + 4)
        new = [inner + line for line in body.rstrip().split("\n")]
        if ast.get_docstring(f, clean=False) is not None:
            start = f.body[0].end_lineno
        elif f.body[0].lineno > f.lineno and not lines[f.body[0].lineno - 1][:f.body[0].col_offset].strip():
            start = f.body[0].lineno - 1
            while lines[start - 1].strip().startswith("#"):         # a comment may say what the body does
                start -= 1
        else:                                                       # def f(x): return x
            start = f.body[0].lineno
            cut = len(lines[start - 1].encode()[:f.body[0].col_offset].decode())
            lines[start - 1] = lines[start - 1][:cut].rstrip()
        lines[start:f.end_lineno] = new
    return "\n".join(lines)


def blank(files, numbers):
    """{file name: text} with the functions of these assignments to be written again, in every copy."""
    files = dict(files)
    for number in numbers:
        for file, names in places(number, files).items():
            for name in names:
                message = f'raise NotImplementedError("assignment {number}: write {name}")'
                files[file] = replace_body(files[file], name, message)
        for name, body in ASSIGNMENTS[number].stand_ins.items():
            for file, text in files.items():
                node = definitions(text).get(name)
                if node and "NotImplementedError" not in ast.unparse(node):
                    files[file] = replace_body(text, name, body)
    return files
