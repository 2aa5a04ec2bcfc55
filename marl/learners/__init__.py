"""Algorithms by name: which learner, with which mixer. Adding one is one file and one line."""

ALGORITHMS: dict[str, tuple[str, str, str]] = {
    "iql": ("value:ValueLearner", "none", "independent Q-learning: every agent learns its own value of the team reward"),
    "vdn": ("value:ValueLearner", "vdn", "value decomposition networks (arXiv:1706.05296)"),
    "qmix": ("value:ValueLearner", "qmix", "monotone value factorisation with a state-made mixer (arXiv:1803.11485)"),
    "coma": (
        "coma:ComaLearner",
        "none",
        "counterfactual policy gradients with a centralized critic, fresh or from the replay (arXiv:1705.08926)",
    ),
}
"""name -> (module:class, mixer, one line for people)."""
