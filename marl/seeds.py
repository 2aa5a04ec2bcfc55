"""Many seeds in one process: all seeds' copies step as one batch, all seeds' networks learn in one stacked iteration.

Every seed remains an ordinary `Trainer` with its own generators, counters and run: its weights, moments and replay are views
into the tensors of all. It draws the minibatches and random numbers it would draw alone, and gets the same numbers to rounding.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..envs.base import TeamEnv
from ..envs.native import NativeEnv
from .capture import COMPILED, EAGER, Choice
from .config import Config
from .encoders import image_shape
from .engine import quicken
from .errors import ConfigError
from .functional import Named, factors
from .graphs import compiled, recorded
from .learners.base import AGENTS
from .memory import example_rollout
from .pure import Iteration, Totals, collect_step
from .replay import Replay, Windows, minibatch_sizes
from .rollout import Carry
from .stacked import Stack, StackedIteration
from .trainer import Trainer
from .trees import map_tree, owned, write_into


def refuse_together(config: Config, env: TeamEnv) -> None:
    """ConfigError where a part of the run is not vectorised over seeds; the sentence names it."""
    obstacle = None
    if not isinstance(env, NativeEnv):
        obstacle = f"{env.spec.name} is stepped in Python, one copy at a time: only native tasks (marl envs list) step all seeds at once"
    elif config.algo == "coma" or config.own_critic.kind != "none":
        obstacle = "a counterfactual critic draws its actions from a generator of one seed"
    elif image_shape(config.network, env.spec) is not None:
        obstacle = "the image encoder's convolutions are not stacked"
    if obstacle is not None:
        raise ConfigError(f"--vectorize-seeds: {obstacle}", remedy="--jobs 2 instead: a process per seed, two at a time")


class SeedTrainer(Trainer):
    """One seed of several that train together."""

    together: "Together"
    index: int

    def round(self) -> None:
        raise AssertionError("seeds that train together move together: Together.round")

    def settle(self) -> None:
        """What all seeds' loop has summed up of this one."""
        self._take_in(*self.together.settle(self.index))

    def collected(self, position: int, count: int) -> None:
        """A batch was written into the ring behind this seed's back."""
        self.replay.position, self.replay.count = position, count
        self._collected()

    def minibatches(self) -> list[Windows]:
        """The windows of the iterations due after this round, one epoch of them with sampling split."""
        if self.config.replay.sampling == "split":
            self.counters.epochs += 1
            return [windows for windows, _ in self.replay.split_windows(self.generator)]
        return [self.replay.uniform_windows(self.generator) for _ in range(self._iterations_due())]

    def iterated(self) -> None:
        self._iterated()


class Together:
    """Trainers that differ in their seed alone, moved a round at a time.

    Raises ConfigError, before anything is allocated, where something is not vectorised or the replays together would not fit.
    """

    def __init__(self, configs: Sequence[Config], env: TeamEnv, *, announce: Callable[[str], None] = lambda text: None):
        self.config, self.env, self.announce = configs[0], env, announce
        assert all(replace(config, seed=self.config.seed) == self.config for config in configs)
        refuse_together(self.config, env)
        self.replay = shared_replay(self.config, env, len(configs), announce)
        own = self.config.replay
        self.trainers = [SeedTrainer(each, env, replay=self.replay.part(own, k * own.num_envs)) for k, each in enumerate(configs)]
        self.lead = self.trainers[0]
        iteration = Iteration(self.config, self.lead.learner, self.lead.networks, self.lead.targets, self.replay.layout)
        self.iteration = StackedIteration(iteration)
        self.carry: Carry = owned(map_tree(lambda *parts: torch.cat(parts), *(trainer.carry for trainer in self.trainers)))
        self.totals = Totals.zero(len(configs))
        self.stack = self._stack_weights()
        self.networks = self.iteration.named(self.stack.networks.detach())
        self.targets = self.iteration.named(self.stack.targets, "targets.")
        for index, trainer in enumerate(self.trainers):
            trainer.together, trainer.index = self, index
            self._bind(trainer)
        self.labels: list[str] = []
        self.sums = torch.zeros(len(configs), 0, dtype=torch.float64)
        self._steps_taken = 0
        self._rate = self.config.learner.lr
        self._utility = self.iteration.of_utility(self.networks)
        self._epsilon, self._version = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
        self._set_eager()
        self._warm = self.lead.choice.engine == EAGER

    @property
    def finished(self) -> bool:
        return self.lead.finished

    def round(self) -> None:
        """Every seed's round: collect a batch, then learn from it or from the replay."""
        if not self._warm:
            self._capture()
        self._rate = self.config.learner.lr * self.lead.decay  # like epsilon, by the env steps done before the round
        self._collect()
        if self.config.replay.sampling == "uniform":
            self._learn_from({})
            return
        planned = self._planned()
        for _ in range(self.config.replay.epochs):
            self._learn_from(planned)

    def settle(self, index: int) -> tuple[dict[str, float], tuple[float, float, float]]:
        """One seed's sums since its last call, by name, and its episodes' (number, returns, lengths)."""
        sums = dict(zip(self.labels, self.sums[index].tolist(), strict=True))
        totals = [getattr(self.totals, item.name) for item in fields(Totals)]
        episodes, returns, lengths = (float(total[index]) for total in totals)
        for total in (self.sums, *totals):
            total[index] = 0.0
        for state in self.trainers[index].optimisers[AGENTS].state.values():
            state["step"].fill_(self._steps_taken)
        return sums, (episodes, returns, lengths)

    @torch.no_grad()
    def _collect(self) -> None:
        self._epsilon.fill_(self.lead.epsilon)
        self._version.fill_(self.lead.counters.iterations)
        for _ in range(self.config.replay.rollout_steps):
            self.replay.put(*self._step())
        for trainer in self.trainers:
            trainer.collected(self.replay.position, self.replay.count)

    def _collecting(self) -> tuple[Carry, Totals, Named, Tensor, Tensor]:
        """What goes into an env step of all copies; it lies where it is for good."""
        return self.carry, self.totals, self._utility, self._epsilon, self._version

    def _collect_step(
        self, act: Callable[..., Any], carry: Carry, totals: Totals, utility: Named, epsilon: Tensor, version: Tensor
    ) -> tuple[Tensor, Tensor]:
        lead, agents = self.lead, partial(act, utility)
        new_carry, new_totals, floats, raw = collect_step(
            self.env, lead.team, self.replay.layout, lead.learner.explore, carry, totals, epsilon, version, agents
        )
        write_into((carry, totals), owned((new_carry, new_totals)))
        return floats, raw

    @torch.no_grad()
    def _planned(self) -> dict[str, Tensor]:
        """Part -> targets (time, copy, value) of the fresh batches, all seeds' copies in a row."""
        planned = self._plan(*self._by_seed(*self.replay.newest_rows()), self._scales())
        return {part: value.flatten(1, 2) for part, value in planned.items()}

    def _learn_from(self, planned: dict[str, Tensor]) -> None:
        """The iterations of all seeds, each on its own minibatches."""
        for each in zip(*(trainer.minibatches() for trainer in self.trainers), strict=True):
            start, copy = self._windows(each)
            inside = torch.arange(self.config.replay.window).unsqueeze(-1) - (self.replay.count - self.config.replay.rollout_steps)
            own = {part: value[start + inside, copy].unflatten(1, (len(each), -1)) for part, value in planned.items()}
            self._iterate((start, copy), own)

    def _windows(self, each: Sequence[Windows]) -> Windows:
        """Windows of every seed's own copies as windows of the copies of all."""
        num_envs = self.config.replay.num_envs
        return torch.cat([start for start, _ in each]), torch.cat([copy + k * num_envs for k, (_, copy) in enumerate(each)])

    def _iterate(self, windows: Windows, planned: dict[str, Tensor]) -> None:
        replay = self.config.replay
        rows = self._by_seed(*self.replay.rows(windows, window=replay.window, burn_in=replay.burn_in))
        if not self.labels:
            self._label(*rows, planned)
        self._steps_taken += 1
        numbers = torch.tensor(factors(self.config.learner, self._steps_taken, self._rate), dtype=torch.float64)
        self._learn(*rows, planned, self._scales(), numbers)
        for trainer in self.trainers:
            trainer.iterated()

    def _by_seed(self, floats: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Packed rows (time, seed, copy or window, row)."""
        seeds = len(self.trainers)
        return floats.unflatten(1, (seeds, -1)), raw.unflatten(1, (seeds, -1))

    def _scales(self) -> Tensor:
        return torch.tensor([trainer.reward_scale.scale for trainer in self.trainers])

    def _label(self, floats: Tensor, raw: Tensor, planned: dict[str, Tensor]) -> None:
        """The names of what an iteration reports, from one plain look at the losses of one seed."""
        own = {part: value[:, 0] for part, value in planned.items()}
        (loss,) = self.iteration.iteration(floats[:, 0], raw[:, 0], own, torch.ones(())).values()
        self.labels = ["loss", "weight", *(f"metric.{name}" for name in loss.metrics), "grad_norm"]
        self.sums = torch.zeros(len(self.trainers), len(self.labels), dtype=torch.float64)

    def _stack_weights(self) -> Stack:
        networks, targets = (
            torch.stack([torch.nn.utils.parameters_to_vector(getattr(trainer, name).parameters()).detach() for trainer in self.trainers])
            for name in ("networks", "targets")
        )
        if not self.iteration.iteration.has_targets:
            targets = targets[:, :0]
        return Stack(networks.requires_grad_(), targets, torch.zeros_like(networks), torch.zeros_like(networks))

    def _bind(self, trainer: SeedTrainer) -> None:
        """A trainer's weights, moments and copies become views of the stacked ones, which only ever change in place."""
        num_envs = self.config.replay.num_envs
        first = trainer.index * num_envs
        trainer.carry = map_tree(lambda value: value[first : first + num_envs], self.carry)
        rows = [self.iteration.named(value.detach()) for value in (self.stack.networks, self.stack.first, self.stack.second)]
        state = trainer.optimisers[AGENTS].state
        for name, parameter in trainer.networks.named_parameters():
            value, first, second = (of_all[f"networks.{name}"][trainer.index] for of_all in rows)
            parameter.data = value
            state[parameter] = {"step": torch.zeros(()), "exp_avg": first, "exp_avg_sq": second}
        if trainer.targets is not trainer.networks:
            for name, parameter in trainer.targets.named_parameters():
                parameter.data = self.targets[f"targets.{name}"][trainer.index]

    def _set_eager(self) -> None:
        """Without a compiler: what is mapped over seeds is recorded, everything else runs as it stands."""
        act, plan, learn = (recorded(each) for each in (self.iteration.act, self.iteration.plan, self.iteration.step))
        self._step: Callable[[], tuple[Tensor, Tensor]] = lambda: self._collect_step(act, *self._collecting())
        self._plan: Callable[..., dict[str, Tensor]] = partial(plan, self.networks, self.targets)
        self._learn: Callable[..., Any] = lambda *minibatch: learn(self.stack, self.sums, *minibatch)

    def _capture(self) -> None:
        """Compile everything, changing nothing; what the compiler refuses is said in a sentence, and the run goes on without it."""
        self._warm = True
        try:
            quicken(self.iteration.iteration)
            self._compile()
        except (RuntimeError, OSError) as error:  # torch's compilers raise subclasses of the first without one of their own in common
            reason = str(error).strip().partition("\n")[0]
            self._set_eager()
            quicken(self.iteration.iteration, fast=False)
            self.announce(f"compile     failed, so the run goes on without it: {reason}")
            for trainer in self.trainers:
                trainer.choice = Choice(EAGER, f"compiling failed ({reason})")

    def _compile(self) -> None:
        if self.lead.choice.engine == COMPILED:
            began, collecting = time.monotonic(), self._collecting()
            self._step = compiled(partial(self._collect_step, self.iteration.act), *collecting).bind(*collecting)
            self.announce(f"compiled    collecting, {time.monotonic() - began:.0f} s")
        self._compile_learning()

    def _compile_learning(self) -> None:
        replay, seeds, began, planned = self.config.replay, len(self.trainers), time.monotonic(), dict[str, Tensor]()
        if replay.sampling == "split":
            whole = (rows.new_zeros(replay.rollout_steps, *rows.shape[1:]) for rows in (self.replay.floats, self.replay.raw))
            batch = (*self._by_seed(*whole), self._scales())
            self._plan = compiled(self.iteration.plan, self.networks, self.targets, *batch).bind(self.networks, self.targets)
            planned = self.iteration.plan(self.networks, self.targets, *batch)
        iterations: dict[int, Callable[..., Any]] = {}
        for count in minibatch_sizes(replay):
            first = torch.zeros(seeds * count, dtype=torch.int64)
            rows = self._by_seed(*self.replay.rows((first, first), window=replay.window, burn_in=replay.burn_in))
            own = {part: value[: replay.window, :, :1].expand(-1, -1, count, -1).contiguous() for part, value in planned.items()}
            if not self.labels:
                self._label(*rows, own)
            minibatch = (*rows, own, self._scales(), torch.zeros(3, dtype=torch.float64))
            iterations[count] = compiled(self.iteration.step, self.stack, self.sums, *minibatch).bind(self.stack, self.sums)
        self._learn = lambda floats, *rest: iterations[floats.shape[2]](floats, *rest)
        self.announce(f"compiled    learning, {time.monotonic() - began:.0f} s")


def shared_replay(config: Config, env: TeamEnv, seeds: int, announce: Callable[[str], None]) -> Replay:
    """One ring for the copies of all seeds; ConfigError where it would not fit."""
    own = config.replay
    together = replace(own, num_envs=seeds * own.num_envs, capacity=seeds * own.capacity)
    return Replay(together, example_rollout(env.spec), state_is_obs=env.spec.state_is_obs, announce=announce, seeds=seeds)
