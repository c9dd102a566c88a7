"""Health of a run: what is not finite stops it, and what goes wrong slowly is said.

:class:`Watch` looks at loss, gradient and weights, :mod:`~trl_deepseek.health.symptoms` at what is
logged.
"""

from trl_deepseek.health.finite import not_finite, some
from trl_deepseek.health.watch import Watch

__all__ = ["Watch", "not_finite", "some"]
