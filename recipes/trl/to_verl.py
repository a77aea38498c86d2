"""Problems in the columns that verl's data set reads: prompt, data_source, reward_model, extra_info.

    python recipes/trl/to_verl.py --data runs/seed0/toy/train.jsonl --out runs/seed0/verl.jsonl

The gold answer stands in reward_model.ground_truth, from where verl hands it to verifier.compute_score.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import model as models  # noqa: E402


def verl_row(problem, system=models.SYSTEM_PROMPT):
    """One problem -> one row. verl renders the turns with the model's own chat template."""
    turns = [{"role": "system", "content": system}, {"role": "user", "content": problem["problem"]}]
    return {"data_source": "s2r", "prompt": turns,
            "reward_model": {"style": "rule", "ground_truth": problem["answer"]},
            "extra_info": {"index": problem["id"]}}


def main():
    parser = models.Parser(__doc__)
    parser.add_argument("--data", required=True, help="problems: file, folder or datasets name")
    parser.add_argument("--split", help="split of --data")
    parser.add_argument("--out", required=True, help="a .jsonl file")
    parser.add_argument("--force", action="store_true", help="overwrite --out")
    args = parser.parse_args()
    models.check_output(args.out, args.force, args.data)
    models.write_jsonl(args.out, map(verl_row, models.read_problems(args.data, args.split)))


if __name__ == "__main__":
    models.run_main(main)
