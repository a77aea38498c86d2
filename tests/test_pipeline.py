"""run.sh --fast from end to end, as a user runs it: what it leaves behind, a second run, a kill amid RL.

The run takes place in a copy of the scripts. Its .venv/bin/python is a two-line script that calls the Python
of these tests, without pip: whatever run.sh sets up is there already, and a test must not install anything.
"""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

RUN, RESULTS = "runs/fast0", "results/fast0"
MODELS = {"base": "base", "BI": "bi", "ORL": "orl", "PRL": "prl"}      # name in the report: name of the files
STEPS = 4
LIMIT = 900                                                           # seconds: against a hang, not a speed


def copy_scripts(repo, folder):
    """The files that run.sh needs, with a .venv that is the running Python."""
    for pattern in ("*.py", "*.sh", "requirements*.txt"):
        for path in repo.glob(pattern):
            shutil.copy(path, folder / path.name)
    shutil.copytree(repo / "toy_base", folder / "toy_base")
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\n[ "$1 $2" = "-m pip" ] || exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    # Checkpoints in the middle of the RL runs. It changes nothing that they compute.
    text = (folder / "run.sh").read_text()
    text, places = re.subn(r"\$python rl_\w+\.py", r"\g<0> --save-every 1", text)
    assert places == 2, "run.sh: the two RL commands are not where this test looks for them"
    (folder / "run.sh").write_text(text)


def start(folder, log):
    """`bash run.sh --fast` in a process group of its own, so that a kill takes the stages along."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
    return subprocess.Popen(["bash", "run.sh", "--fast"], cwd=folder, env=env, stdin=subprocess.DEVNULL,
                            stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def finish(folder):
    """Run to the end -> what it printed."""
    with open(folder / "log", "w+") as log:
        process = start(folder, log)
        try:
            process.wait(LIMIT)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        log.seek(0)
        text = log.read()
    assert process.returncode == 0, text[-3000:]
    assert "Traceback" not in text and "error:" not in text
    return text


def metrics(folder, name):
    """metrics.jsonl without what depends on the clock or on the machine's memory."""
    path = folder / RUN / name / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if "seconds" not in k and "per_s" not in k and k != "peak_gb"}
            for row in rows]


def outputs(folder):
    """{file: its content} of all that the run has written, but for its terminal output."""
    files = [path for top in ("runs", "results") for path in (folder / top).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.suffix != ".log"}


@pytest.fixture(scope="module")
def finished(repo, tmp_path_factory):
    """(folder, printed text) of a whole run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("pipeline")
    copy_scripts(repo, folder)
    return folder, finish(folder)


def test_every_stage_leaves_its_output(finished):
    folder, text = finished
    run = folder / RUN
    rows = {path: [json.loads(line) for line in (run / path).read_text().splitlines()] for path in
            ("toy/train.jsonl", "toy/val.jsonl", "toy/test.jsonl", "base-train.jsonl", "checks.jsonl", "trajectories.jsonl",
             *(f"test-{name}.jsonl" for name in MODELS.values()))}
    assert [len(rows[path]) for path in ("toy/train.jsonl", "toy/val.jsonl", "toy/test.jsonl")] == [300, 40, 100]
    assert all(len(r["responses"]) == 5 for r in rows["base-train.jsonl"])
    assert len(rows["base-train.jsonl"]) == 300
    trajectories = rows["trajectories.jsonl"]
    assert trajectories and all(r["actions"][0]["type"] == "solve" for r in trajectories)
    for name in MODELS.values():
        assert [r["id"] for r in rows[f"test-{name}.jsonl"]] == [r["id"] for r in rows["toy/test.jsonl"]]
    for name in ("bi", "orl", "prl"):
        files = {path.name for path in (run / name / "last").iterdir()}
        assert {"config.json", "model.safetensors", "trainer.pt"} <= files
    for name in ("orl", "prl"):
        assert [row["step"] for row in metrics(folder, name)] == list(range(STEPS + 1))
    weights = [(run / name / "last" / "model.safetensors").read_bytes() for name in ("bi", "orl", "prl")]
    assert len(set(weights)) == 3
    assert f"== Done: open {RESULTS}/report.html" in text
    for name in MODELS.values():            # one whole trajectory of each model is shown
        assert f"--- {RUN}/test-{name}.jsonl" in text


def test_the_report_compares_the_four_models(finished):
    folder, _ = finished
    report = json.loads((folder / RESULTS / "report.json").read_text())
    assert set(report["models"]) == set(MODELS) and report["problems"] == 100 and report["against"] == "BI"
    for name, file in MODELS.items():
        accuracy = report["models"][name]["final_accuracy"]
        assert accuracy["denominator"] == 100 and accuracy["low"] <= accuracy["value"] <= accuracy["high"]
        assert report["files"][name] == f"{RUN}/test-{file}.jsonl"
    assert set(report["differences"]) == set(MODELS) - {"BI"}
    page, table = ((folder / RESULTS / f"report.{end}").read_text() for end in ("html", "md"))
    assert all(name in table and name in page for name in MODELS) and page.lower().startswith("<!doctype html>")
    assert page.count("<table") >= 3 and page.count("<table") == page.count("</table>")


def test_a_second_run_does_nothing_again(finished):
    """Same content everywhere, and what took the time, weights and trajectories, is not even rewritten."""
    folder, _ = finished
    kept = [*folder.glob(f"{RUN}/**/model.safetensors"), folder / RUN / "trajectories.jsonl"]
    before, times = outputs(folder), [path.stat().st_mtime_ns for path in kept]
    finish(folder)
    after = outputs(folder)
    assert sorted(before) == sorted(after)
    assert [path for path in before if before[path] != after[path]] == []
    assert len(kept) >= 5 and [path.stat().st_mtime_ns for path in kept] == times


def test_a_run_killed_in_the_middle_of_rl_ends_as_if_it_had_not_been(finished, tmp_path):
    whole, folder = finished[0], tmp_path / "killed"
    shutil.copytree(whole, folder)
    for path in (RUN + "/orl", RUN + "/prl", "results"):
        shutil.rmtree(folder / path)
    for name in ("orl", "prl"):
        for path in folder.glob(f"{RUN}/test-{name}.jsonl*"):
            path.unlink()
    with open(tmp_path / "log", "w") as log:
        process = start(folder, log)
        try:
            for _ in range(50 * LIMIT):
                if (folder / RUN / "prl/last/trainer.pt").exists():            # written after every step
                    break
                assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, signal.SIGKILL)                          # power cut: bash and both RL runs
            process.wait()
    assert 2 <= len(metrics(folder, "prl")) < STEPS + 1, "the kill came too late to show anything"
    assert not (folder / RESULTS).exists()
    finish(folder)
    for name in ("orl", "prl"):
        assert metrics(folder, name) == metrics(whole, name)
        for path in (f"test-{name}.jsonl", f"{name}/last/model.safetensors", f"{name}/samples.txt"):
            assert (folder / RUN / path).read_bytes() == (whole / RUN / path).read_bytes(), path
    assert (folder / RESULTS / "report.json").read_bytes() == (whole / RESULTS / "report.json").read_bytes()
