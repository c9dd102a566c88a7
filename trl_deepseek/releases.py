"""What transformers offers only since some release, and the words where it is older.

The package works with every release that pyproject.toml allows. Each name here is a release; where
something needs it, ask :func:`has`, and refuse with :func:`needs` rather than leave it out.
"""

from __future__ import annotations

from importlib import metadata

ROUTER_ROUTES = "5.13"  # the router of DeepSeek-V3 is whole, so that LoRA can be on it too
TYPED_ARGUMENTS = "5.15"  # parse_response types the arguments of tool calls by the tools
ROUTER_LOGITS = "5.19"  # DeepSeek-V2 and V3 return what their routers said, to balance experts


def has(release: str) -> bool:
    """Whether the transformers that is installed is that release or a newer one."""
    from packaging.version import Version

    return Version(metadata.version("transformers")) >= Version(release)


def needs(release: str) -> str:
    """``transformers 5.19 or newer; this is 5.17.0``."""
    return f"transformers {release} or newer; this is {metadata.version('transformers')}"
