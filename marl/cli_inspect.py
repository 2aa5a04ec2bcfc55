"""Commands that look at a trained team: its return, what each agent earned, who does not pull its weight."""

from typing import Annotated

from cyclopts import Parameter

from .cli_errors import NO, OK
from .cli_options import NO_COMMON, CommonOptions, Method, Output, Reference, parse_numbers


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
    reference: Annotated[tuple[Reference, ...] | None, Parameter(consume_multiple=True)] = None,
    episodes: int = 64,
    seed: int = 0,
    forks: int | None = None,
    common: CommonOptions = NO_COMMON,
    screen: Output,
) -> int:
    """Measure what each agent earns for the team, with 95% intervals.

    Parameters
    ----------
    run
        Run folder, name, or last; @best or @ENV_STEPS picks a checkpoint.
    method
        shapley: an agent's average contribution over all orders of joining; difference: what is lost without it alone;
        critic: what its single decisions are worth by the run's own critic (coma, or trained with --critic.kind mlp), and whether
        that critic is to be believed.
    reference
        What an absent agent does: noop (nothing) or random. Default: noop where every agent can do nothing, else random.
    episodes
        Episodes, each played once for every set of agents present (critic: once).
    seed
        Of the sampled orders (teams above five agents), and of the forks.
    forks
        critic: single actions, per agent, that are replaced and played on to test the critic. Default: 64 on native tasks, else 0.
    """
    from .cli_train import set_threads

    set_threads(common.threads)
    from .cli_findings import credit_text, estimate_document, keep
    from .inspection import check_credit, default_references, measure_credit
    from .run import load

    opened = load(run)
    references = reference or default_references(opened.env.spec)[:1]
    check_credit(opened, method, references, episodes, forks)
    estimates = []
    for other in references:
        for one in method:
            of_critic = forks if one == "critic" else None
            found = measure_credit(opened, method=one, reference=other, episodes=episodes, seed=seed, forks=of_critic)
            estimates.append(estimate_document(opened, one, found))
    for estimate in estimates:
        name = f"{estimate['method']}-{estimate['reference']}"
        screen.say(f"stored {keep(opened, name, estimate)}")
    screen.result(credit_text(opened, estimates))
    screen.document({"run": str(opened.folder), "estimates": estimates})
    return OK


def lazy(
    run: str,
    /,
    *,
    margin: float = 0.25,
    reference: Annotated[tuple[Reference, ...] | None, Parameter(consume_multiple=True)] = None,
    max_pairs: int = 512,
    seed: int = 0,
    check: bool = False,
    strict: bool = False,
    common: CommonOptions = NO_COMMON,
    screen: Output,
) -> int:
    """Find the agents that do not pull their weight: contributing, lazy-idle, lazy-busy or undecided.

    Parameters
    ----------
    run
        Run folder, name, or last; @best or @ENV_STEPS picks a checkpoint.
    margin
        How little is too little, as a fraction of an equal share of what the team gains.
    reference
        What stands in for an agent: noop, random. Lazy needs evidence under each. Default: all that the task allows.
    max_pairs
        Pairs of episodes per agent after which the rest stay undecided.
    seed
        Another number (0 to 99), other episodes.
    check
        Exit with 1 when an agent is lazy.
    strict
        With --check: exit with 1 also when an agent is undecided.
    """
    from .cli_train import set_threads

    set_threads(common.threads)
    from .cli_findings import keep, lazy_document, lazy_names, lazy_text
    from .inspection import find_lazy
    from .run import load

    opened = load(run)
    report = find_lazy(opened, margin=margin, references=reference, max_pairs=max_pairs, seed=seed, on_progress=screen.say)
    document = lazy_document(opened, report)
    screen.say(f"stored {keep(opened, 'lazy', document)}")
    screen.result(lazy_text(opened, document))
    screen.document(document)
    found, undecided = lazy_names(document), lazy_names(document, undecided=True)
    if check and undecided:
        screen.say(f"warning: undecided: {', '.join(undecided)}" + ("" if strict else " (--strict counts that as a failure)"))
    return NO if check and (found or (strict and undecided)) else OK
