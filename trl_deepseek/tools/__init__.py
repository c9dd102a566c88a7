"""Tools that a model calls while it answers: found, limited in time, isolated and counted.

The tools themselves are plugins; nothing here knows one by name.
"""

from trl_deepseek.tools.environments import Environments
from trl_deepseek.tools.guarding import Guard, Settings
from trl_deepseek.tools.resolving import check_factory, resolve

__all__ = ["Environments", "Guard", "Settings", "check_factory", "resolve"]
