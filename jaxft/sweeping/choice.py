"""What a sweep says: recipes ranked by the held-out images, and averages of the best members where these are better."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxft.sweeping.folder import Member
from jaxft.sweeping.series import Trained

TINY = 1e-30
"""Of probabilities, in place of 0."""

Probabilities = Float[np.ndarray, "n k"]


class Ranked(NamedTuple):
    """A recipe over its seeds."""

    recipe: int
    """Its place among the configs."""
    members: Sequence[Member]
    num_epochs: int
    """After which its figures are."""
    accuracy: float
    """0 to 1; the mean over the seeds, on the held-out images."""
    error: float | None
    """The standard error of that mean; None of one seed."""
    loss: float
    """Nats, on the held-out images; NaN where a member diverged."""
    given_up: bool = False
    """Whether it was stopped before its end."""


class Average(NamedTuple):
    """Of the best members: of their weights (a soup) or of their logits (an ensemble)."""

    members: Sequence[Member]
    """Whose, the best first; one alone where no average is better."""
    accuracy: float
    """0 to 1, on the held-out images."""
    loss: float
    """Nats, on the held-out images."""


def rank(members: Sequence[Member], epochs: Sequence[int] | None = None) -> list[Ranked]:
    """The recipes, the best first: those that were trained to the end, by accuracy, then by loss.

    One that diverged with a seed comes after those that did not. `epochs` are those of each config; when None, all have
    as many as the member that was trained for longest.
    """
    by_recipe: dict[int, list[Member]] = {}
    for member in members:
        by_recipe.setdefault(member.recipe, []).append(member)
    longest = max((len(member.epochs) for member in members), default=0)
    ranked = [
        of_recipe(recipe, each, longest if epochs is None else epochs[recipe])
        for recipe, each in sorted(by_recipe.items())
    ]

    def key(one: Ranked) -> tuple[float, ...]:
        sound = math.isfinite(one.loss)
        return (-one.num_epochs if one.given_up else -math.inf, not sound, -one.accuracy, one.loss if sound else 0.0)

    return sorted(ranked, key=key)


def of_recipe(recipe: int, members: Sequence[Member], epochs: int) -> Ranked:
    """The figures of a recipe of so many epochs."""
    last = [member.epochs[-1] for member in members]
    accuracies = np.array([epoch.accuracy for epoch in last])
    error = float(accuracies.std(ddof=1) / math.sqrt(len(last))) if len(last) > 1 else None
    loss = float(np.mean([epoch.loss for epoch in last]))
    num_epochs = len(members[0].epochs)
    return Ranked(recipe, members, num_epochs, float(accuracies.mean()), error, loss, num_epochs < epochs)


def soup(
    best: Sequence[Trained], predict: Callable[[Any], Probabilities], labels: Int[np.ndarray, " n"]
) -> tuple[Average, Any]:
    """The greedy soup of members with one seed, which begin alike, and its variables.

    From the best on, each is added to the mean of the weights where the held-out images are then classified better.
    BatchNorm's statistics are averaged like the weights. Source: Wortsman et al., arXiv:2203.05482.
    """
    mates = [each for each in best if each.member.seed == best[0].member.seed]
    chosen, variables, figures = [mates[0]], mates[0].variables, score(predict(mates[0].variables), labels)
    for mate in mates[1:]:
        added = mean([*(each.variables for each in chosen), mate.variables])
        after = score(predict(added), labels)
        if after > figures:
            chosen, variables, figures = [*chosen, mate], added, after
    return Average([each.member for each in chosen], figures[0], -figures[1]), variables


def ensemble(
    best: Sequence[Trained], predict: Callable[[Any], Probabilities], labels: Int[np.ndarray, " n"]
) -> Average:
    """The greedy ensemble: from the best on, each with whose logits the mean of the logits is better."""
    given = [np.log(np.maximum(predict(each.variables), TINY)) for each in best]  # Logits, less a number an image.

    def of_mean(chosen: Sequence[int]) -> tuple[float, float]:
        raised = np.exp(np.mean([given[i] for i in chosen], 0, dtype=np.float64))
        return score(raised / raised.sum(1, keepdims=True), labels)

    chosen, figures = [0], of_mean([0])
    for i in range(1, len(best)):
        after = of_mean([*chosen, i])
        if after > figures:
            chosen, figures = [*chosen, i], after
    return Average([best[i].member for i in chosen], figures[0], -figures[1])


def mean(trees: Sequence[Any]) -> Any:
    """Leaf by leaf."""
    return jax.tree.map(lambda *leaves: np.mean(np.stack(leaves), 0, dtype=np.float32), *trees)


def score(probabilities: Probabilities, labels: Int[np.ndarray, " n"]) -> tuple[float, float]:
    """Accuracy, and minus the loss in nats: the higher, the better."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float((probabilities.argmax(1) == labels).mean()), float(np.log(np.maximum(own, TINY)).mean())
