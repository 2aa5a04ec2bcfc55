"""COMA in its three forms beside QMIX: the same env steps, several seeds, final returns with intervals.

    python scripts/compare_coma.py --out coma-runs [--tasks climbing two-step spread foraging] [--seeds 0-4] [--jobs 2]

(a) fresh batches, (b) replay with all actions drawn afresh, (c) replay with stored actions and the joint ratio. A run that
exists and is finished is not trained again, so an interrupted comparison goes on where it was. QMIX stands there twice: under the
task's own preset (fresh batches, one look at each step) and from the replay (eight looks: the better way to few env steps).
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from teamcredit.credit.intervals import t_interval

TASKS = {
    "climbing": ("native/matrix-climbing", "matrix", "20k"),
    "two-step": ("native/two-step", "matrix", "20k"),
    "spread": ("native/spread", "spread", "1M"),
    "foraging": ("native/foraging-8x8-2p-3f", "foraging", "500k"),
}
"""name -> (task, its preset, env steps)."""
FORMS = {
    "coma (a) fresh": {"matrix": "matrix,coma-matrix", "else": "{},coma"},
    "coma (b) resampled": {"matrix": "matrix,coma-matrix-resampled", "else": "{},coma-resampled"},
    "coma (c) stored": {"matrix": "matrix,coma-matrix-stored", "else": "{},coma-stored"},
    "qmix": {"matrix": "matrix", "else": "{}"},
    "qmix from replay": {"matrix": "matrix", "spread": "spread,mpe", "else": "{},replay"},
}
"""name -> its presets."""


def train(task: str, form: str, *, out: Path, seeds: str, jobs: int) -> tuple[Path, int]:
    """The folder of the seeds' runs and the exit code."""
    name, preset, steps = TASKS[task]
    presets = FORMS[form].get(preset, FORMS[form]["else"]).format(preset)
    folder = out / f"{task}-{form.replace(' ', '-')}"
    algo = form.split()[0]
    command = [sys.executable, "-m", "teamcredit.marl.cli", "train", name, "--algo", algo, "--preset", presets, "--steps", steps]
    command += ["--seeds", seeds, "--jobs", str(jobs), "--out", str(folder), "--no-progress", "--quiet"]
    done = len(list(folder.glob("**/result.json")))
    return folder, 0 if done == len(spread_out(seeds)) else subprocess.run(command, check=False).returncode


def spread_out(seeds: str) -> list[int]:
    """0-4 as 0, 1, 2, 3, 4."""
    first, _, last = seeds.partition("-")
    return list(range(int(first), int(last or first) + 1))


def row(task: str, form: str, folder: Path) -> dict:
    """Final returns of the seeds, their mean, and its 95% t interval over seeds."""
    returns = [json.loads(path.read_text())["return"]["mean"] for path in sorted(folder.glob("**/result.json"))]
    samples = torch.tensor(returns, dtype=torch.float64)
    interval = [float(end) for end in t_interval(samples)] if len(returns) > 1 else None
    return {
        "task": task,
        "form": form,
        "env_steps": TASKS[task][2],
        "returns": returns,
        "mean": float(samples.mean()),
        "interval": interval,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    failed = 0
    for task in args.tasks:
        for form in args.forms:
            folder, code = train(task, form, out=args.out, seeds=args.seeds, jobs=args.jobs)
            if not list(folder.glob("**/result.json")):
                print(f"{task:10} {form:20} no run finished (exit {code})", flush=True)
                failed += 1
                continue
            found = row(task, form, folder)
            low, high = found["interval"] or (float("nan"), float("nan"))
            shown = " ".join(f"{value:.3g}" for value in found["returns"])
            print(
                f"{task:10} {form:20} {found['env_steps']:>5}  mean {found['mean']:8.3f}  [{low:.3f}, {high:.3f}]  seeds: {shown}",
                flush=True,
            )
            failed += code != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
