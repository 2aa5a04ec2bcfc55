"""Who earned what: credit of agents from coalition games and paired episodes, and verdicts about agents that do not pull their weight.

`teamcredit.credit.shapley` is the function; its module has the same name and is reached by `from teamcredit.credit.shapley import ...`.
"""

from .banzhaf import banzhaf
from .base import CachedGame, CoalitionGame, Credit, EpisodeGame, Reference, all_coalitions, without_each
from .classes import CLASSES, LAZY, CloserLook, classify
from .difference import aristocrat_utility, difference_reward, leave_one_out, wonderful_life
from .evidence import confidence_sequence, floor_pairs
from .interactions import Interactions, interactions_at_full_team, interactions_from_values, measure_interactions
from .intervals import mean_interval
from .lazy import find_lazy, floors
from .margin import Margin, measure_margin
from .shapley import banzhaf_from_values, shapley, shapley_from_values
from .switch_off import switch_off_matrix
from .verdict import Verdict
from .words import explain

__all__ = [
    "CLASSES",
    "LAZY",
    "CachedGame",
    "CloserLook",
    "CoalitionGame",
    "Credit",
    "EpisodeGame",
    "Interactions",
    "Margin",
    "Reference",
    "Verdict",
    "all_coalitions",
    "aristocrat_utility",
    "banzhaf",
    "banzhaf_from_values",
    "classify",
    "confidence_sequence",
    "difference_reward",
    "explain",
    "find_lazy",
    "floor_pairs",
    "floors",
    "interactions_at_full_team",
    "interactions_from_values",
    "leave_one_out",
    "mean_interval",
    "measure_interactions",
    "measure_margin",
    "shapley",
    "shapley_from_values",
    "switch_off_matrix",
    "without_each",
    "wonderful_life",
]
