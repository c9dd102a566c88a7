"""What crosses GRPO's two hooks: policy losses with the token log-probs they see, and advantages.

Shape letters as in :mod:`trl_deepseek.types`: B completions, T tokens, G completions per prompt.
This module must stay importable without torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

REDUCTIONS = ("sequence_mean", "sequence_sum", "token_mean", "constant", "global_tokens")
ESTIMATORS = ("k1", "k2", "k3", "unbiased")
# What an advantage is handed if its signature asks for it.
CONTEXT = ("lengths", "prompt_ids", "step")


@dataclass(frozen=True)
class TokenLogps:
    """What a policy loss sees of B completions of up to T tokens. Log-probs are in nats.

    Attributes:
        logps: The policy's, (B, T), with gradient.
        old: At generation time, (B, T), no gradient; equals ``logps.detach()`` where no update has
            been made since.
        ref: The reference model's, (B, T); None when beta is 0.
        sampled: As the engine that sampled reports them (vLLM), (B, T), NaN where it has none; None
            where the policy itself sampled.
        advantages: (B,) or (B, T).
        mask: Scored tokens, (B, T) bool; what a loss returns elsewhere is not used.
        importance: What corrects for the engine that sampled, old to sampled, truncated or masked
            as ``vllm_importance_sampling_mode`` says, (B, T) or (B, 1); None without. The trainer
            multiplies the loss with it, unless the loss is registered ``owns_importance=True``.
    """

    logps: Tensor
    old: Tensor
    ref: Tensor | None
    sampled: Tensor | None
    advantages: Tensor
    mask: Tensor
    importance: Tensor | None = None

    @property
    def advantage(self) -> Tensor:
        """The advantages as something to multiply (B, T) with: (B, 1) or (B, T)."""
        return self.advantages.unsqueeze(1) if self.advantages.dim() == 1 else self.advantages

    @property
    def lengths(self) -> Tensor:
        """Scored tokens of each completion, (B, 1), at least 1."""
        return self.mask.sum(dim=1, keepdim=True).clamp(min=1)

    @property
    def log_ratio(self) -> Tensor:
        """Log-ratio of the policy to that of generation time, per token, (B, T)."""
        return self.logps - self.old

    def ratio(self, level: str = "token") -> Tensor:
        """Ratio of the policy to that of generation time.

        Args:
            level: ``token``, (B, T); or ``sequence``, (B, 1), the geometric mean over a completion.

        Raises:
            ValueError: Another level.
        """
        if level == "token":
            return self.log_ratio.exp()
        if level == "sequence":
            total = (self.log_ratio * self.mask).sum(dim=1, keepdim=True)
            return (total / self.lengths).exp()
        raise ValueError(f"importance_sampling_level = {level!r}: it must be 'token' or 'sequence'")


@dataclass(frozen=True)
class PolicyLoss:
    """A registered policy loss: callable with the registered function's own signature.

    Attributes:
        name: The name it was registered under.
        function: Pure function of :class:`TokenLogps`; returns the loss per token, (B, T) or what
            broadcasts to it, such as (B, 1), or that and a dict of metrics, each a scalar, one
            number per completion, (B, 1), or per token, (B, T). Neither the KL term, nor the
            entropy bonus, nor the correction for vLLM is its business.
        reduction: How the trainer makes one number of it: ``sequence_mean`` (mean over each
            completion's tokens, then over completions), ``sequence_sum`` (sum over each
            completion's tokens, then mean), ``token_mean`` (mean over all tokens of the
            micro-batch), ``constant`` (sum over tokens, divided by completions times
            ``max_completion_length``), ``global_tokens`` (mean over all tokens of the update, over
            all processes).
        stock: Whether TRL's own code computes the same under this name. It then does, where nothing
            is asked for that it does not have.
        owns_importance: Whether it uses ``TokenLogps.importance`` itself.
    """

    name: str
    function: Callable[..., Any]
    reduction: str = ""
    stock: bool = False
    owns_importance: bool = False

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            listed = ", ".join(map(repr, REDUCTIONS))
            raise ValueError(f"reduction is {self.reduction!r}; it must be one of {listed}")
        for option in ("stock", "owns_importance"):
            if not isinstance(getattr(self, option), bool):
                raise ValueError(f"{option} is {getattr(self, option)!r}; it must be True or False")

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the registered function."""
        return self.function(*args, **options)

    @property
    def options(self) -> Mapping[str, Any]:
        """Name and default of each option that ``loss_kwargs`` may set."""
        return _defaults(self.function)


@dataclass(frozen=True)
class Advantage:
    """A registered advantage: callable with the registered function's own signature.

    Attributes:
        name: The name it was registered under.
        function: Pure function of a generated batch, over all processes: ``function(scores,
            weights, **options)`` with scores (groups, G, rewards), NaN where a reward abstained,
            and weights (rewards,); returns the advantages, (groups, G), or that and a dict of
            metrics, each a scalar. Where all rewards abstained, what it returns is not used. Of
            ``lengths`` (tokens of each completion, (groups, G)), ``prompt_ids`` (a number for each
            prompt, the same whenever it comes, (groups,)) and ``step`` (of the optimizer) it is
            handed those that its signature has.
        kl_in_reward: Whether a KL penalty among the rewards (``kl_in`` is ``reward``) means
            something to it; not where it takes rewards for verdicts.
    """

    name: str
    function: Callable[..., Any]
    kl_in_reward: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.kl_in_reward, bool):
            raise ValueError(f"kl_in_reward is {self.kl_in_reward!r}; it must be True or False")

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the registered function."""
        return self.function(*args, **options)

    @property
    def options(self) -> Mapping[str, Any]:
        """Name and default of each option that ``advantage_kwargs`` may set."""
        known = _defaults(self.function)
        return {name: default for name, default in known.items() if name not in CONTEXT}


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
