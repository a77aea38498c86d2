"""The grader's process that runs tests: started by grade.py, it never runs a student's code itself.

Reads one JSON object from standard input, writes one JSON line a test. It imports torch, transformers and the
kit's tests once; then, for every test, it forks. The child gives up rights (another user where it is root,
limits of memory, processor time, files and processes), imports the student's file and calls the test. Its
report must carry a random token of this test; printing, exiting or crashing reports nothing, and that is 0.
"""
import ctypes
import importlib.util
import json
import os
import resource
import secrets
import select
import signal
import sys
import time
import traceback
from pathlib import Path

NOBODY = 65534
MEMORY = 3 << 30            # bytes of address space on top of what the imported libraries take
MOST_TEXT = 3500            # characters of a message


def load_tests(folder, number, hidden):
    """The tests of an assignment in the order of its files: name, title, points, public, function."""
    found = []
    for kind in ("test", "hidden") if hidden else ("test",):
        name = f"{kind}_{number:02d}"
        spec = importlib.util.spec_from_file_location(name, f"{folder}/{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for function in list(vars(module).values()):
            marks = [m for m in getattr(function, "pytestmark", ()) if m.name == "assignment"]
            if marks:
                assert marks[0].args == (number,
                    ), f"{name}.{function.__name__} is marked for another assignment"
                found.append({"name": f"{name}.{function.__name__}", "points": marks[0].kwargs["points"],
                              "title": function.__doc__.strip().splitlines()[0].rstrip("."),
                              "public": kind == "test", "function": function})
        assert found and found[-1]["name"].startswith(name), f"{name}.py holds no test"
    return found


def can_be_nobody(work):
    """Root only: can an ordinary user read what Python and the tests need? Asked in a child."""
    if os.getuid() != 0:
        return False
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            for path in (json.__file__, sys.modules["torch"].__file__, f"{work}/base/model.py"):
                open(path, "rb").close()
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def processes_of_user():
    """Processes and threads of this user now, or None where /proc does not tell."""
    try:
        mine = [p for p in Path("/proc").iterdir() if p.name.isdigit() and p.stat().st_uid == os.getuid()]
        return sum(len(os.listdir(p / "task")) for p in mine)
    except OSError:
        return None


def give_up_rights(seconds, as_nobody, processes, scratch):
    """Limits for this process and its children; another user and no network where that is possible."""
    if as_nobody:
        os.chown(scratch, NOBODY, NOBODY)
        try:
            os.unshare(os.CLONE_NEWNET)                 # Python 3.12; a container may forbid it
        except (AttributeError, OSError):
            pass
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    limits = {"RLIMIT_CPU": int(seconds) + 1, "RLIMIT_FSIZE": 4 << 20, "RLIMIT_CORE": 0, "RLIMIT_NOFILE": 256}
    if processes is not None or as_nobody:
        limits["RLIMIT_NPROC"] = (processes or 0) + 32
    if Path("/proc/self/statm").exists():
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits["RLIMIT_AS"] = pages * resource.getpagesize() + MEMORY
    for name, value in limits.items():
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (AttributeError, ValueError, OSError):
            pass                                        # not on this system


def verdict_of(test, check):
    """Call a test: (passed, message). Also see that comparisons still fail where they must."""
    try:
        test["function"]()
    except check.pytest.fail.Exception as failure:
        return False, str(failure)
    except BaseException as error:                      # student code may raise anything, SystemExit too
        frames = [f for f in traceback.extract_tb(error.__traceback__)
                  if Path(f.filename).parent == Path(sys.path[0])]
        place = ""
        if frames:
            place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name})"
        return False, f"{type(error).__name__}: {str(error)[:300]}{place}"
    try:
        check.same(1, 2, "canary")
    except check.pytest.fail.Exception:
        return True, ""
    return False, "The tests' own functions were tampered with."


def be_child(job, test, pipe, token, spec, scratch):
    """Never returns: limits, clean module table, the test, the report."""
    give_up_rights(spec["seconds"], spec["as_nobody"], spec["processes"], scratch)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.closerange(3, pipe)
    os.closerange(pipe + 1, 256)
    os.chdir(scratch)
    check = sys.modules.pop("check")
    for name in [*job["files"], "pytest", "_pytest", "__main__", *(["model"] if "verifier" in job["files"]
        else [])]:
        sys.modules.pop(name, None)
    sys.path.insert(0, job["code"])
    ok, message = verdict_of(test, check)
    line = json.dumps({"token": token, "name": test["name"], "ok": ok, "message": message[:MOST_TEXT]})
    os.write(pipe, line.encode("utf-8", "replace") + b"\n")
    os._exit(0)


def end_leftovers(pid):
    """Kill the test's process group, then whatever it orphaned, which this process inherits."""
    deadline = time.time() + 2
    while time.time() < deadline:
        try:
            os.killpg(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        try:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        except OSError:
            children = []
        for child in children:
            try:
                os.kill(int(child), signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)
        except ChildProcessError:
            return


def asleep(pid):
    """Is the process waiting for something, rather than for its turn on a busy machine?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "R"
    except OSError:
        return True


def run_test(job, test, spec, seconds):
    """Fork, wait, read the report. -> (passed, message, seconds used)

    The limit is one of processor time, so that a busy grader is not unfair; a process that sleeps is ended
    when that much time has passed on the clock.
    """
    scratch = Path(spec["work"]) / "scratch"
    scratch.mkdir(exist_ok=True)
    token, (read, write), began = secrets.token_hex(16), os.pipe(), time.time()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            be_child(job, test, write, token, {**spec, "seconds": seconds}, str(scratch))
        finally:
            os._exit(1)
    os.close(write)
    os.set_blocking(read, False)
    data, status, used, naps = b"", None, 0, 0
    while status is None and naps < 20 and time.time() - began < 20 * seconds:
        if select.select([read], [], [], 0.01)[0]:
            data += os.read(read, 65536)[:65536 - len(data)]
        pid_now, code, usage = os.wait4(pid, os.WNOHANG)
        if pid_now:
            status, used = code, usage.ru_utime + usage.ru_stime
        naps = naps + 1 if time.time() - began > seconds and asleep(pid) else 0
        time.sleep(0.01 if naps else 0)
    try:
        data += os.read(read, 65536)
    except BlockingIOError:
        pass
    os.close(read)
    end_leftovers(pid)
    ok, message = read_report(data, token, test["name"], status, seconds)
    return ok, message, used if status is not None else time.time() - began


def read_report(data, token, name, status, seconds):
    """The child's report if it is one, else why there is none."""
    try:
        report = json.loads(data)
        if report["token"] == token and report["name"] == name:
            return report["ok"] is True, str(report["message"])
    except (ValueError, KeyError, TypeError):
        pass
    if status is None:
        return False, f"No result within {seconds:.0f} seconds: an endless loop?"
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return False, f"No result within {seconds:.0f} seconds of processor time: an endless loop?"
    if os.WIFSIGNALED(status):
        return False, f"The process was killed by signal {os.WTERMSIG(status)} (a crash)."
    return False, "The process ended before the test did (a call of exit?)."


def main():
    spec = json.loads(sys.stdin.read())
    out, sys.path[:] = sys.stdout, [spec["base"], spec["tests"], *sys.path]
    try:
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)         # PR_SET_CHILD_SUBREAPER: orphans come here
    except (OSError, AttributeError):
        pass
    import torch
    import transformers
    torch.set_num_threads(1)
    transformers.LlamaForCausalLM, transformers.LlamaConfig, transformers.DynamicCache      # loaded lazily
    importlib.import_module("model")        # and with it verifier: blank, for tests that do not grade it
    numbers = {job["number"] for job in spec["jobs"]}
    tests = {n: load_tests(spec["tests"], n, spec["hidden"]) for n in numbers}
    sys.path[:] = sys.path[2:]
    spec["as_nobody"] = can_be_nobody(spec["work"])
    spec["processes"] = None if spec["as_nobody"] else processes_of_user()
    expected = {job["job"]: [{**{k: v for k, v in t.items() if k != "function"}, "ok": False,
                              "message": "The test was not run: its process was ended."}
                              for t in tests[job["number"]]]
                for job in spec["jobs"]}
    print(json.dumps({"expected": expected}), file=out, flush=True)
    for job in spec["jobs"]:
        left = 2 * spec["seconds"]
        for test in tests[job["number"]]:
            ok, message, used = (run_test(job, test, spec, min(left, spec["seconds"])) if left > 0.5 else
                                 (False, "Not run: the assignment's time was up before this test.", 0))
            left -= used
            print(json.dumps({"job": job["job"], "name": test["name"], "ok": ok, "message": message}),
                file=out, flush=True)
        print(json.dumps({"finished": job["job"]}), file=out, flush=True)


if __name__ == "__main__":
    main()
