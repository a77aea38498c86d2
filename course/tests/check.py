"""What the assignments' tests are written with: compare, and say which mistake would give this number."""
import importlib
import itertools

import pytest

ANY = object()      # in an expected value: anything goes here


def student(file):
    """A module of the folder under test, imported when a test runs."""
    return importlib.import_module(file)


def fail(message):
    """The test fails with this message alone, without a traceback."""
    pytest.fail(message, pytrace=False)


def plain(x):
    """Tensors and arrays, also inside of lists, as plain Python values."""
    if hasattr(x, "detach"):
        x = x.detach()
    if hasattr(x, "tolist"):
        x = x.tolist()
    if isinstance(x, dict):
        return {key: plain(value) for key, value in x.items()}
    return type(x)(plain(value) for value in x) if type(x) in (list, tuple) else x


def close(a, b, tol):
    """Equal up to tol, element by element, as nested lists; a tuple is not a list; nan equals nothing."""
    if b is ANY:
        return True
    numbers = (int, float)
    if type(b) in numbers:
        return type(a) in numbers and (a == b or abs(a - b) <= tol * max(1, abs(b)))
    if type(a) is not type(b):
        return False
    if type(b) in (list, tuple):
        return len(a) == len(b) and all(close(x, y, tol) for x, y in zip(a, b))
    return a == b


def short(x, most=300):
    """A value as text, rounded, not too long."""
    def rounded(x):
        if type(x) in (list, tuple):
            return type(x)(map(rounded, x))
        return round(x, 4) if type(x) is float else x

    text = repr(rounded(plain(x)))
    return text if len(text) <= most else text[:most] + " ..."


def same(got, want, what, wrong=(), tol=1e-4):
    """Fail unless got is want. wrong: [(value, the mistake that gives it), ...], tried in this order."""
    mine, right = plain(got), plain(want)
    if close(mine, right, tol):
        return
    numbers = f"\n  {what}\n  yours:    {short(mine)}\n  expected: {short(right)}"
    for value, mistake in wrong:
        if close(mine, plain(value), tol):
            fail(mistake + numbers)
    fail("Not the expected value." + numbers)


def shape(x, want, what, dtype=None):
    """Fail unless x is a tensor of this shape (and dtype)."""
    if not hasattr(x, "shape"):
        fail(f"{what}: a tensor is wanted, this is a {type(x).__name__}: {short(x)}")
    if tuple(x.shape) != tuple(want):
        fail(f"{what}: shape {list(x.shape)}, expected {list(want)}")
    if dtype is not None and x.dtype != dtype:
        fail(f"{what}: dtype {x.dtype}, expected {dtype}")


def copies(function, files, call, want, tol=1e-4):
    """Every copy of a function gives what is wanted: call(function) for each of the files."""
    for file in files:
        module = student(file)
        if not hasattr(module, function):
            fail(f"{file}.py has no {function}")
        try:
            got = plain(call(getattr(module, function)))
        except NotImplementedError:
            fail(f"A copy was forgotten: {file}.{function} is still blank. Write it once, copy it to "
                 f"{', '.join(files)}.")
        if not close(got, plain(want), tol):
            fail(f"The copy {file}.{function} gives {short(got)}, expected {short(want)}. Was a copy "
                f"forgotten? "
                 f"The same function stands in {', '.join(files)}.")


def combinations(**options):
    """Every combination of options, as dictionaries."""
    return [dict(zip(options, values)) for values in itertools.product(*options.values())]
