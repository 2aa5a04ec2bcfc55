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
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
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
    "qmix from replay": {"matrix": None, "spread": "spread,mpe", "else": "{},replay"},
}
"""name -> its presets."""


def train(task: str, form: str, presets: str, seed: int, folder: Path) -> int:
    """One run, gone on with where it was interrupted; the exit code."""
    name, _, steps = TASKS[task]
    if (folder / "result.json").exists():
        return 0
    marl = [sys.executable, "-m", "teamcredit.marl.cli"]
    command = [
        *marl,
        "train",
        name,
        "--algo",
        form.split()[0],
        "--preset",
        presets,
        "--steps",
        steps,
        "--seed",
        str(seed),
        "--out",
        str(folder),
    ]
    if (folder / "checkpoints").exists():
        command = [*marl, "resume", str(folder)]
    return subprocess.run([*command, "--no-progress", "--quiet"], check=False, stdout=subprocess.DEVNULL).returncode


def presets_of(task: str, form: str) -> str | None:
    """What `--preset` gets; None where the form is no other than the one before it."""
    own = TASKS[task][1]
    presets = FORMS[form].get(own, FORMS[form]["else"])
    return None if presets is None else presets.format(own)


def spread_out(seeds: str) -> list[int]:
    """0-4 as 0, 1, 2, 3, 4."""
    first, _, last = seeds.partition("-")
    return list(range(int(first), int(last or first) + 1))


def row(task: str, form: str, folders: list[Path]) -> dict:
    """Final returns of the seeds, their mean, and its 95% t interval over seeds."""
    returns = [json.loads(path.read_text())["return"]["mean"] for path in (folder / "result.json" for folder in folders)]
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
            presets = presets_of(task, form)
            if presets is None:
                continue
            folders = {seed: args.out / f"{task}-{form.replace(' ', '-')}" / f"seed-{seed}" for seed in spread_out(args.seeds)}
            with ThreadPoolExecutor(args.jobs) as pool:
                codes = list(pool.map(train, repeat(task), repeat(form), repeat(presets), folders, folders.values()))
            failed += any(codes)
            finished = [folder for folder in folders.values() if (folder / "result.json").exists()]
            if not finished:
                print(f"{task:10} {form:20} no run finished (exit codes {codes})", flush=True)
                continue
            found = row(task, form, finished)
            low, high = found["interval"] or (float("nan"), float("nan"))
            shown = " ".join(f"{value:.3g}" for value in found["returns"])
            left = f"  ({len(folders) - len(finished)} stopped)" if len(finished) < len(folders) else ""
            print(
                f"{task:10} {form:20} {found['env_steps']:>5}  mean {found['mean']:8.3f}  [{low:.3f}, {high:.3f}]  seeds: {shown}{left}",
                flush=True,
            )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
