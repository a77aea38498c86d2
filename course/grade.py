"""Grade a student's folder: public and hidden tests, each in a process of its own, points, results.json.

    python course/grade.py FOLDER                       the twelve graded assignments
    python course/grade.py FOLDER --assignments 2 6     those that you handed out

Writes FOLDER/results.json in Gradescope's format: score, and `tests` with name, score, max_score, output.
Nothing runs inside FOLDER. For every assignment a fresh folder is filled with the student's files that the
assignment names and, for all others, with the project's own, blank ones; tests come from this kit. runner.py
imports the tests, forks for each and alone reports; a test without a report of its own is worth 0.
What this does not protect from stands in course/README.md.
"""
import argparse
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from catalogue import ASSIGNMENTS, COURSE, GRADED, blank, places, sources

MOST_BYTES = 1_000_000      # of a student's file


def read_file(path):
    """The text of a student's file, or None with a reason: no links, no devices, nothing large."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            kind = os.fstat(file.fileno())
            if not stat.S_ISREG(kind.st_mode) or kind.st_size > MOST_BYTES:
                return None, "not a plain file of at most 1 MB"
            return file.read(MOST_BYTES).decode("utf-8"), None
    except UnicodeDecodeError:
        return None, "not UTF-8 text"
    except OSError as error:
        return None, f"cannot be read ({error.strerror})"


def hand_in(folder, number, reference):
    """-> ({file: text} of the files that an assignment names, [what is wrong with them])"""
    found, notes = {}, []
    for file in places(number, reference):
        text, reason = read_file(Path(folder) / file)
        if reason:
            notes.append(f"{file}: {reason}")
        else:
            found[file] = text
    return found, notes


def write_code(work, jobs):
    """Lay out base/ (all assignments blank) and a folder for each job. -> the jobs as runner.py wants them"""
    files = sources()
    empty, base, laid = blank(files, GRADED), work / "base", []
    for folder, texts in [(base, {})] + [(work / str(i), texts) for i, (_, texts) in enumerate(jobs)]:
        folder.mkdir()
        for file, text in {**empty, **texts}.items():
            (folder / file).write_text(text, encoding="utf-8", errors="replace")
    for i, (number, _) in enumerate(jobs):
        laid.append({"job": i, "number": number, "code": str(work / str(i)),
                     "files": [file.removesuffix(".py") for file in places(number, files)]})
    return laid


def start_runner(spec):
    """runner.py with a bare environment; it reads what to do from its standard input."""
    home = tempfile.gettempdir()
    env = {"PATH": "/usr/bin:/bin", "HOME": home, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1",
           "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-I", "-B", str(COURSE / "runner.py")]
    process = subprocess.Popen(command, env=env, cwd="/", text=True, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, start_new_session=True)
    process.stdin.write(json.dumps(spec))
    process.stdin.close()
    return process


def run(jobs, seconds=4.0, hidden=True):
    """[(assignment, {file: text})] -> for each job a list of {name, points, public, ok, message}.

    A runner that dies with tests undone is started again: once with the assignment that it died in, in case
    that was no fault of the hand-in, then behind it.
    """
    with tempfile.TemporaryDirectory(prefix="grade-") as work:
        os.chmod(work, 0o711)
        todo, done, tries = write_code(Path(work), jobs), {i: {} for i in range(len(jobs))}, Counter()
        while todo:
            spec = {"tests": str(COURSE / "tests"), "base": f"{work}/base", "work": work, "jobs": todo,
                    "seconds": seconds, "hidden": hidden}
            process, finished, expected = start_runner(spec), set(), None
            try:
                for line in process.stdout:
                    report = json.loads(line)
                    if "expected" in report:                        # the tests of every job, first of all
                        expected = report["expected"]
                        for job in todo:
                            done[job["job"]] = {t["name"]: t for t in expected[str(job["job"])]}
                    elif "finished" in report:
                        finished.add(report["finished"])
                    else:
                        done[report["job"]][report["name"]].update(ok=report["ok"], message=report["message"])
                process.wait()
            finally:
                kill_group(process)
            if expected is None:
                raise SystemExit("error: the grader's own tests could not be loaded (see above)")
            left = [job for job in todo if job["job"] not in finished]
            if left:
                tries[left[0]["job"]] += 1
            todo = left if left and tries[left[0]["job"]] < 2 else left[1:]
    return [list(done[i].values()) for i in range(len(jobs))]


def kill_group(process):
    """End the runner and what it left in its process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def report(number, tests, notes):
    """One assignment's tests -> entries of results.json."""
    entries = []
    for i, test in enumerate(tests, 1):
        kind = "public" if test["public"] else "hidden"
        output = "" if test["ok"] else "\n".join([*notes, test["message"]])[-4000:]
        entries.append({"name": f"{number}.{i} {ASSIGNMENTS[number].name}: {test['title']} ({kind})",
                        "score": test["points"] if test["ok"] else 0, "max_score": test["points"],
                        "output": output})
    return entries


def show(entries):
    """Points and failures of an assignment, for the terminal."""
    total, most = (sum(e[key] for e in entries) for key in ("score", "max_score"))
    head = entries[0]["name"].split(":")[0].split(" ", 1)[1]
    print(f"{entries[0]['name'].split('.')[0]:>3} {head:18} {total:3d} / {most}")
    for e in entries:
        if e["score"] < e["max_score"]:
            print(f"      {e['name'].split(': ', 1)[1]}: 0 / {e['max_score']}")
            print("".join(f"        {line}\n" for line in e["output"].split("\n") if line.strip()), end="")


def grade(folder, numbers, seconds=4.0, hidden=True):
    """-> what results.json holds."""
    reference, began = sources(), time.time()
    handed = {n: hand_in(folder, n, reference) for n in numbers}
    results = run([(n, handed[n][0]) for n in numbers], seconds, hidden)
    entries = []
    for n, tests in zip(numbers, results):
        mine = report(n, tests, handed[n][1])
        show(mine)
        entries += mine
    return {"score": sum(e["score"] for e in entries), "execution_time": round(time.time() - began, 1),
            "tests": entries}


def write_results(folder, results):
    """Put results.json in place at once; whatever lies there, a link too, is replaced and not followed."""
    part = Path(folder) / f".results-{os.getpid()}.json"
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1, ensure_ascii=False)
    os.replace(part, Path(folder) / "results.json")


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("folder", help="a student's folder, made by make.py and worked on")
    parser.add_argument("--assignments", type=int, nargs="+", choices=GRADED, metavar="N", default=GRADED,
                        help="1 to 12 (all); 13 and 14 are reports, marked by hand")
    parser.add_argument("--seconds", type=float, default=4.0,
                        help="processor time of a test (4); twice that for an assignment's tests "
                             "together, so that hanging hand-ins end too")
    parser.add_argument("--public", action="store_true", help="without the hidden tests")
    args = parser.parse_args()
    if not Path(args.folder).is_dir():
        print(f"error: {args.folder}: no such folder", file=sys.stderr)
        raise SystemExit(2)
    results = grade(args.folder, sorted(set(args.assignments)), args.seconds, not args.public)
    try:
        write_results(args.folder, results)
    except OSError as error:
        print(f"error: {args.folder}/results.json cannot be written: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None
    most = sum(e["max_score"] for e in results["tests"])
    print(f"    total              {results['score']:3d} / {most}   ({results['execution_time']} s), "
          "see results.json")


if __name__ == "__main__":
    main()
