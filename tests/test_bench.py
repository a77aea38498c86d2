"""The benchmarks still run with the code that they measure: each at its smallest size. No number is judged."""
import pytest


@pytest.mark.parametrize("command, said", [
    ("rl_step.py --skip-trl --rounds 1 --steps 1 --max-new-tokens 4", "rl_process       best"),
    ("loss.py --tokens 64 --hidden 16 --vocab 512 --methods naive token_logprobs", "token_logprobs"),
    ("judging.py --problems 2 --samples 2", "compar")])
def test_a_benchmark_runs(run_script, command, said):
    script, *flags = command.split()
    done = run_script(f"tests/bench/{script}", *flags)
    assert done.returncode == 0 and said in done.stdout, done.stderr
