"""Credit read from a run's critic, with what speaks for and against believing it.

    D_i(t) = Q_i(u_i) - sum_a rho_i(a) Q_i(a)             one decision against the reference rho_i, teammates' actions given
    credit_i = mean over episodes of the mean of D_i over the agent's decisions

The critic is a model, so its credit never comes alone. Two calibrations (credit/calibration.py): its values against the
returns that followed, and, with forks, the changes it claims for single replaced actions against the real ones.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..credit.base import Credit
from ..credit.calibration import Calibration, calibrate, judge_critic
from ..credit.counterfactual import expected_gradient_weight, reference_advantage
from ..credit.intervals import mean_interval
from ..envs.native import NativeEnv
from .critic_episodes import Record, ValuedTeam, play_on, record, valued_team
from .evaluate import CREDIT_SEEDS, seeds_from
from .exploration import uniform_action
from .learners.critic import mean_over, own
from .references import reference_probabilities
from .run import Run

NATIVE_FORKS = 64
"""Replaced actions per agent where moments can be forked as rows of tensors; elsewhere none unless asked for."""
LUCKS = 8
"""Continuations played of every native fork, where the team draws its actions: what the critic claims is their mean."""
OWN_SHARE = 0.5
"""Largest part of a return that may be the critic's own value of the last view."""
_ESTIMAND = (
    "discounted team return lost, by the critic, when one action of the agent is replaced by the reference and everybody goes on "
    "as trained; mean over the agent's decisions"
)


@dataclass(frozen=True)
class Forks:
    """Single actions replaced by the reference where it acts otherwise, and the rest of the episode played again."""

    calibration: Calibration
    """Claimed losses of discounted return against real ones (up to the episode's end), actions pooled over agents."""
    claimed: Float[Tensor, " agent"]
    """Mean claimed loss per agent; NaN where none of its actions was replaced."""
    real: Float[Tensor, " agent"]
    """Mean real loss from the same replacements."""
    low: Float[Tensor, " agent"]
    """Of its 95% t interval over them (approximate)."""
    high: Float[Tensor, " agent"]
    number: Int[Tensor, " agent"]


@dataclass(frozen=True)
class CriticCredit(Credit):
    """Credit from a critic: NaN for planted members, whom it knows only as part of the environment."""

    returns: Calibration | None
    """Values against discounted returns-to-go; None where no step lies far enough from the time limit."""
    own_share: float
    """Mean part of those returns that is the critic's own value of a truncated episode's last view."""
    forks: Forks | None
    reliable: bool | None
    """None where nothing says so: no forks were made."""
    why: str
    gradient_weight: Float[Tensor, " agent"]
    """E|A_i| of COMA's advantage under the policy that collects. A weight of gradients: E A_i is 0 for everybody, so it is no credit."""


def measure_critic_credit(run: Run, *, reference: str, episodes: int = 64, forks: int | None = None, seed: int = 0) -> CriticCredit:
    """What single decisions are worth by the run's critic (`inspection.measure_credit` with method critic).

    Args:
        run: a run with a critic.
        reference: noop or random; ConfigError where a learning agent's no-op is masked at a decision.
        episodes: to play, with the policy the critic evaluates.
        forks: replaced actions per learning agent; None: NATIVE_FORKS for native tasks, else 0.
        seed: of the choice of forks.
    """
    valued = valued_team(run)
    native = isinstance(valued.env, NativeEnv)
    wanted = (NATIVE_FORKS if native else 0) if forks is None else forks
    played = record(valued, seeds_from(CREDIT_SEEDS, episodes), keep_moments=wanted > 0)
    rho = reference_probabilities(reference, valued.env.spec, played.available, played.decided)
    means = episode_means(reference_advantage(played.rows, rho, played.action), played.decided)
    value, low, high = zip(*(mean_with_interval(of_agent) for of_agent in means.T), strict=True)
    counted = far_from_limit(played, valued.gamma)
    returns, own_share = calibrate_returns(valued, played, counted)
    checked, env_steps = check_forks(valued, played, counted, rho, wanted, seed) if wanted else (None, 0)
    reliable, why = judge_critic(returns, None if checked is None else checked.calibration)
    weight = episode_means(expected_gradient_weight(played.rows, played.weights), played.decided)
    return CriticCredit(
        value=torch.tensor(value, dtype=torch.float64),
        low=torch.tensor(low, dtype=torch.float64),
        high=torch.tensor(high, dtype=torch.float64),
        estimand=_ESTIMAND,
        method=f"critic ({run.config.own_critic.kind}) against the reference",
        reference=reference,
        unit="discounted team return per decision",
        total=math.nan,
        evaluations=0,
        episodes=episodes,
        env_steps=played.env_steps + env_steps,
        resampled=f"{episodes} episodes; t, 95% approximate; the critic's own error is not in it",
        approximate=True,
        returns=returns,
        own_share=own_share,
        forks=checked,
        reliable=reliable,
        why=why,
        gradient_weight=weight.nanmean(0),
    )


def episode_means(
    values: Float[Tensor, "time episode agent"], decided: Bool[Tensor, "time episode agent"]
) -> Float[Tensor, "episode agent"]:
    """The mean over each agent's decisions in each episode; NaN where it made none."""
    return torch.where(decided, values, 0.0).sum(0) / torch.where(decided.any(0), decided.sum(0), torch.nan)


def mean_with_interval(samples: Float[Tensor, " sample"]) -> tuple[float, float, float]:
    """Mean and t interval over the samples (episodes, mostly) that have a value; NaN where there are too few."""
    real = samples[~samples.isnan()]
    if len(real) < 2:
        return float(real.mean()), math.nan, math.nan
    low, high, _ = mean_interval(real)
    return float(real.mean()), float(low), float(high)


def far_from_limit(played: Record, gamma: float) -> Bool[Tensor, " time"]:
    """The steps at which at most OWN_SHARE of a return can lie beyond the time limit: gamma^(limit - t) <= OWN_SHARE.

    They are chosen by t alone. Keeping late steps of those episodes that terminated would choose by outcome.
    """
    time = torch.arange(len(played.reward))
    if not played.truncated.any():
        return torch.ones_like(time, dtype=torch.bool)
    return gamma ** (played.length[played.truncated].min() - time).to(torch.float64) <= OWN_SHARE


def returns_to_go(reward: Float[Tensor, "time episode"], tail: Float[Tensor, " episode"], length: Tensor, gamma: float) -> Tensor:
    """G_t = r_t + gamma G_{t+1} per episode, `tail` standing after its last step; (time, episode)."""
    going, returns = tail, torch.zeros_like(reward)
    for t in reversed(range(len(reward))):
        going = torch.where(t < length, reward[t] + gamma * going, going)
        returns[t] = going
    return returns


def calibrate_returns(valued: ValuedTeam, played: Record, counted: Bool[Tensor, " time"]) -> tuple[Calibration | None, float]:
    """Q(s_t, u_t), the mean of the deciding agents' rows, against G_t; and the mean share of G_t that is the critic's own tail."""
    taken = own(played.rows, played.action)
    real = played.running & played.decided.any(-1) & counted.unsqueeze(1)
    if not real.any():
        return None, math.nan
    actual = returns_to_go(played.reward, played.last_value, played.length, valued.gamma)
    left = played.length - torch.arange(len(actual)).unsqueeze(1)
    share = torch.where(played.truncated, valued.gamma ** left.clamp(min=0).to(torch.float64), 0.0)
    episode = torch.arange(actual.shape[1]).expand_as(actual)
    return calibrate(mean_over(taken, played.decided)[real], actual[real], episode[real]), float(share[real].mean())


def check_forks(
    valued: ValuedTeam, played: Record, counted: Bool[Tensor, " time"], rho: Tensor, wanted: int, seed: int
) -> tuple[Forks | None, int]:
    """Up to `wanted` decisions per agent on which the reference may act otherwise, each replaced by such an action; env steps.

    The real change is of rewards alone, up to the episode's end: no value of the critic enters it. With and without the
    replacement the team draws the same random numbers; of a team that draws its actions LUCKS such pairs are averaged
    (outside native tasks one: its luck then makes the correlation smaller than it is).
    """
    generator = torch.Generator().manual_seed(seed)
    other = (rho > 0).scatter(-1, played.action.unsqueeze(-1), False)
    open_to = other.any(-1) & played.decided & counted[:, None, None]
    chosen = torch.cat([_sample(open_to[..., agent].nonzero(), agent, wanted, generator) for agent in range(open_to.shape[-1])])
    if not len(chosen):
        return None, 0
    time, episode, agent = chosen.unbind(-1)
    replacement = uniform_action(torch.rand(len(chosen), generator=generator), other[time, episode, agent])
    rows, taken = played.rows[time, episode, agent], played.action[time, episode, agent]
    claimed = rows.gather(-1, taken.unsqueeze(-1)).squeeze(-1) - rows.gather(-1, replacement.unsqueeze(-1)).squeeze(-1)
    lucks = range(1, LUCKS + 1) if valued.stochastic and isinstance(valued.env, NativeEnv) else range(1)
    real, env_steps = torch.zeros_like(claimed), 0
    for luck in lucks:
        for action, sign in ((taken, 1), (replacement, -1)):
            returns, steps = play_on(valued, played, time, episode, agent, action, luck=luck)
            real, env_steps = real + sign * returns / len(lucks), env_steps + steps
    agents = range(open_to.shape[-1])
    means = torch.tensor([mean_with_interval(real[agent == which]) for which in agents], dtype=torch.float64)
    checked = Forks(
        calibration=calibrate(claimed, real, episode),
        claimed=torch.stack([claimed[agent == which].mean() for which in agents]),
        real=means[:, 0],
        low=means[:, 1],
        high=means[:, 2],
        number=agent.bincount(minlength=len(agents)),
    )
    return checked, env_steps


def _sample(places: Int[Tensor, "place 2"], agent: int, wanted: int, generator: torch.Generator) -> Int[Tensor, "_ 3"]:
    """At most `wanted` of the (time, episode) places, with the agent behind them."""
    some = places[torch.randperm(len(places), generator=generator)[:wanted]]
    return torch.cat([some, some.new_full((len(some), 1), agent)], -1)
