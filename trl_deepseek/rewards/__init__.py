"""How rewards are found, called, limited in time, isolated and counted.

The rewards themselves are plugins; nothing here knows one by name.
"""

from trl_deepseek.rewards.calls import as_batch
from trl_deepseek.rewards.checking import check_rows
from trl_deepseek.rewards.resolving import (
    check_columns,
    check_kept,
    check_sandbox,
    columns_of,
    is_function,
    resolve,
)
from trl_deepseek.rewards.signature import Signature, name_of, signature_of

__all__ = [
    "Signature",
    "as_batch",
    "check_columns",
    "check_kept",
    "check_rows",
    "check_sandbox",
    "columns_of",
    "is_function",
    "name_of",
    "resolve",
    "signature_of",
]
