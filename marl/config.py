"""What a run is made of: its own options, and its parts (config_parts.py); the text under a field is its help.

Nothing heavy is imported here, so that `marl --help` answers at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .config_parts import (
    CheckpointConfig,
    ComaConfig,
    CriticConfig,
    EvaluationConfig,
    ExplorationConfig,
    LearnerConfig,
    MixerConfig,
    NetworkConfig,
    RedistributionConfig,
    ReplayConfig,
    WatchConfig,
    at_least,
)


@dataclass(frozen=True)
class Config:
    """A whole run."""

    task: str
    """Task id, or module:function (marl envs list)."""
    algo: str = "qmix"
    """Algorithm (marl algos list)."""
    steps: int = 400_000
    """Env steps of the run."""
    seed: int = 0
    """Seed of everything random in the run."""
    team_reward: Literal["shared", "sum", "mean"] | None = None
    """How the one team reward is formed from the agents' rewards; unset: the task's own choice."""
    agent_reward: Literal["team", "difference", "shapley"] = "team"
    """What independent learners are paid: the team's reward, or their own credit for it, from exact copies of each state (iql)."""
    time_limit: int | None = None
    """Truncate episodes after this many env steps (for tasks that report their own limit as a termination)."""
    members: tuple[str, ...] = ()
    """Planted members, NAME=POLICY (noop, random, a scripted policy of the task, or half- before one): they act so and do not learn."""
    delay_reward: bool = False
    """Pay the whole episode's team reward with its last step (a delayed-reward version of any task)."""
    reward_redistribution: Literal["none", "rrd", "rudder"] = "none"
    """Learn from each episode's return as a learned model spreads it over the steps; they add up to the return exactly."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Capture the loop as compiled graphs (of Python environments the learning alone); needs g++ or clang++; auto: in runs long enough."""
    workers: int = 0
    """Processes that step the copies of a Python environment (MPE2, PettingZoo, your own); 0: in this process. Changes no number."""
    watch_credit: Literal["off", "evaluations"] | int = "off"
    """Watch each agent's credit: off, at each evaluation, or every N env steps; an agent found lazy is reported (watch.on_lazy)."""
    env: dict[str, Any] = field(default_factory=dict)
    """Options of the task itself (--env.NAME VALUE)."""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    mixer: MixerConfig = field(default_factory=MixerConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    coma: ComaConfig = field(default_factory=ComaConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    redistribution: RedistributionConfig = field(default_factory=RedistributionConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)

    def __post_init__(self):
        at_least("steps", self.steps, 0)
        at_least("workers", self.workers, 0)
        refuse_run_options(self.env)
        if self.watch_credit == 0 or (isinstance(self.watch_credit, int) and self.watch_credit < 0):
            raise ValueError(f"watch_credit {self.watch_credit} must be at least 1 env step, or off, or evaluations")
        if self.watch.on_lazy != "warn" and self.watch_credit == "off":
            raise ValueError(f"watch.on_lazy {self.watch.on_lazy} needs somebody who looks: --watch-credit evaluations")
        recurrent, replay, learner = self.network.kind == "gru", self.replay, self.learner
        if recurrent and replay.window == 1:
            raise ValueError(
                "network.kind gru needs replay.window above 1: a recurrent agent learns from consecutive steps (for example --window 8)"
            )
        if replay.burn_in and not recurrent and self.critic.kind != "gru":
            raise ValueError(f"replay.burn_in {replay.burn_in} needs network.kind gru: an mlp has no memory to rebuild")
        self._check_critic()
        self._check_credit()
        if self.acts == "sampled" and self.algo != "coma":
            raise ValueError(f"evaluation.policy sampled needs coma: the utilities of {self.algo} are values, not policies; use greedy")
        if (replay.sampling == "uniform" or recurrent) and replay.window < max(learner.n_step, 2 if learner.td_lambda > 0 else 1):
            raise ValueError(
                f"replay.window {replay.window} is too short for learner.n_step {learner.n_step} and td_lambda {learner.td_lambda}: "
                "uniform samples and recurrent agents compute returns inside their window; raise replay.window"
                + ("" if recurrent else " or use sampling split")
            )

    @property
    def acts(self) -> Literal["greedy", "sampled"]:
        """How the trained team acts when it is evaluated or looked at."""
        if self.evaluation.policy == "auto":
            return "sampled" if self.algo == "coma" else "greedy"
        return self.evaluation.policy

    @property
    def critic_lr(self) -> float:
        """The critic's learning rate: its own, or the agents'."""
        return self.learner.lr if self.critic.lr is None else self.critic.lr

    @property
    def own_critic(self) -> CriticConfig:
        """The critic's options with `auto` decided."""
        auto = "mlp" if self.algo == "coma" else "none"
        return replace(self.critic, kind=auto) if self.critic.kind == "auto" else self.critic

    @property
    def pays_agents(self) -> bool:
        """Whether independent learners learn from rewards of their own (which may be the team's, until an agent is treated)."""
        treated = self.watch.on_lazy == "intervene" and self.watch.cure in ("counterfactual", "diligence") and self.algo == "iql"
        return self.agent_reward != "team" or treated

    def _check_credit(self) -> None:
        if self.agent_reward != "team" and self.reward_redistribution != "none":
            raise ValueError(
                f"agent_reward {self.agent_reward} and reward_redistribution {self.reward_redistribution} exclude each other: one pays "
                "each agent by copies of the step, the other spreads the team's return over the steps; set one of them"
            )
        if self.agent_reward != "team" and self.delay_reward:
            raise ValueError(
                f"agent_reward {self.agent_reward} pays for immediate effects and delay_reward pays at the end alone: set one of them"
            )
        if self.agent_reward != "team" and self.algo != "iql":
            what = "a critic of the team's reward" if self.algo == "coma" else "one value of the whole team"
            raise ValueError(f"agent_reward {self.agent_reward} pays every agent for itself, but {self.algo} learns {what}: use --algo iql")
        if self.exploration.probe_share and self.algo == "coma":
            raise ValueError(
                f"exploration.probe_share {self.exploration.probe_share} is for value learners: coma learns from what its own policies do, "
                "and absent agents do not follow them"
            )

    def _check_critic(self) -> None:
        critic, window = self.own_critic, self.replay.window
        if self.algo == "coma" and critic.kind == "none":
            raise ValueError("coma learns from its critic: critic.kind none is for value learners; use mlp or gru")
        if critic.kind == "gru" and window == 1:
            raise ValueError("critic.kind gru needs replay.window above 1: a recurrent critic learns from consecutive steps (--window 8)")
        windows = self.replay.sampling == "uniform" or "gru" in (critic.kind, self.network.kind)
        if critic.kind != "none" and critic.target != "one-step" and windows and window == 1:
            raise ValueError(
                f"critic.target {critic.target} needs replay.window above 1: uniform samples and recurrent networks compute returns inside "
                "their window (--window 8), or use --critic.target one-step"
            )


def refuse_run_options(env: Iterable[str]) -> None:
    """ValueError for an option among those of a task that is the run's own."""
    for name in ("team_reward", "time_limit", "workers"):
        if name in env:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"env.{name} is an option of the run, not of its task: write {flag} instead of --env.{flag[2:]}")
