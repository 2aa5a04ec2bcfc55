"""Exact Shapley values over a QMIX's inputs beside captum's and shapiq's: the same numbers, and how long they take.

    pip install "teamcredit[parity]"
    python scripts/bench_mixer_credit.py                    # 64 states, 5 agents (captum, shapiq) and 10 (shapiq)
    python scripts/bench_mixer_credit.py --turns 15 --json figures.json

All sides take turns on one core with one thread, and CPU seconds are counted. captum enumerates all n! orders, so 10 agents are out of
its reach; it is given the states as a batch, with the whole mixer or with the hypernetworks' outputs (as ours), one perturbation or one
order at a time. shapiq knows one game at a time: 64 exact computers whose value function is the mixer at that state.

"Bare matmuls" are the matrix products alone: the hypernetworks' layers once, then q W1 and h w2 of every coalition. Ours does fewer
(hidden layers come by doubling), so its share is of what is left besides: ELU, sums, and the combination of values.
"""

# pyright: reportMissingImports=false

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from teamcredit.credit.base import all_coalitions
from teamcredit.credit.mixer_credit import mixer_integrated_gradients, mixer_shapley
from teamcredit.marl.bench.clock import Pace, interleave, one_core, steady
from teamcredit.marl.bench.machine import describe, installed
from teamcredit.marl.cli_output import number, table
from teamcredit.mixers.qmix import QMix, QMixAt
from torch import Tensor

STATES, STATE_DIM, EMBED, HYPER = 64, 50, 32, 64
OURS, BARE = "ours", "bare matmuls"
Explain = Callable[[], Float[Tensor, "state agent"]]


@dataclass(frozen=True)
class Case:
    """A mixer, states, and what agents did and might have done."""

    mixer: QMix
    state: Float[Tensor, "state feature"]
    q: Float[Tensor, "state agent"]
    q_ref: Float[Tensor, "state agent"]


def make_case(agents: int) -> Case:
    """As initialised by torch, utilities of size 1."""
    with torch.random.fork_rng():
        torch.manual_seed(agents)
        mixer = QMix(agents, STATE_DIM, EMBED, HYPER)
    generator = torch.Generator().manual_seed(agents)
    return Case(mixer, *(torch.randn(STATES, width, generator=generator) for width in (STATE_DIM, agents, agents)))


@torch.no_grad()
def ours(case: Case) -> Tensor:
    """Hypernetworks, all coalitions, values."""
    return mixer_shapley(case.mixer.at(case.state), case.q, case.q_ref)


@torch.no_grad()
def by_captum(case: Case, *, bound: bool, at_once: int) -> Tensor:
    """captum.attr.ShapleyValues over all orders of agents; `bound`: the hypernetworks run once."""
    from captum.attr import ShapleyValues

    if bound:
        at = case.mixer.at(case.state)

        def forward(q: Tensor) -> Tensor:
            return at(q.view(-1, STATES, q.shape[-1]).transpose(0, 1)).T.reshape(-1)  # perturbations of all states, one after another

        return ShapleyValues(forward).attribute(case.q, baselines=case.q_ref, perturbations_per_eval=at_once)
    explainer = ShapleyValues(case.mixer)
    return explainer.attribute(case.q, baselines=case.q_ref, additional_forward_args=(case.state,), perturbations_per_eval=at_once)


@torch.no_grad()
def by_shapiq(case: Case) -> Tensor:
    """shapiq.ExactComputer, one per state."""
    from shapiq import ExactComputer

    agents, at = case.q.shape[-1], case.mixer.at(case.state)
    found = []
    for one, (q, q_ref) in enumerate(zip(case.q, case.q_ref, strict=True)):
        here = QMixAt(at.W1[one], at.b1[one], at.w2[one], at.v[one])

        def game(coalitions: Any, here: QMixAt = here, q: Tensor = q, q_ref: Tensor = q_ref) -> Any:
            return here(torch.where(torch.as_tensor(coalitions, dtype=torch.bool), q, q_ref)).numpy()

        found.append(torch.as_tensor(ExactComputer(game, n_players=agents)("SV", order=1).get_n_order_values(1)))
    return torch.stack(found)


@torch.no_grad()
def bare_matmuls(case: Case, mixed: Tensor, W1: Tensor, w2: Tensor, hidden: Tensor) -> None:
    """Every matrix product that the plain way needs, and nothing else; inputs and outputs lie ready."""
    for layers in (case.mixer.W1, case.mixer.w2, case.mixer.v):
        x = case.state
        for layer in layers:
            if isinstance(layer, torch.nn.Linear):
                x = torch.nn.functional.linear(x, layer.weight)
    torch.nn.functional.linear(case.state, case.mixer.b1.weight)
    torch.bmm(mixed, W1, out=hidden)
    torch.bmm(hidden, w2)


def sides_of(case: Case) -> dict[str, Explain]:
    """The others that can do this many agents."""
    agents = case.q.shape[-1]
    sides: dict[str, Explain] = {}
    if installed("captum") and agents <= 5:
        for at_once in (1, agents):
            sides[f"captum, {at_once} at once"] = partial(by_captum, case, bound=False, at_once=at_once)
            sides[f"captum, {at_once} at once, hypernetworks once"] = partial(by_captum, case, bound=True, at_once=at_once)
    if installed("shapiq"):
        sides["shapiq"] = partial(by_shapiq, case)
    return sides


def measure(agents: int, pace: Pace) -> list[dict[str, Any]]:
    """A row for every side: CPU milliseconds for 64 states, times ours of the same turn, largest difference in value."""
    case = make_case(agents)
    others, truth = sides_of(case), ours(case)
    member = all_coalitions(agents)
    with torch.no_grad():
        at = case.mixer.at(case.state)
    ready = torch.where(member, case.q.unsqueeze(1), case.q_ref.unsqueeze(1)), at.W1, at.w2.unsqueeze(-1)
    hidden = torch.empty(STATES, len(member), EMBED)
    path = partial(mixer_integrated_gradients, at, case.q, case.q_ref)
    work: Mapping[str, Callable[[], Any]] = {
        OURS: partial(ours, case), BARE: partial(bare_matmuls, case, *ready, hidden), "integrated gradients, 32 places": path, **others,
    }  # fmt: skip
    turns = interleave({name: steady(lambda do=do: float(do() is None) or 1.0) for name, do in work.items()}, pace)
    spent = {name: [1e3 / turn.speed for turn in of_side] for name, of_side in turns.items()}
    rows = []
    for name, milliseconds in spent.items():
        ratios = [other / mine for other, mine in zip(milliseconds, spent[OURS], strict=True)]
        error = float((others[name]() - truth).abs().max()) if name in others else None
        figures = {key: dict(zip(("median", "min", "max"), (median(of), min(of), max(of)), strict=True)) for key, of in
                   (("milliseconds", milliseconds), ("times_ours", ratios))}  # fmt: skip
        rows.append({"agents": agents, "side": name, **figures, "largest_difference": error})
    return rows


def shown(figure: Mapping[str, float]) -> str:
    return f"{number(figure['median'])} ({number(figure['min'])} to {number(figure['max'])})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.2, help="CPU seconds of a turn, at least")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with one_core() as core:
        machine = describe(core) | {"peers": {name: installed(name) for name in ("captum", "shapiq")}}
        rows = [row for agents in (5, 10) for row in measure(agents, Pace(arguments.turns, arguments.seconds))]
    for row in rows:
        if row["largest_difference"] is not None and not row["largest_difference"] < 1e-5:
            raise SystemExit(f"{row['side']} with {row['agents']} agents differs from ours by {row['largest_difference']}")
    print(json.dumps(machine))
    print(f"CPU milliseconds for {STATES} states (median, least to most, of {arguments.turns} turns); the same as a multiple of ours")
    header = ("agents", "side", "ms", "times ours", "largest difference")
    print(table(header, [(str(row["agents"]), row["side"], shown(row["milliseconds"]), shown(row["times_ours"]),
                          "" if row["largest_difference"] is None else f"{row['largest_difference']:.1e}") for row in rows]))  # fmt: skip
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({**machine, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
