"""The estimators of `marl bench credit`: ours with what they claim, and those known to be wrong as warnings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ...credit import estimators, known_wrong
from ...credit.benchmark import Estimate, Truth
from ...credit.benchmark_steps import StepsEstimate, exact_matrix, played_matrix, reward_shared, spread_evenly
from . import credit_learned

Kind = Literal["ours", "warning", "learned", "yours"]
Claim = Literal["exact", "unbiased", "null", "efficient", "covers", "covers at least"]


@dataclass(frozen=True)
class Entry:
    """A line of the table."""

    name: str
    estimate: Estimate
    kind: Kind
    note: str
    """What it computes, in words."""
    against: tuple[Truth, ...] = ("shapley",)
    """The truths it is shown beside; its own first, which its claims are about."""
    claims: tuple[Claim, ...] = ()
    draws: bool = True
    """False: without noise in v the same seed or another gives the same numbers."""
    intervals: bool = False
    slow: bool = False
    """Takes a second an estimate: fewer problems and repetitions."""


_UNBIASED: tuple[Claim, ...] = ("unbiased", "null")
_OURS = "ours"

ENTRIES: tuple[Entry, ...] = (
    Entry("Shapley, all coalitions", estimators.exact, _OURS, "exact", claims=("exact", "unbiased", "covers"), draws=False, intervals=True),
    Entry("Shapley, rings", estimators.sampled("rings"), _OURS, "the default way to sample",
          claims=(*_UNBIASED, "efficient", "covers"), intervals=True),
    Entry("Shapley, cyclic", estimators.sampled("cyclic"), _OURS, "an order and its shifts",
          claims=(*_UNBIASED, "efficient", "covers"), intervals=True),
    Entry("Shapley, stratified", estimators.sampled("stratified"), _OURS, "every size once", claims=(*_UNBIASED, "covers"), intervals=True),
    Entry("Shapley, plain orders", estimators.sampled("plain"), _OURS, "random orders",
          claims=(*_UNBIASED, "efficient", "covers at least"), intervals=True),
    Entry("Shapley, antithetic", estimators.sampled("antithetic"), _OURS, "an order and its reverse",
          claims=(*_UNBIASED, "efficient", "covers at least"), intervals=True),
    Entry("leave-one-out", estimators.alone, _OURS, "another estimand: what is lost without one agent; it need not add up",
          ("leave_one_out", "shapley"), claims=("exact", "unbiased", "covers at least"), draws=False, intervals=True),
    Entry("Banzhaf, all coalitions", estimators.banzhaf, _OURS, "another index: all coalitions count alike; it need not add up",
          ("banzhaf", "shapley"), claims=("exact", "unbiased"), draws=False),
    Entry("uniform coalitions", known_wrong.uniform_coalitions, "warning", "called Shapley, is Banzhaf"),
    Entry("inverse order", known_wrong.inverse_order, "warning", "gains handed to other agents than earned them"),
    Entry("VDN fit, uniform play", known_wrong.additive_fit, "warning", "least squares; is Banzhaf"),
    Entry("action counts", known_wrong.action_counts, "warning", "who moved, not who earned", draws=False),
    Entry("mean COMA advantage", known_wrong.mean_advantage, "warning", "0 by construction", draws=False),
    Entry("QMIX gradients", credit_learned.mixer_gradients, "warning", "dQ_tot/dQ_i of a QMIX fitted to the game", slow=True),
    Entry("Shapley of a fitted QMIX", credit_learned.mixer_shapley, "learned", "exact for what it learned, which need not be v", slow=True),
)  # fmt: skip


@dataclass(frozen=True)
class StepsEntry:
    """A line about credit of agents at steps."""

    name: str
    estimate: StepsEstimate
    kind: Kind
    note: str
    claims: tuple[Claim, ...] = ()
    draws: bool = False


STEPS: tuple[StepsEntry, ...] = (
    StepsEntry("switch-off matrix", exact_matrix, "ours", "of the true values", ("exact",)),
    StepsEntry("switch-off matrix, 64 playouts", played_matrix, "ours", "of values as playouts give them", ("unbiased",), draws=True),
    StepsEntry("reward in equal parts", reward_shared, "warning", "when it was paid, not who earned it when"),
    StepsEntry("Shapley value over all steps", spread_evenly, "warning", "who earned it, not when"),
)


def yours(name: str, estimate: Callable) -> Entry:
    """A user's estimator: scored against the Shapley value, with no target to meet."""
    return Entry(name, estimate, "yours", "your estimator", intervals=True)
