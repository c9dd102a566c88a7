"""SimPO: the mean log-prob as the reward, no reference, and a margin to be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("simpo", simpo, reference=False)


def simpo(
    logps: PairLogps, beta: float = 2.0, gamma: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logistic loss on the difference of mean log-probs less a margin, (B,).

    Formula: -log σ(β·log π(y⁺)/|y⁺| - β·log π(y⁻)/|y⁻| - γ)

    Source: arXiv:2405.14734, equation 6; β and γ by default as for the paper's Llama-3-Base.

    Differs: not at all from the paper. TRL has it in ``CPOTrainer`` only, with γ = 0.5 by default
        and a likelihood term that must be switched off (``cpo_alpha=0``).

    Args:
        logps: Of B pairs.
        beta: Scale of the reward, above 0; the paper uses 2.0 to 2.5, twenty times dpo's.
        gamma: Margin γ between the two rewards, at least 0; the paper uses 0.3 to 1.6.

    Raises:
        ValueError: An option is out of range.
    """
    import torch.nn.functional as F

    require_range("beta", beta, above=0)
    require_range("gamma", gamma, at_least=0)
    chosen = beta * (logps.chosen / logps.chosen_length.clamp(min=1))
    rejected = beta * (logps.rejected / logps.rejected_length.clamp(min=1))
    loss = -F.logsigmoid(chosen - rejected - gamma)
    return loss, {"rewards/chosen": chosen.detach(), "rewards/rejected": rejected.detach()}
