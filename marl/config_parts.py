"""The parts of a run's configuration: one frozen dataclass per thing; the text under a field is its help.

Nothing heavy is imported here, so that `marl --help` answers at once. Counts are env steps (one joint action of one copy)
unless the name says otherwise.
"""

from dataclasses import dataclass
from typing import Literal


def at_least(name: str, value: int, low: int) -> None:
    if value < low:
        raise ValueError(f"{name} {value} must be at least {low}")


def within(name: str, value: float | int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} {value} must lie in [{low}, {high}]")


@dataclass(frozen=True)
class NetworkConfig:
    """The agents' utility networks; each sees only its agent's own observation."""

    kind: Literal["mlp", "gru"] = "mlp"
    """mlp: memoryless; gru: recurrent (set replay.window above 1)."""
    hidden: int = 128
    """Width of every hidden layer."""
    layers: int = 2
    """Hidden layers of the mlp (a gru has one before and none after its cell)."""
    share: bool = True
    """One set of weights with the agent's id as input; off: own weights per agent."""
    layer_norm: bool = True
    """Layer normalisation before each non-linearity (with sampling split, td_lambda and target none this is PQN, arXiv:2407.04811)."""
    encoder: Literal["auto", "flat", "cnn"] = "auto"
    """How observations enter: cnn sends images through three convolutions first; flat never; auto: cnn for images of bytes."""

    def __post_init__(self):
        at_least("network.hidden", self.hidden, 1)
        at_least("network.layers", self.layers, 1)


@dataclass(frozen=True)
class MixerConfig:
    """The centralized mixer (qmix only; vdn and iql have no parameters)."""

    embed_dim: int = 32
    """Width of the mixing layer."""
    hyper_dim: int = 64
    """Hidden width of the hypernetworks."""

    def __post_init__(self):
        at_least("mixer.embed_dim", self.embed_dim, 1)
        at_least("mixer.hyper_dim", self.hyper_dim, 1)


@dataclass(frozen=True)
class CriticConfig:
    """The counterfactual critic Q(s, u): coma learns from it, beside a value learner it evaluates the greedy team (for credit)."""

    kind: Literal["auto", "none", "mlp", "gru"] = "auto"
    """auto: mlp for coma, none for value learners; gru: recurrent (set replay.window above 1)."""
    hidden: int = 128
    """Width of every hidden layer."""
    layers: int = 2
    """Hidden layers after the teammates' actions came in."""
    layer_norm: bool = True
    """Layer normalisation before each non-linearity."""
    target: Literal["one-step", "retrace", "tree-backup"] = "one-step"
    """Returns the critic learns: one-step, or corrected multi-step ones inside a batch (split) or window (set it above 1)."""
    trace_lambda: float = 0.8
    """lambda of retrace and tree-backup."""
    lr: float | None = None
    """Learning rate; unset: learner.lr. It decays as the agents' does (learner.lr_decay)."""

    def __post_init__(self):
        at_least("critic.hidden", self.hidden, 1)
        at_least("critic.layers", self.layers, 1)
        within("critic.trace_lambda", self.trace_lambda, 0, 1)
        if self.lr is not None and self.lr <= 0:
            raise ValueError(f"critic.lr {self.lr} must be above 0")


@dataclass(frozen=True)
class ComaConfig:
    """How coma's policies learn from the critic (coma only)."""

    actions: Literal["stored", "resampled"] = "stored"
    """stored: the actions taken, with the joint ratio pi/mu (with sampling split: COMA itself); resampled: drawn afresh, no ratio."""
    entropy: float = 0.01
    """Weight of the policies' entropy, in the units of reward that are learned from."""
    ess_floor: float = 0.1
    """Least effective sample size of stored actions, as a share of the samples; below it training stops and says so."""

    def __post_init__(self):
        if self.entropy < 0:
            raise ValueError(f"coma.entropy {self.entropy} must be at least 0")
        within("coma.ess_floor", self.ess_floor, 0, 1)


@dataclass(frozen=True)
class LearnerConfig:
    """Targets and the optimiser."""

    gamma: float = 0.95
    """Discount per env step."""
    td_lambda: float = 0.0
    """TD(lambda) returns: 0 is one-step, 1 Monte Carlo up to the end of the batch (split) or window (uniform, gru); not of critics."""
    n_step: int = 1
    """n-step returns; with td_lambda 0 only, and not of critics (critic.target)."""
    double: bool = True
    """Double Q-learning: the live network chooses the next action, the target network values it."""
    target: Literal["hard", "soft", "none"] = "hard"
    """hard: copied every target_every iterations; soft: moved by target_tau each iteration; none: the live network (stop-gradient)."""
    target_every: int = 200
    """Iterations between two hard copies."""
    target_tau: float = 0.01
    """Share of the live network in each soft update."""
    optimiser: Literal["adam", "radam"] = "adam"
    """adam, or rectified adam."""
    lr: float = 5e-4
    """Learning rate."""
    lr_decay: Literal["none", "linear"] = "none"
    """linear: down towards 0 at the last env step."""
    grad_clip: float = 10.0
    """Largest norm of the gradient of one iteration."""
    standardise_rewards: bool = False
    """Divide rewards by their running standard deviation while learning; every value shown is back in raw units."""

    def __post_init__(self):
        within("learner.gamma", self.gamma, 0, 1)
        within("learner.td_lambda", self.td_lambda, 0, 1)
        at_least("learner.n_step", self.n_step, 1)
        at_least("learner.target_every", self.target_every, 1)
        within("learner.target_tau", self.target_tau, 0, 1)
        if self.lr <= 0 or self.grad_clip <= 0:
            raise ValueError(f"learner.lr {self.lr} and learner.grad_clip {self.grad_clip} must be above 0")
        if self.n_step > 1 and self.td_lambda > 0:
            raise ValueError(f"learner.n_step {self.n_step} and learner.td_lambda {self.td_lambda} exclude each other: set one of them")


@dataclass(frozen=True)
class ExplorationConfig:
    """Epsilon-greedy over the available actions (coma: epsilon uniform, else softmax); epsilon falls linearly with env steps."""

    start: float = 1.0
    """Epsilon at the first env step."""
    end: float = 0.05
    """Epsilon after annealing."""
    fraction: float = 0.3
    """Share of the run's env steps over which epsilon falls."""
    probe_share: float = 0.0
    """Share of episodes that are probes: a coalition drawn from the Shapley kernel acts greedily, all others are absent (no-op, random)."""
    probe_ends: float = 0.5
    """Share of the probes in which nobody or everybody is in the coalition, half each."""
    probe_members: Literal["greedy", "active"] = "greedy"
    """What a coalition's members do in a probe; active: the best action other than the no-op, so that whoever joins does something."""

    def __post_init__(self):
        within("exploration.start", self.start, 0, 1)
        within("exploration.end", self.end, 0, 1)
        within("exploration.fraction", self.fraction, 0, 1)
        within("exploration.probe_share", self.probe_share, 0, 1)
        within("exploration.probe_ends", self.probe_ends, 0, 1)


@dataclass(frozen=True)
class ReplayConfig:
    """One round: collect rollout_steps x num_envs joint steps (a batch), then learn from minibatches."""

    rollout_steps: int = 128
    """Time steps per env copy per round."""
    num_envs: int = 1
    """Env copies stepped side by side; the batch is rollout_steps * num_envs."""
    sampling: Literal["split", "uniform"] = "split"
    """split: the fresh batch, shuffled and cut, nothing twice; uniform: over all that is stored, with replacement."""
    minibatch_size: int | Literal["full"] = 32
    """Joint steps in one minibatch, or full: the whole batch (sampling split)."""
    epochs: int = 1
    """Passes over the batch (sampling split)."""
    replay_ratio: float = 1.0
    """Joint steps learned from / collected (sampling uniform)."""
    capacity: int = 100_000
    """Joint transitions kept; the oldest are overwritten."""
    learning_starts: int = 0
    """Env steps before the first iteration (sampling uniform)."""
    window: int = 1
    """Consecutive steps in one sample (recurrent agents, returns inside a window); it divides minibatch_size."""
    burn_in: int = 0
    """Steps before the window that only rebuild the memory."""
    last_minibatch: Literal["error", "keep", "drop", "merge"] = "error"
    """When minibatches do not divide the batch: refuse, keep the short one, drop it, or merge it into the one before."""

    def __post_init__(self):
        for name in ("rollout_steps", "num_envs", "epochs", "capacity", "window"):
            at_least(f"replay.{name}", getattr(self, name), 1)
        for name in ("burn_in", "learning_starts"):
            at_least(f"replay.{name}", getattr(self, name), 0)
        if self.replay_ratio <= 0:
            raise ValueError(f"replay.replay_ratio {self.replay_ratio} must be above 0")
        if self.minibatch_size == "full":
            if self.sampling != "split":
                raise ValueError('replay.minibatch_size "full" needs replay.sampling split: a uniform draw has no full batch')
        else:
            self._check_minibatch(self.minibatch_size)
        if self.rollout_steps % self.window and self.sampling == "split":
            raise ValueError(
                f"replay.window {self.window} does not divide replay.rollout_steps {self.rollout_steps}: "
                "a split batch is cut into whole windows"
            )
        if self.batch > self.capacity:
            raise ValueError(
                f"a batch of {self.batch} (rollout_steps {self.rollout_steps} x num_envs {self.num_envs}) exceeds "
                f"replay.capacity {self.capacity}: raise the capacity or collect less per round"
            )

    def _check_minibatch(self, size: int) -> None:
        at_least("replay.minibatch_size", size, 1)
        if size > self.capacity:
            raise ValueError(
                f"replay.minibatch_size {size} exceeds replay.capacity {self.capacity}: a minibatch is drawn from the replay; "
                "lower it or raise the capacity"
            )
        if size % self.window:
            raise ValueError(f"replay.window {self.window} does not divide replay.minibatch_size {size}: a minibatch holds whole windows")
        slots = self.capacity // self.num_envs
        if self.sampling == "uniform" and self.batch <= self.capacity and (self.window > slots or size > slots * self.num_envs):
            raise ValueError(
                f"replay.capacity {self.capacity} holds {slots} steps of each of the {self.num_envs} copies (replay.num_envs): too few for "
                f"replay.window {self.window} or replay.minibatch_size {size}; raise the capacity"
            )
        if self.sampling == "split" and size > self.batch:
            raise ValueError(
                f"replay.minibatch_size {size} exceeds the batch of {self.batch} (rollout_steps {self.rollout_steps} x num_envs "
                f'{self.num_envs}): lower it, collect more, or use "full"'
            )
        if self.sampling == "split" and self.last_minibatch == "error" and self.batch % size:
            raise ValueError(
                f"replay.minibatch_size {size} does not divide the batch of {self.batch}: choose a divisor, "
                "or replay.last_minibatch keep, drop or merge"
            )

    @property
    def batch(self) -> int:
        """Joint steps collected in one round."""
        return self.rollout_steps * self.num_envs


@dataclass(frozen=True)
class RedistributionConfig:
    """The model behind reward_redistribution; it learns from finished episodes and is never asked for an action."""

    hidden: int = 64
    """Width of its layers."""
    lr: float = 1e-3
    """Its learning rate (Adam)."""
    subset: int = 16
    """rrd: steps of an episode, drawn at random, that stand for all of it in one update (K); shorter episodes enter whole."""
    passes: float = 8.0
    """Times each finished episode is learned from, on average."""
    minibatch_size: int = 64
    """Episodes in one update."""
    episodes: int = 1_000
    """Newest finished episodes that updates draw from."""

    def __post_init__(self):
        for name in ("hidden", "subset", "minibatch_size", "episodes"):
            at_least(f"redistribution.{name}", getattr(self, name), 1)
        for name in ("lr", "passes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"redistribution.{name} {getattr(self, name)} must be above 0")


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation without exploration on seeds of its own, one episode per seed."""

    policy: Literal["auto", "greedy", "sampled"] = "auto"
    """greedy: the best action; sampled: drawn from the policies, as they were trained (coma only); auto: sampled for coma, else greedy."""

    every: int = 0
    """Env steps between two evaluations; 0: a twentieth of the run."""
    episodes: int = 32
    """Episodes of each evaluation during training."""
    final_episodes: int = 100
    """Episodes of the last one."""

    def __post_init__(self):
        at_least("evaluation.every", self.every, 0)
        at_least("evaluation.episodes", self.episodes, 1)
        at_least("evaluation.final_episodes", self.final_episodes, 1)


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved; each evaluation is followed by a checkpoint too."""

    every: int = 0
    """Env steps between two checkpoints; 0: only at evaluations."""
    replay: int = 2
    """The newest this many checkpoints carry the replay; older ones keep the networks only."""

    def __post_init__(self):
        at_least("checkpoint.every", self.every, 0)
        at_least("checkpoint.replay", self.replay, 1)


@dataclass(frozen=True)
class WatchConfig:
    """Watching each agent's credit during training (--watch-credit), from paired episodes without exploration (marl/watch.py)."""

    pairs: int = 8
    """Pairs of episodes per agent and reference at each look."""
    margin: float = 0.25
    """Fraction of an equal share of the team's gain below which an agent does not pull its weight."""
    alpha: float = 0.05
    """Chance of any false "lazy" in the whole run."""
    max_pairs: int = 512
    """Pairs after which a suspicion is given up, undecided."""
    overhead: float = 0.15
    """Largest share of the training's own env steps that the watch may play; two thirds are for looks, the rest is kept for tests."""
    references: tuple[str, ...] = ()
    """What stands in an agent's place: noop, random, or both; unset: both, noop only where every agent has one."""
    on_lazy: Literal["warn", "stop", "intervene"] = "warn"
    """What follows when an agent is found lazy; stop: save and end with exit code 1; intervene: apply the cure to that agent."""
    cure: str = "reset"
    """What intervene does: transplant, reset, counterfactual or diligence (marl/cures.py)."""

    def __post_init__(self):
        at_least("watch.pairs", self.pairs, 2)
        at_least("watch.max_pairs", self.max_pairs, self.pairs)
        for name in ("margin", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"watch.{name} {getattr(self, name)} must lie between 0 and 1")
        if self.overhead <= 0:
            raise ValueError(f"watch.overhead {self.overhead} must be above 0 (0.15: at most 15% more env steps)")
