"""What ``evaluate --json`` printed, as rows of a table: a model each, with intervals to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(found: Mapping[str, Any]) -> dict[str, Any]:
    """The table of one evaluation.

    Args:
        found: ``models``, a list of ``name`` and ``metrics``, each with ``value``, ``low``,
            ``high`` and ``count``; and ``differences``, a list of ``metric``, ``a``, ``b``,
            ``value``, ``low``, ``high``.

    Returns:
        ``metrics``, the names; ``rows``, of ``name`` and ``cells``, None where a model lacks a
        metric; a cell has what was found and, in per cent of the metric's range over all models,
        ``left``, ``width`` and ``at`` of its interval; and ``differences``, as they were found.
    """
    models = [model for model in found["models"] if isinstance(model, Mapping)]
    names = list(dict.fromkeys(name for model in models for name in model.get("metrics") or {}))
    ranges = {
        name: _range([(model.get("metrics") or {}).get(name) for model in models]) for name in names
    }
    return {
        "metrics": names,
        "rows": [
            {
                "name": model.get("name"),
                "cells": [_cell((model.get("metrics") or {}).get(n), *ranges[n]) for n in names],
            }
            for model in models
        ],
        "differences": [each for each in found.get("differences") or [] if "metric" in each],
    }


def _range(values: Sequence[Mapping[str, Any] | None]) -> tuple[float, float]:
    ends = [
        float(value[key])
        for value in values
        if value
        for key in ("low", "value", "high")
        if isinstance(value.get(key), (int, float))
    ]
    return (min(ends), max(ends)) if ends else (0.0, 0.0)


def _cell(value: Mapping[str, Any] | None, low: float, high: float) -> dict[str, Any] | None:
    if not value:
        return None
    wide = (high - low) or 1.0

    def place(key: str) -> float:
        known = value.get(key)
        return (
            round(100 * (float(known) - low) / wide, 2) if isinstance(known, (int, float)) else 0.0
        )

    left = place("low")
    return {
        **{key: value.get(key) for key in ("value", "low", "high", "count")},
        "left": left,
        "width": max(place("high") - left, 1.0),
        "at": place("value"),
    }
