"""What a run with a registered policy loss trains on, per token: the loss, its masks, the KL term.

Everything that holds for all policy losses alike is here, in TRL's order: the off-policy mask, the
mask of high entropy, the correction for the engine that sampled, the KL term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trl_deepseek.policy import kl
from trl_deepseek.policy.bound import BoundPolicyLoss
from trl_deepseek.policy.parts import off_policy_mask
from trl_deepseek.policy_types import TokenLogps

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """A policy loss, and what is added to it.

    Attributes:
        loss: Bound to its options.
        beta: What the KL term counts; 0 for none.
        estimator: Of the KL term, one of :data:`trl_deepseek.policy_types.ESTIMATORS`.
        penalises: Whether the KL term is part of the loss; else it is only reported.
        threshold: Of the off-policy mask, where that is not the loss's own; None for none.
    """

    loss: BoundPolicyLoss
    beta: float = 0.0
    estimator: str = "k3"
    penalises: bool = True
    threshold: float | None = None

    @property
    def reduction(self) -> str:
        """How its values become one number."""
        return self.loss.loss.reduction

    def __call__(
        self, tokens: TokenLogps, high_entropy: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective per token, (B, T), and metrics, ``kl`` among them.

        Args:
            tokens: Of B completions.
            high_entropy: 1 at the tokens that alone are trained on, (B, T); None for all.
        """
        values, metrics = self.loss(tokens)
        if self.threshold is not None:
            values = values * off_policy_mask(tokens, self.threshold)
        if high_entropy is not None:
            values = values * high_entropy
        if tokens.importance is not None and not self.loss.loss.owns_importance:
            values = values * tokens.importance
        if self.beta:
            level = self.loss.options.get("importance_sampling_level", "token")
            divergence = kl.estimate(self.estimator, tokens, level)
            metrics = {**metrics, "kl": divergence.detach()}
            if self.penalises:
                values = values + self.beta * divergence
        return values, metrics
