"""The house rules: one flat folder, one file per stage, copies that cannot drift, files a reader can hold."""
import ast
import difflib
import doctest
import importlib
import re
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
FILES = sorted(path.stem for path in REPO.glob("*.py"))
STAGES = ("sample", "sft", "rl_outcome", "rl_process", "evaluate", "toy")
LIBRARIES = {"torch", "transformers", "tokenizers", "datasets", "tqdm", "sympy", "mpmath", "numpy", "matplotlib"}
ALLOWED = {"equivalence": set(), "verifier": {"equivalence"}, "model": {"verifier"}}     # who imports what of ours
# Lower a number when a file shrinks, never raise it.
MOST = {"model": 495, "verifier": 260, "equivalence": 1100, "sample": 368, "sft": 429, "rl_outcome": 505,
        "rl_process": 595, "evaluate": 440, "toy": 240}
READING_PATH, MOST_CHANGED, MOST_FUNCTION_LINES, MOST_COLUMNS = 2632, 186, 60, 110
TOP_LEVEL = {"README.md", "EXPERIMENTS.md", "LICENSE", "pytest.ini", "run.sh", "test.sh", "requirements.txt",
             "requirements-dev.txt", "toy_results.png", *(f"{name}.py" for name in MOST)}
SECTION = re.compile(r"^# -{64} (.+)$", re.M)
CLOCKS = ("perf_counter", "process_time", "monotonic", "time.time")
MARK = re.compile(r"^# Same in (.+)$")


def source(name):
    return (REPO / f"{name}.py").read_text()


def definitions(name):
    """Top-level functions and classes of a file: name -> syntax tree."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name: node for node in ast.parse(source(name)).body if isinstance(node, kinds)}


def sections(name):
    """Title -> text of every section of a file."""
    parts = SECTION.split(source(name))
    return dict(zip(parts[1::2], parts[2::2]))


def marks(name):
    """(function, the other files) of every `# Same in FILE, FILE`."""
    lines = source(name).splitlines()
    for number, line in enumerate(lines):
        if match := MARK.match(line):
            rest = next(x for x in lines[number + 1:] if not x.startswith("@"))
            yield re.match(r"(?:def|class) (\w+)", rest).group(1), match.group(1).split(", ")


def changed():
    """The lines in which the two RL files differ, as difflib sees them."""
    lines = [source(name).splitlines() for name in ("rl_outcome", "rl_process")]
    return [line for line in difflib.ndiff(*lines) if line[:2] in ("+ ", "- ")]


def test_the_files_of_the_design_are_there_and_no_others():
    names = {path.name for path in REPO.iterdir() if path.is_file() and not path.name.startswith(".")}
    assert set(MOST) == set(FILES) and names <= TOP_LEVEL, names - TOP_LEVEL


def test_equal_sections_are_equal():
    """What rl_outcome.py and rl_process.py mark with (=) is the same text in both."""
    mine, other = sections("rl_outcome"), sections("rl_process")
    equal = [title for title in mine if title.endswith("(=)")]
    assert [title for title in other if title.endswith("(=)")] == equal and len(equal) >= 5
    for title in equal:
        assert mine[title] == other[title], title


@pytest.mark.parametrize("name", FILES)
def test_marked_copies_are_the_same(name):
    for function, others in marks(name):
        for other in others:
            here, there = (ast.unparse(definitions(file)[function]) for file in (name, other))
            assert here == there, f"{function} differs in {name}.py and {other}.py"


def test_a_name_means_the_same_in_every_stage():
    """Functions of one name have one body, or stand where the paper makes the two RL files different."""
    different = {"parse_args", "main", "train", "update", "loss_of", "set_advantages", "score", "evaluate"}
    seen = {}
    for name in STAGES:
        for function, node in definitions(name).items():
            if function not in different:
                first, body = seen.setdefault(function, (name, ast.unparse(node)))
                assert body == ast.unparse(node), f"{function} is one thing in {first}.py, another in {name}.py"


@pytest.mark.parametrize("name", FILES)
def test_imports(name):
    """A stage imports model, verifier and the listed libraries, never another stage."""
    allowed = ALLOWED.get(name, {"model", "verifier"})
    for node in ast.walk(ast.parse(source(name))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}.py:{node.lineno}: relative import"
            names = [node.module]
        for module in {n.split(".")[0] for n in names}:
            fine = module in allowed | LIBRARIES or module in sys.stdlib_module_names
            assert fine, f"{name}.py:{node.lineno}: imports {module}"
    assert "import model\n" not in source(name), f"{name}.py: it is `import model as models` everywhere"
    if name in ("verifier", "equivalence"):
        assert not re.search(r"^\s*(import|from) (torch|transformers|numpy)\b", source(name), re.M)


def test_requirements_are_what_is_imported():
    wanted = {re.split(r"[=<>]", line)[0] for line in (REPO / "requirements.txt").read_text().split()}
    imported = {a.name.split(".")[0] for name in FILES for node in ast.walk(ast.parse(source(name)))
                for a in (node.names if isinstance(node, ast.Import) else [])}
    imported |= {node.module.split(".")[0] for name in FILES for node in ast.walk(ast.parse(source(name)))
                 if isinstance(node, ast.ImportFrom)}
    # tokenizers comes with transformers, mpmath with sympy; matplotlib is an extra
    assert wanted - {"sympy"} <= imported and imported & LIBRARIES - {"tokenizers", "mpmath", "matplotlib"} <= wanted
    assert imported & {"sympy", "mpmath"}


@pytest.mark.parametrize("name", FILES)
def test_nothing_runs_code_from_a_string(name):
    for node in ast.walk(ast.parse(source(name))):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", None)
            method = getattr(node.func, "attr", None)
            bad = called in ("eval", "exec", "compile", "sympify", "parse_expr", "__import__")
            bad = bad or method in ("sympify", "parse_expr", "parse_latex", "S")
            assert not bad, f"{name}.py:{node.lineno}: {called or method}"


@pytest.mark.parametrize("name", FILES)
def test_size_and_docstrings(name):
    text, tree = source(name), ast.parse(source(name))
    lines = text.splitlines()
    assert ast.get_docstring(tree) and len(ast.get_docstring(tree)) > 200, f"{name}.py opens with a docstring"
    if name in STAGES:
        assert f"python {name}.py" in ast.get_docstring(tree), f"{name}.py: the docstring shows how to run it"
        assert "Map" in ast.get_docstring(tree), f"{name}.py: the docstring has a map of the file"
    assert len(lines) <= MOST[name], f"{name}.py has {len(lines)} lines"
    for number, line in enumerate(lines, 1):
        assert len(line) <= MOST_COLUMNS and line == line.rstrip() and "\t" not in line, f"{name}.py:{number}"
    assert sum(len(line) > 100 for line in lines) < len(lines) / 4, f"{name}.py: most lines stay under 100 columns"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= MOST_FUNCTION_LINES, f"{name}.py:{node.lineno}: {node.name} has {length} lines"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name}.py:{node.lineno}: bare except"


def test_the_method_is_read_in_an_evening():
    assert len(changed()) <= MOST_CHANGED, f"{len(changed())} lines differ between the RL files"
    files = ("model", "verifier", "sample", "sft", "rl_outcome", "evaluate")
    path = sum(len(source(name).splitlines()) for name in files) + sum(line[0] == "+" for line in changed())
    assert path <= READING_PATH, f"the reading path has {path} lines"
    assert len((REPO / "README.md").read_text().splitlines()) <= 260


@pytest.mark.parametrize("name", STAGES)
def test_flags_are_read(name):
    """No dead flags: every --flag is used somewhere else in its file as args.flag."""
    text = source(name)
    for flag in re.findall(r"""\(["']--([a-z][a-z-]*)["']""", text):
        attribute = flag.replace("-", "_")
        used = text + source("model") if flag in ("lr", "warmup", "schedule", "save-every", "resume", "force") else text
        assert re.search(rf"args\.{attribute}\b|[\"']{attribute}[\"']", used), f"{name}.py: --{flag} is never read"


@pytest.mark.parametrize("name", FILES)
def test_worked_examples(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


def test_no_assertion_on_time():
    for path in (REPO / "tests").glob("test_*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            clock = line.lstrip().startswith("assert") and any(name in line for name in CLOCKS)
            assert not clock, f"{path.name}:{number}"


def test_nothing_of_one_machine_is_in_the_project():
    for path in [*REPO.glob("*.py"), *REPO.glob("*.sh"), *REPO.glob("*.md"), *REPO.glob("tests/**/*.py"),
                 *REPO.glob("course/**/*.*"), *REPO.glob("recipes/**/*.*"), *REPO.glob("toy_base/*.py")]:
        if path.is_file() and path.suffix != ".pyc":
            assert not re.search(r"/(work|home|root|Users)/\w", path.read_text()), path.name
