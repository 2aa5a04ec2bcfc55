"""Commands that look at a trained team: its return, what each agent earned, who does not pull its weight."""

from typing import Annotated, Any

from cyclopts import Parameter

from .cli_errors import NO, OK
from .cli_options import NO_COMMON, CommonOptions, Method, Output, parse_numbers
from .cli_readouts import NO_OPTIONS, READOUTS, AllReadoutOptions, Asked, refuse_stray_options
from .errors import ConfigError


def file_name(reference: str) -> str:
    """A reference's name as part of a file's name."""
    return reference.replace("/", "-").replace(":", "-")


def evaluate_run(
    run: str,
    /,
    *,
    episodes: int = 100,
    seeds: str | None = None,
    on: str | None = None,
    common: CommonOptions = NO_COMMON,
    screen: Output,
) -> int:
    """Play episodes without exploration and report the team's return.

    Parameters
    ----------
    run
        Run folder, name, or last; @best or @ENV_STEPS picks a checkpoint.
    episodes
        Episodes, one per seed.
    seeds
        The episodes' seeds instead: 1000-1009.
    on
        Another task with the same observations and actions to play on: lbf/8x8-2p-3f for a team of native/foraging-8x8-2p-3f.
    """
    from .cli_train import set_threads

    set_threads(common.threads)
    from .cli_findings import evaluation_document, evaluation_text
    from .evaluate import evaluate
    from .run import load

    opened = load(run)
    numbers = None if seeds is None else parse_numbers(seeds, "--seeds")
    document = evaluation_document(opened, evaluate(opened, episodes=episodes, seeds=numbers, on=on))
    document |= {} if on is None else {"on": on}
    screen.say(f"{opened.folder} at {opened.env_steps:,} env steps" + ("" if on is None else f", played on {on}"))
    screen.result(evaluation_text(document))
    screen.document(document)
    return OK


def credit(
    run: str,
    /,
    *,
    method: Annotated[tuple[Method, ...], Parameter(consume_multiple=True)] = ("shapley", "difference"),
    reference: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True)] = None,
    episodes: int | None = None,
    seed: int = 0,
    from_step: int = 0,
    forks: int | None = None,
    readout: AllReadoutOptions = NO_OPTIONS,
    common: CommonOptions = NO_COMMON,
    screen: Output,
) -> int:
    """Measure what each agent earns for the team, with 95% intervals, in several ways that can be compared.

    Parameters
    ----------
    run
        Run folder, name, or last; @best or @ENV_STEPS picks a checkpoint.
    method
        Played: shapley: an agent's average contribution over all orders of joining; difference: what is lost without it alone; banzhaf:
        its contribution averaged over all sets of teammates; interactions: of every pair; switch-off: of every step and agent.
        Learned: critic: single decisions by the run's own critic (coma, or trained with --critic.kind mlp), and whether that critic is to
        be believed; mixer, mixer-ig: the same by the run's own mixer (vdn, qmix); temporal: which steps earned a
        delayed reward, by a model of returns; inputs: which inputs an agent's decisions hang on.
    reference
        What an absent agent does: noop, random, average, peer:AGENT, RUN@ENV_STEPS (@ENV_STEPS: of this run). Default: noop where every
        agent can do nothing, else random.
    episodes
        Episodes, each played once for every set of agents present. Default: 64 (switch-off: 4, temporal and inputs: 16).
    seed
        Of the sampled orders (teams above five agents), and of the forks.
    from_step
        shapley, difference, banzhaf: agents are absent from this step of each episode on.
    forks
        critic: single actions, per agent, that are replaced and played on to test the critic. Default: 64 on native tasks, else 0.
    """
    from .cli_train import set_threads

    set_threads(common.threads)
    from .cli_findings import comparison_document, credit_text, estimate_document, keep
    from .inspection import EPISODE_METHODS, check_credit, measure_credit
    from .references import default_references, make_reference
    from .run import load

    opened = load(run)
    names = reference or default_references(opened.env.spec)[:1]
    figures, readouts = [one for one in method if one not in READOUTS], [one for one in method if one in READOUTS]
    if from_step and readouts:
        raise ConfigError(f"--from-step {from_step} is for {', '.join(EPISODE_METHODS)}; {', '.join(readouts)} would ignore it")
    if figures or forks is not None:
        check_credit(opened, figures, names, 64 if episodes is None else episodes, forks, from_step)
    refuse_stray_options(method, readout)
    wanted = [
        (one, Asked(name, episodes, seed, readout)) for one in readouts for name in (names if READOUTS[one].per_reference else names[:1])
    ]
    for one, asked in wanted:
        READOUTS[one].check(opened, asked)
    played = any(one in EPISODE_METHODS for one in figures)
    stands = {name: make_reference(name, opened) for name in names} if played else {}
    estimates, found, done = [], [], []
    for name in names:
        for one in figures:
            is_played = one in EPISODE_METHODS
            options: dict[str, Any] = {"forks": forks} if one == "critic" else {"from_step": from_step} if is_played else {}
            of = stands[name] if is_played else name
            found.append(measure_credit(opened, method=one, reference=of, episodes=episodes or 64, seed=seed, **options))
            done.append(one)
            later = {"from_step": from_step} if from_step else {}
            estimates.append(estimate_document(opened, one, found[-1]) | later)
    for estimate in estimates:
        later = f"-from_{from_step}" if from_step else ""
        stored = keep(opened, f"{estimate['method']}-{file_name(estimate['reference'])}{later}", estimate)
        screen.say(f"stored {stored}")
    document: dict[str, Any] = {"run": str(opened.folder), "estimates": estimates}
    if estimates:
        comparison = comparison_document(opened, done, found)
        document |= comparison
        screen.result(credit_text(opened, estimates, comparison))
    for one, asked in wanted:
        shown = READOUTS[one].document(opened, asked)
        stored = keep(opened, f"{one}-{file_name(asked.reference)}" if READOUTS[one].per_reference else one, shown)
        screen.say(f"stored {stored}")
        document.setdefault("readouts", []).append({"method": one, **shown})
        screen.result(READOUTS[one].text(shown))
    screen.document(document)
    return OK


def lazy(
    run: str,
    /,
    *,
    margin: float = 0.25,
    reference: Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True)] = None,
    max_pairs: int = 512,
    margin_episodes: int = 256,
    seed: int = 0,
    return_range: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    no_look: bool = False,
    best_response: int = 0,
    check: bool = False,
    strict: bool = False,
    common: CommonOptions = NO_COMMON,
    screen: Output,
) -> int:
    """Find the agents that do not earn their place, and tell them from redundant, guarding, harmful and unneeded ones.

    Parameters
    ----------
    run
        Run folder, name, or last; @best or @ENV_STEPS picks a checkpoint.
    margin
        How little is too little, as a fraction of an equal share of what the team gains.
    reference
        What stands in for an agent: noop, random, average, peer:AGENT, RUN@ENV_STEPS. Lazy needs evidence under each. Default: noop
        (where every agent can do nothing) and random.
    max_pairs
        Pairs of episodes per agent after which the rest stay undecided.
    margin_episodes
        Episodes on which the team's gain is measured first; up to four times as many where it is not shown at once.
    seed
        Another number (0 to 99), other episodes.
    return_range
        LO,HI: the lowest and highest possible team return of an episode, where the task declares none: verdicts are approximate without.
    no_look
        No closer look at agents of small effect (Shapley values, substitutes, whether another policy in their place does better): cheaper,
        but then lazy may mean redundant or not needed.
    best_response
        Env steps to train a policy for each such agent beside its teammates, and try it in its place. 0: none.
    check
        Exit with 1 when an agent is lazy.
    strict
        With --check: exit with 1 also when an agent is undecided.
    """
    from .cli_train import set_threads

    set_threads(common.threads)
    from .cli_findings import keep
    from .cli_lazy import lazy_document, lazy_names, lazy_text, parse_range
    from .laziness import find_lazy
    from .run import load

    opened = load(run)
    report = find_lazy(
        opened,
        margin=margin,
        references=reference,
        max_pairs=max_pairs,
        margin_episodes=margin_episodes,
        seed=seed,
        return_range=parse_range(return_range),
        best_response=best_response,
        look=not no_look,
        on_progress=screen.say,
    )
    document = lazy_document(opened, report)
    screen.say(f"stored {keep(opened, 'lazy', document)}")
    screen.result(lazy_text(opened, document))
    screen.document(document)
    found, undecided = lazy_names(document), lazy_names(document, undecided=True)
    if check and undecided:
        screen.say(f"warning: undecided: {', '.join(undecided)}" + ("" if strict else " (--strict counts that as a failure)"))
    return NO if check and (found or (strict and undecided)) else OK
