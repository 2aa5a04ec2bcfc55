"""The captured loop: one graph per env step of all copies, one per plan, one per iteration; no Python between the tensors' operations.

The plain trainer is the reference: the same networks, replay, random numbers and order of minibatches, equal to rounding.
Weights and moments are changed where they lie, so checkpoints, evaluations and the plain trainer see them too.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .agents import GRUCell
from .config import Config
from .functional import Moments, factors
from .graphs import compiled
from .kernels import gru_library
from .learners.base import AGENTS, Learner
from .policies import Team
from .pure import Iteration, Totals, Weights, collect_step
from .recurrence import can_be_fast
from .replay import Replay, Windows, minibatch_sizes
from .rollout import Carry
from .trees import owned, write_into


class CaptureFailed(RuntimeError):
    """The compiler gave up; nothing has been changed."""


class Engine:
    """Captured collecting and learning on a trainer's own networks, optimisers and replay."""

    def __init__(
        self,
        config: Config,
        env: Any,
        team: Team,
        learner: Learner,
        networks: nn.ModuleDict,
        targets: nn.ModuleDict,
        optimisers: dict[str, torch.optim.Optimizer],
        replay: Replay,
        *,
        collects: bool = True,
    ):
        """`collects`: env steps too are captured, not iterations alone."""
        self.collects = collects
        self.config, self.env, self.team, self.learner, self.optimisers, self.replay = config, env, team, learner, optimisers, replay
        self._iteration = Iteration(config, learner, networks, targets, replay.layout)
        self._parameters = dict(self._iteration.named_parameters())
        self._weights = Weights(
            networks={name: self._parameters[name] for name in self._iteration.moved},
            targets={name: self._parameters[name].detach() for name in self._iteration.slow},
            moments=self._bind_moments(),
        )
        self._steps_taken = self._count_steps()
        self._totals, self._sums, self._labels = Totals.zero(), torch.zeros(0), list[str]()
        self._epsilon, self._version = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)

    def warm_up(self, carry: Carry, say: Callable[[str], None]) -> None:
        """Compile everything, changing nothing; CaptureFailed says what the compiler said."""
        try:
            self._compile(carry, say)
        except (RuntimeError, OSError) as error:  # torch's compilers raise subclasses of the first without one of their own in common
            quicken(self._iteration, fast=False)
            raise CaptureFailed(str(error).strip().partition("\n")[0]) from error

    def _compile(self, carry: Carry, say: Callable[[str], None]) -> None:
        quicken(self._iteration)
        if self.collects:
            self._compile_collecting(carry, say)
        self._compile_learning(say)

    def _compile_collecting(self, carry: Carry, say: Callable[[str], None]) -> None:
        began = time.monotonic()
        self._carry = owned(carry)
        utility = {name: self._weights.networks[f"networks.utility.{name}"].detach() for name, _ in self.team.utility.named_parameters()}
        collecting = (self._carry, self._totals, utility, self._epsilon, self._version)
        step = compiled(self._step_in_every_copy, *collecting)
        self._collect: Callable[[], tuple[Tensor, Tensor]] = step.bind(*collecting)
        say(f"compiled    collecting, {time.monotonic() - began:.0f} s")

    def _compile_learning(self, say: Callable[[str], None]) -> None:
        replay, began, planned = self.config.replay, time.monotonic(), dict[str, Tensor]()
        if replay.sampling == "split":
            weights = self._weights.networks, self._weights.targets
            floats, raw = (rows.new_zeros(replay.rollout_steps, *rows.shape[1:]) for rows in (self.replay.floats, self.replay.raw))
            plan = compiled(self._iteration.plan, *weights, floats, raw, torch.ones(()))
            self._plan: Callable[..., dict[str, Tensor]] = plan.bind(*weights)
            planned = self._iteration.plan(*weights, floats, raw, torch.ones(()))
        self._iterations: dict[int, Callable[..., Any]] = {}
        for windows in self._example_windows():
            rows = self.replay.rows(windows, window=replay.window, burn_in=replay.burn_in)
            own = self.replay.of_windows(windows, planned)
            if not self._labels:
                self._label(rows, own)
            numbers = self._numbers(1.0, dict.fromkeys(self.learner.parts, 0.0))
            iteration = compiled(self._iteration.step, self._weights, self._sums, *rows, own, numbers)
            self._iterations[len(windows[0])] = iteration.bind(self._weights, self._sums)
        say(f"compiled    learning, {time.monotonic() - began:.0f} s")

    def _step_in_every_copy(
        self, carry: Carry, totals: Totals, utility: dict[str, Tensor], epsilon: Tensor, version: Tensor
    ) -> tuple[Tensor, Tensor]:
        def agents(obs: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
            return functional_call(self.team.utility, utility, (obs, memory))

        new_carry, new_totals, floats, raw = collect_step(
            self.env, self.team, self.replay.layout, self.learner.explore, carry, totals, epsilon, version, agents
        )
        write_into((carry, totals), owned((new_carry, new_totals)))  # owned: a task may hand on a tensor under another name
        return floats, raw

    def collect(self, carry: Carry, *, epsilon: float, version: int) -> Carry:
        """`rollout_steps` env steps in every copy, straight into the replay. The carry that comes back is overwritten by the next call."""
        if carry is not self._carry:
            write_into(self._carry, carry)
        self._epsilon.fill_(epsilon)
        self._version.fill_(version)
        with torch.no_grad():
            for _ in range(self.config.replay.rollout_steps):
                self.replay.put(*self._collect())
        return self._carry

    def plan(self, scale: float) -> dict[str, Tensor]:
        """Part -> targets of the whole fresh batch."""
        with torch.no_grad():
            return self._plan(*self.replay.newest_rows(), torch.tensor(scale))

    def iterate(self, windows: Windows, planned: dict[str, Tensor], *, scale: float, rates: dict[str, float]) -> None:
        """One gradient step of every part on these windows."""
        replay = self.config.replay
        with torch.no_grad():
            rows = self.replay.rows(windows, window=replay.window, burn_in=replay.burn_in)
            self._steps_taken += 1
            self._iterations[len(windows[0])](*rows, planned, self._numbers(scale, rates))

    def settle(self) -> tuple[dict[str, float], tuple[float, float, float]]:
        """Sums since the last call, by name, and the episodes' (number, returns, lengths): the only place that waits for the device."""
        sums = dict(zip(self._labels, self._sums.tolist(), strict=True))
        episodes = self._totals.episodes.item(), self._totals.returns.item(), self._totals.lengths.item()
        self._sums.zero_()
        write_into(self._totals, Totals.zero())
        for optimiser in self.optimisers.values():
            for state in optimiser.state.values():
                state["step"].fill_(self._steps_taken)
        return sums, episodes

    def _bind_moments(self) -> Moments:
        """The optimisers' own moments by our names (zeros where no step was taken yet)."""
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        first, second = {}, {}
        for optimiser in self.optimisers.values():
            for parameter in optimiser.param_groups[0]["params"]:
                state, name = optimiser.state[parameter], names[id(parameter)]
                if not state:
                    state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
                first[name], second[name] = state["exp_avg"], state["exp_avg_sq"]
        return Moments(first, second)

    def _count_steps(self) -> int:
        return max(int(state["step"]) for optimiser in self.optimisers.values() for state in optimiser.state.values())

    def _numbers(self, scale: float, rates: dict[str, float]) -> Tensor:
        step = max(self._steps_taken, 1)
        of_parts = (value for part in self.learner.parts for value in factors(self.config.learner, step, rates[part]))
        return torch.tensor([scale, *of_parts], dtype=torch.float64)

    def _example_windows(self) -> list[Windows]:
        """As many windows as a minibatch has, all of the ring's first steps; and as many as a batch's last one has, if that differs."""
        return [(zeros, zeros) for zeros in (torch.zeros(size, dtype=torch.int64) for size in minibatch_sizes(self.config.replay))]

    def _label(self, rows: tuple[Tensor, Tensor], planned: dict[str, Tensor]) -> None:
        """The names of what an iteration reports, from one plain look at the losses."""
        losses = self._iteration(*rows, planned, torch.ones(()))
        self._labels = []
        for part, loss in losses.items():
            prefix = "" if part == AGENTS else f"{part}."
            self._labels += [prefix + name for name in ("loss", "weight", *(f"metric.{name}" for name in loss.metrics))]
        self._labels += ["grad_norm" if part == AGENTS else f"{part}.grad_norm" for part in losses]
        self._sums = torch.zeros(len(self._labels), dtype=torch.float64)


def quicken(module: nn.Module, *, fast: bool = True) -> None:
    """Recurrent cells go through our own loops from here on, or no longer."""
    for cell in module.modules():
        if isinstance(cell, GRUCell) and can_be_fast(cell.of_input.weight, cell.of_memory.weight):
            if fast:
                gru_library()
            cell.fast = fast
