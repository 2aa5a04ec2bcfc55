"""A verdict in one sentence, for a reader outside statistics."""

from collections.abc import Sequence

from .classes import CLASSES, LAZY
from .verdict import Verdict


def explain(verdict: Verdict) -> str:
    """One sentence: what was found, in team return per episode, and on how many pairs of episodes."""
    name, about = verdict.name, " (approximately: the range of returns is unknown)" if verdict.approximate else ""
    if not verdict.references:
        return f"{name} was not judged: {verdict.note}."
    if verdict.verdict == "not-assessed":
        return f"{name} was not judged: it {CLASSES['not-assessed']} ({verdict.has_choice or 0:.0%} of the steps)."
    best = max(range(len(verdict.effect)), key=lambda k: verdict.e_above[k])
    idle = [
        k for k, reference in enumerate(verdict.references) if reference == "noop"
    ]  # harm is claimed against doing nothing, if it can be
    worst = min(idle or range(len(verdict.effect)), key=lambda k: verdict.effect[k])
    on = f"measured over {verdict.episodes} pairs of episodes"
    if verdict.verdict == "harmful":
        return f"{name} harms the team{about}: {_gain(verdict, worst)}; {on}."
    if verdict.verdict == "guard":
        return (
            f"{name} hardly ever acts ({verdict.effort or 0:.0%} of its choices are actions) and is needed for that{about}: "
            f"{_loss(verdict, best)}, more than the margin of {verdict.delta[best]:.3g}{_but_better(verdict)}."
        )
    if verdict.verdict == "contributing":
        return (
            f"{name} contributes{about}: {_loss(verdict, best)}, more than the margin of {verdict.delta[best]:.3g}{_but_better(verdict)}."
        )
    if verdict.verdict == "undecided":
        return f"{name} cannot be judged yet{about}: {_loss(verdict, best)}; {verdict.note}."
    small = f"{_losses(verdict)} an episode (margin {max(verdict.delta):.3g})"
    if verdict.verdict == "redundant":
        return f"{name} is redundant rather than lazy{about}: {small}, but {_part(verdict)}; {on}."
    if verdict.verdict == "not-needed":
        return f"{name} is not needed{about}: {small}, and nobody tried in its place makes the team better by that; {on}."
    return _lazy(verdict, small, about, on)


def _lazy(verdict: Verdict, small: str, about: str, on: str) -> str:
    assert verdict.verdict in LAZY, verdict.verdict
    busy = verdict.verdict == "lazy-busy"
    habit = "acts" if busy else "hardly ever acts"
    acts = habit if verdict.effort is None else f"{habit} ({100 * verdict.effort:.0f}% of its choices are actions)"
    same = [f'"{name}"' for name, identical in zip(verdict.references, verdict.identical, strict=True) if identical]
    alike = f"; in every step seen it did just what {_list(same)} would do" if same else ""
    look = verdict.look
    could = "" if look is None or look.headroom is None else f"; with {look.stand_in} in its place the team gains {look.headroom:.3g}"
    rides = "; it gains by letting its teammates work" if verdict.verdict == "free-rider" else ""
    return f"{verdict.name} does not earn its place{about}: it {acts}, {'but' if busy else 'and'} {small}{could}{rides}; {on}{alike}."


def _losses(verdict: Verdict) -> str:
    """What the team loses under each reference, of what it gains over it."""
    gains = verdict.gain or (None,) * len(verdict.effect)
    parts = [
        f'by "{name}" the team loses {effect:.2g}{"" if gain is None else f" of {gain:.3g}"}'
        for name, effect, gain in zip(verdict.references, verdict.effect, gains, strict=True)
    ]
    return f"replaced {_list(parts, 'and')}"


def _loss(verdict: Verdict, k: int) -> str:
    """What the team loses under reference k."""
    loss = f"{verdict.effect[k]:.3g} (between {verdict.low[k]:.3g} and {verdict.high[k]:.3g})"
    return f'with "{verdict.references[k]}" in its place the team loses about {loss} an episode'


def _but_better(verdict: Verdict) -> str:
    """That a reference does better than an agent which earns its place under another: no reason to call it lazy, but worth knowing."""
    worst = min(range(len(verdict.effect)), key=lambda k: verdict.high[k])
    return f"; yet {_gain(verdict, worst)}" if verdict.high[worst] < 0 else ""


def _gain(verdict: Verdict, k: int) -> str:
    """What the team gains under reference k."""
    gain = f"{-verdict.effect[k]:.3g} (between {-verdict.high[k]:.3g} and {-verdict.low[k]:.3g})"
    return f'with "{verdict.references[k]}" in its place the team gains about {gain} an episode'


def _part(verdict: Verdict) -> str:
    look = verdict.look
    assert look is not None
    if look.substitutes:
        return f"{_list(look.substitutes, 'and')} can do its part"
    share = max(value for value in look.share if value is not None)
    return f"its Shapley value is about {share:.3g}: teammates can do its part"


def _list(items: Sequence[str], word: str = "or") -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + f" {word} " + items[-1]
