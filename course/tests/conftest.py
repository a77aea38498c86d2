"""Lets the tests import the scripts of the folder that they lie in, and the marker of their points."""
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(next(p for p in HERE.parents if (p / "verifier.py").exists())))


def pytest_configure(config):
    config.addinivalue_line("markers", "assignment(number, points): the assignment of a test and its worth")
