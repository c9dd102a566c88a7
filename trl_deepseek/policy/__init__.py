"""Registered policy losses and advantages of GRPO: bound to their options and put together.

:func:`trl_deepseek.policy.plan.plan` makes every check of them. For plugins: the arithmetic on
scores (``weighted_sum``, ``mean``, ``std``), ``clipped``, ``off_policy_mask``, ``require_range``.
"""

from trl_deepseek.losses.checking import require_range
from trl_deepseek.policy.parts import clipped, off_policy_mask
from trl_deepseek.policy.scores import mean, std, weighted_sum

__all__ = ["clipped", "mean", "off_policy_mask", "require_range", "std", "weighted_sum"]
