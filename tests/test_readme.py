"""README's promises about the code: every anchor points at the line it names, every name exists, files are there.

`python tests/test_readme.py` puts the line numbers right after an edit.
"""
import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
ANCHOR = re.compile(r"\[`(?P<name>[\w.]+)`\]\((?P<file>\w+\.py)#L(?P<line>\d+)\)")
DOCUMENTS = ("README.md", "EXPERIMENTS.md")


def places(file):
    """Name -> first and last line of every function and class of a file, methods as Class.method."""
    found = {}
    for node in ast.parse((REPO / file).read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node.lineno, node.end_lineno
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef):
                    found[f"{node.name}.{inner.name}"] = inner.lineno, inner.end_lineno
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_anchors_point_where_they_say(document):
    for match in ANCHOR.finditer((REPO / document).read_text()):
        line, _ = places(match["file"])[match["name"]]
        assert line == int(match["line"]), f"{match[0]}: line {line}; python tests/test_readme.py puts it right"


def test_the_reading_route_is_as_long_as_it_says():
    text = (REPO / "README.md").read_text()
    route = text[text.index("## A reading route"):text.index("## What you should see")]
    lines = 0
    for match in ANCHOR.finditer(route):
        first, last = places(match["file"])[match["name"]]
        lines += last - first + 1
    assert 600 < lines < 1000, f"the route has {lines} lines"


def test_names_in_code_style_exist():
    """Every `file.function` in README is a function of that file, every `--flag` a flag of some script."""
    text = (REPO / "README.md").read_text()
    for file, name in re.findall(r"`(\w+)\.(\w+)(?:\(|`)", text):
        if (REPO / f"{file}.py").exists() and name not in ("py", "sh"):
            assert name in places(f"{file}.py"), f"{file}.{name}"
    scripts = "".join(p.read_text() for p in [*REPO.glob("*.py"), *REPO.glob("*.sh"), *REPO.glob("recipes/**/*.sh"),
                                              *REPO.glob("recipes/**/*.py"), *REPO.glob("course/*.py")])
    others = {"--generation-config", "--multi", "--num"}                # vLLM's and accelerate's
    for flag in set(re.findall(r"`[^`\n]*?(--[a-z][a-z-]+)", text)) - others:
        assert f'"{flag}"' in scripts or f" {flag}" in scripts or f"{flag})" in scripts, flag


def test_files_that_readme_links_are_there():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (REPO / document).read_text()):
            assert (REPO / target).exists(), f"{document}: {target}"


def test_tests_that_readme_names_are_there():
    tests = "".join(path.read_text() for path in REPO.glob("tests/test_*.py"))
    for name in re.findall(r"`(?:test_\w+\.py::)?(test_\w+)\*?`", (REPO / "README.md").read_text()):
        assert f"def {name}" in tests, name


if __name__ == "__main__":
    for document in DOCUMENTS:
        path = REPO / document
        fixed = ANCHOR.sub(lambda m: f"[`{m['name']}`]({m['file']}#L{places(m['file'])[m['name']][0]})",
                           path.read_text())
        path.write_text(fixed)
