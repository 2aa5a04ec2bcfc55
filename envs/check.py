"""The contract of `TeamEnv` as a test that users run on their own task: one named sentence per broken rule.

`check_team_env(env)` raises `ContractBroken` with every broken rule; `broken_rules(env)` returns them. A maker of
ParallelEnvs is first played by its own rules (check_parallel.py), then adapted. The rules, each by name:

    spec, shapes, dtypes, finite, available, dead-agents, reward, flags,
    state                                                                 what one step looks like
    after, view-after-reset, freeze, episode-limit, return-range, noop    how episodes go on and end
    determinism, history, beside-others                                   the seed alone decides
    inputs-untouched, select, save                                        states can be kept, forked and stored
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from .base import Step, TeamEnv, TeamSpec, View
from .check_parallel import broken_parallel_rules
from .check_step import Broken, broken_in_play, broken_spec
from .errors import ContractBroken
from .pettingzoo import PettingZooTeam
from .randomness import choice, copy_seeds, fold

_MAX_STEPS, _FEWEST_STEPS = 400, 8
_ROOM = 1_000_000_000
"""Bytes that the views of all plays together may take: those of whole screens fill a machine's memory in 400 steps."""
_COPIES = 3
_KEPT = 4
"""Plays of three copies whose views are held at one time, at the most."""


@dataclass(frozen=True)
class Play:
    """What was seen in a run of random play: the first view, then per env step what it brought and the view to act on."""

    seeds: Tensor
    first: View
    actions: list[Tensor]
    steps: list[Step]
    views: list[View]


def check_team_env(env: Any, *, episodes: int = 3, seed: int = 0) -> None:
    """Raise `ContractBroken` with one sentence for every rule that `env` (or what the maker `env` gives) breaks."""
    broken = broken_rules(env, episodes=episodes, seed=seed)
    if broken:
        raise ContractBroken(broken[0].rule, "\n".join([broken[0].sentence, *(f"{item.rule}: {item.sentence}" for item in broken[1:])]))


def broken_rules(env: Any, *, episodes: int = 3, seed: int = 0) -> list[Broken]:
    """Every rule that `env` breaks in `episodes` episodes of random play (at most `longest_play` env steps), at most one sentence each.

    Args:
        env: a TeamEnv, or a maker (zero arguments) of ParallelEnvs.
        episodes: episodes per copy; three copies are played side by side.
        seed: of the copies and of the random actions.

    Raises:
        UnsupportedTask: the task is sound but cannot be learned here (see errors.py).
    """
    maker = env.maker if isinstance(env, PettingZooTeam) else None if isinstance(env, TeamEnv) else env
    if maker is not None:
        broken = broken_parallel_rules(maker, episodes=episodes, seed=seed)
        if broken:
            return broken  # the adapter would stop at the first of them
        if maker is env:
            env = PettingZooTeam(maker, name=getattr(maker, "__name__", type(maker).__name__))
    found: dict[str, Broken] = {}
    for item in _broken(env, episodes, seed):
        found.setdefault(item.rule, item)
    return list(found.values())


def _broken(env: TeamEnv, episodes: int, seed: int) -> Iterator[Broken]:
    """The rules in order; those that a crash or a malformed step makes untestable are left out."""
    yield from broken_spec(env.spec)
    seeds = copy_seeds(seed, _COPIES)
    try:
        play = play_randomly(env, seeds, episodes, salt=seed)
        malformed = list(broken_in_play(env.spec, play.first, play.actions, play.steps, play.views))
        yield from malformed
        if any(item.rule in ("shapes", "dtypes") for item in malformed):
            return
        yield from _broken_ends(env, play)
        yield from _broken_seeding(env, play, episodes, seed)
        yield from _broken_states(env, play)
    except ContractBroken as error:
        yield Broken(error.rule, error.sentence)


def play_randomly(env: TeamEnv, seeds: Int[Tensor, " env"], episodes: int, *, salt: int = 0) -> Play:
    """Random available actions until every copy has ended `episodes` times, or `longest_play` env steps are played.

    The actions depend on copy seed and step alone, so one copy gets the same ones whatever stands beside it.
    """
    state, view = env.reset(seeds.clone())
    play = Play(seeds=seeds, first=view, actions=[], steps=[], views=[])
    ended = torch.zeros(len(seeds), dtype=torch.int64)
    steps = longest_play(env.spec)
    while bool((ended < episodes).any()) and len(play.steps) < steps:
        action = random_action(seeds, view, len(play.steps), salt)
        state, step, view = env.step(state, action.clone(), autoreset=True)
        play.actions.append(action)
        play.steps.append(step)
        play.views.append(view)
        ended += (step.terminated | step.truncated).cpu().long()
    return play


def longest_play(spec: TeamSpec) -> int:
    """Env steps of one play: 400, fewer where agents see so much that the plays would fill the memory."""
    view = spec.num_agents * spec.obs_dim * spec.obs_dtype.itemsize + 4 * spec.state_dim
    return min(_MAX_STEPS, max(_FEWEST_STEPS, _ROOM // (_KEPT * _COPIES * view)))


def random_action(seeds: Int[Tensor, " env"], view: View, step: int, salt: int) -> Int[Tensor, "env agent"]:
    """One available action per agent, from (copy seed, agent, step) alone."""
    agents = torch.arange(view.available.shape[1])
    return choice(fold(fold(fold(seeds, salt), step).unsqueeze(1), agents), view.available.cpu()).to(view.available.device)


def _broken_ends(env: TeamEnv, play: Play) -> Iterator[Broken]:
    """after, view-after-reset and freeze: the same play once more without automatic reset."""
    state, _ = env.reset(play.seeds.clone())
    done = torch.zeros(len(play.seeds), dtype=torch.bool)
    frozen: dict[int, tuple[Step, int]] = {}
    for t, action in enumerate(play.actions):
        with_reset = play.steps[t]
        state, step, _ = env.step(state, action.clone(), autoreset=False)
        for row in (~done).nonzero().flatten().tolist():
            what = difference(step.after, with_reset.after, row, row)
            if what:
                yield Broken(
                    "after",
                    f"`Step.after` of copy {row} at step {t + 1} shows other {what} with automatic reset than without",
                )
        for row, (last, since) in frozen.items():
            if step.reward[row] != 0 or not _same_flags(step, last, row) or difference(step.after, last.after, row, row):
                yield Broken("freeze", f"copy {row} ended at step {since} and still changes at step {t + 1} with autoreset=False")
        ends = (step.terminated | step.truncated).cpu()
        for row in (ends & ~done).nonzero().flatten().tolist():
            frozen[row] = (step, t + 1)
        done |= ends
        if bool(done.all()) and t > max(since for _, since in frozen.values()) + 1:
            break
    if not bool(done.any()):
        return
    # A view that merely repeats `after` was not reset, unless the task looks the same at its start and at its end.
    ends = [(t, row) for t, step in enumerate(play.steps) for row in (step.terminated | step.truncated).nonzero().flatten().tolist()]
    repeated = all(not difference(play.views[t], play.steps[t].after, row, row) for t, row in ends)
    looks_like_start = any(not difference(play.first, play.steps[t].after, start, row) for t, row in ends for start in range(len(done)))
    if repeated and not looks_like_start:
        yield Broken("view-after-reset", "the View returned with the end of an episode repeats `Step.after`; it must show the next one")
    for t, step in enumerate(play.steps):
        running = ~(step.terminated | step.truncated)
        for row in running.nonzero().flatten().tolist():
            if what := difference(play.views[t], step.after, row, row):
                yield Broken("view-after-reset", f"the View of running copy {row} at step {t + 1} has other {what} than `Step.after`")


def _broken_seeding(env: TeamEnv, play: Play, episodes: int, seed: int) -> Iterator[Broken]:
    """determinism, history, beside-others: play again at once, after other episodes, and each copy alone."""
    hint = " (if its reset does not forget: PettingZooTeam(..., reuse=False))" if isinstance(env, PettingZooTeam) else ""
    again = play_randomly(env, play.seeds, episodes, salt=seed)
    if where := first_difference(play, again):
        yield Broken("determinism", f"the same seeds and actions give another episode: {where}{hint}")
        return
    play_randomly(env, copy_seeds(seed + 1, 2), 1, salt=seed + 1)
    env_later = play_randomly(env, play.seeds, episodes, salt=seed)
    if where := first_difference(play, env_later):
        yield Broken("history", f"after other episodes were played, the same seeds give another episode: {where}{hint}")
        return
    for row in range(len(play.seeds)):
        alone = play_randomly(env, play.seeds[row : row + 1], episodes, salt=seed)
        if where := first_difference(play, alone, row):
            yield Broken("beside-others", f"copy {row} alone is not the copy it is beside others: {where}")
            return


def _broken_states(env: TeamEnv, play: Play) -> Iterator[Broken]:
    """inputs-untouched, select, save: stop in the middle of an episode, fork and store, and look at the future."""
    state, view = env.reset(play.seeds.clone())
    kept, middle = [(view, copy_view(view))], max(1, min(len(play.steps) // 2, 10))
    for t in range(middle):
        action = play.actions[t].clone()
        state, step, view = env.step(state, action)
        kept += [(view, copy_view(view)), (step.after, copy_view(step.after))]
        if not torch.equal(action, play.actions[t]):
            yield Broken("inputs-untouched", f"step {t + 1} writes into its action tensor")
    rows = torch.tensor([2, 0, 0, 1])
    forks, saved = _attempt("select", lambda: env.select(state, rows)), env.dump(state)
    for t in range(middle, len(play.steps)):
        state, step, view = env.step(state, play.actions[t].clone())
        kept.append((view, copy_view(view)))
    if any(difference(now, then, row, row) for now, then in kept for row in range(len(play.seeds))):
        yield Broken("inputs-untouched", "a later step writes into a View that was returned before")
    loaded = _attempt("save", lambda: env.load(saved))
    for rule, again, of in (("select", forks, rows), ("save", loaded, torch.arange(3))):
        if isinstance(again, Broken):
            yield again
        else:
            yield from _broken_future(env, rule, again, play, middle, of)


def _attempt(rule: str, get: Callable[[], Any]) -> Any:
    """The state, or the broken rule where the environment says that it cannot be had."""
    try:
        return get()
    except ContractBroken:
        raise
    except ValueError as error:
        return Broken(rule, str(error))


def _broken_future(env: TeamEnv, rule: str, state: Any, play: Play, start: int, rows: Tensor) -> Iterator[Broken]:
    """`state` holds the play's copies `rows` before step `start`; they must go on as the play did."""
    for t in range(start, len(play.steps)):
        state, step, view = env.step(state, play.actions[t][rows])
        for new, old in enumerate(rows.tolist()):
            what = difference(step.after, play.steps[t].after, new, old) or difference(view, play.views[t], new, old)
            if what or step.reward[new] != play.steps[t].reward[old] or not _same_flags(step, play.steps[t], new, old):
                names = {"select": "a selected copy", "save": "a copy that was dumped and loaded"}
                yield Broken(rule, f"{names[rule]} has another future: other {what or 'reward or end'} {t + 1 - start} steps later")
                return


def _same_flags(one: Step, other: Step, row: int, other_row: int | None = None) -> bool:
    old = row if other_row is None else other_row
    return bool(one.terminated[row] == other.terminated[old]) and bool(one.truncated[row] == other.truncated[old])


def copy_view(view: View) -> View:
    return View(view.obs.clone(), view.state.clone(), view.available.clone(), view.alive.clone())


def difference(one: View, other: View, row: int, other_row: int) -> str:
    """What differs between two rows of two views, '' if nothing does."""
    for what in ("obs", "state", "available", "alive"):
        if not torch.equal(getattr(one, what)[row], getattr(other, what)[other_row]):
            return what
    return ""


def first_difference(one: Play, other: Play, row: int | None = None) -> str:
    """Where two plays part, '' if nowhere; with `row`, `other` holds that one copy alone."""
    pairs = [(row, 0)] if row is not None else [(r, r) for r in range(len(one.seeds))]
    for r, s in pairs:
        if what := difference(one.first, other.first, r, s):
            return f"copy {r} starts with other {what}"
        for t, (step, step2) in enumerate(zip(one.steps, other.steps, strict=False)):
            if what := difference(step.after, step2.after, r, s) or difference(one.views[t], other.views[t], r, s):
                return f"copy {r} sees other {what} at step {t + 1}"
            if step.reward[r] != step2.reward[s] or not _same_flags(step, step2, r, s):
                return f"copy {r} is paid differently or ends differently at step {t + 1}"
    return ""
