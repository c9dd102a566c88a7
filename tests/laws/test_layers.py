"""Imports run one way, function-level ones included; the order of the layers is data here."""

from __future__ import annotations

from collections.abc import Iterator

import grimp
import networkx
import pytest

# From the command line down; a module imports its own layer or one below.
LAYERS = (
    {"__main__", "testing"},
    {"cli"},
    {"jobs", "quickstart", "plugin_kit"},
    {"trainers", "recommending", "memory", "rollouts", "report", "evaluation", "yaml_files"},
    {"policy"},
    {
        *("engines", "generation", "rewards", "quantization", "losses", "noise", "lm_head"),
        *("segments", "judging", "tools"),
    },
    {
        *("adapters", "chat", "data", "models", "answers", "environment", "health", "processes"),
        "stopping",
    },
    {"checkpoints"},
    {"workers", "sandbox", "pass_at"},
    {""},  # the package itself: what `from trl_deepseek import ...` gives at once
    {"plugin_loading", "sources"},
    {"registry"},
    {"hookspecs"},
    {"tasks"},
    {"types"},
    {"metric_types", "policy_types", "dataset_types", "tool_types"},
    {"errors"},
    {"secrets", "releases", "row_findings", "replacing"},
)
# What knows nothing of ours but how to say what is wrong.
ALONE = ("lm_head", "answers", "workers", "sandbox")
ALLOWED_ALONE = {"errors", "secrets", "workers", "sandbox", "sources"}


@pytest.fixture(scope="module")
def imports() -> networkx.DiGraph:
    """Who imports whom at run time, module by module."""
    graph = grimp.build_graph("trl_deepseek", exclude_type_checking_imports=True, cache_dir=None)
    found = networkx.DiGraph()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            found.add_edge(module, imported)
    return found


def room(module: str) -> str:
    """The package or module directly below ``trl_deepseek`` that a module is in."""
    return module.removeprefix("trl_deepseek").lstrip(".").partition(".")[0]


def between_rooms(imports: networkx.DiGraph) -> Iterator[tuple[str, str]]:
    return ((a, b) for a, b in imports.edges if room(a) != room(b))


def test_no_import_runs_up(imports: networkx.DiGraph) -> None:
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    upward = [(a, b) for a, b in between_rooms(imports) if level[room(a)] > level[room(b)]]
    assert not upward


def test_there_is_no_circle_of_modules_nor_of_rooms(imports: networkx.DiGraph) -> None:
    rooms = networkx.DiGraph([(room(a), room(b)) for a, b in between_rooms(imports)])
    for graph in (imports, rooms):
        circles = [part for part in networkx.strongly_connected_components(graph) if len(part) > 1]
        assert not circles


def test_what_stands_alone_imports_errors_only(imports: networkx.DiGraph) -> None:
    others = [
        (a, b)
        for a, b in between_rooms(imports)
        if room(a) in ALONE and room(b) not in ALLOWED_ALONE
    ]
    assert not others
