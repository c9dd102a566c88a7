"""Files of settings: one YAML mapping each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trl_deepseek.errors import ConfigError


def read_mapping(path: str, what: str, of: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        path: Of the file.
        what: What messages call it, such as ``config file``.
        of: What it maps, for messages.

    Raises:
        ConfigError: It cannot be read, is not valid YAML, or is no mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{what} {path!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path!r} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{what} {path!r} must be a mapping of {of}")
    return values
