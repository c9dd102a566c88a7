from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trl_deepseek import hookimpl, load_registry
from trl_deepseek.errors import ConfigError, PluginError, UnknownName
from trl_deepseek.hookspecs import PROJECT

REWARD_FILE = """
from trl_deepseek import hookimpl

@hookimpl
def register_rewards(register):
    register({name!r}, lambda completions, **_: [1.0] * len(completions))
"""


def length(completions: list[str], **_: Any) -> list[float]:
    return [float(len(c)) for c in completions]


class Lengths:
    @hookimpl
    def register_rewards(self, register: Callable[..., None]) -> None:
        register("length", length, columns=("limit",), timeout=2.0)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that these entry points, and no others, are installed."""

    def install(**modules: str) -> None:
        points = []
        for name, module in modules.items():
            point = importlib.metadata.EntryPoint(name, module, PROJECT)
            object.__setattr__(point, "dist", SimpleNamespace(name=f"{name}-dist", version="1.2"))
            points.append(point)
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)

    return install


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_an_item_is_found_by_name_and_keeps_what_it_was_registered_with() -> None:
    reward = load_registry([Lengths()]).rewards["length"]
    assert reward(completions=["abc", ""]) == [3.0, 0.0]
    assert (reward.columns, reward.timeout, reward.isolate) == (("limit",), 2.0, False)
    assert reward.__name__ == "length"


def test_a_file_a_module_and_the_environment_are_the_same_door(
    modules: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write(modules / "my_module_plugin.py", REWARD_FILE.format(name="from_module"))
    write(modules / "my_env_plugin.py", REWARD_FILE.format(name="from_environment"))
    file = write(tmp_path_factory.mktemp("p") / "my_file.py", REWARD_FILE.format(name="from_file"))
    monkeypatch.setenv("TRL_DEEPSEEK_PLUGINS", "my_env_plugin")
    registry = load_registry(["my_module_plugin", file])
    assert {"from_module", "from_environment", "from_file"} <= set(registry.rewards)
    (entry,) = [e for e in registry.entries("rewards") if e.name == "from_file"]
    assert (entry.origin.plugin, entry.origin.file) == ("my_file", file)


def test_naming_a_plugin_twice_is_naming_it_once(tmp_path: Path) -> None:
    file = write(tmp_path / "twice.py", REWARD_FILE.format(name="once"))
    assert "once" in load_registry([file, file]).rewards


class Named:
    """Registers one reward under the name it is made with."""

    def __init__(self, name: str) -> None:
        self.name = name

    @hookimpl
    def register_rewards(self, register: Callable[..., None]) -> None:
        register(self.name, length)


def test_two_objects_of_one_class_are_two_plugins() -> None:
    one, other = Named("one"), Named("other")
    registry = load_registry([one, other, one])
    assert {"one", "other"} <= set(registry.rewards)
    blocked = load_registry([one, other], block=["Named-2"])
    assert "one" in blocked.rewards
    assert "other" not in blocked.rewards


def test_two_files_of_one_name_can_be_told_apart(tmp_path: Path) -> None:
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        text = REWARD_FILE.format(name="same")
        files.append(write(tmp_path / folder / "mine.py", text))
    with pytest.raises(PluginError, match="--block mine or --block mine-2"):
        load_registry(files)


def test_a_plugin_that_exits_is_a_plugin_that_does_not_load(
    tmp_path: Path, modules: Path, installed: Callable[..., None]
) -> None:
    file = write(tmp_path / "leaves.py", "import sys\nsys.exit(0)\n")
    with pytest.raises(PluginError, match=r"leaves\.py:2 does not load: SystemExit: 0"):
        load_registry([file])
    write(modules / "leaves_too.py", "raise SystemExit(0)\n")
    with pytest.raises(PluginError, match="'leaves_too' does not load: SystemExit: 0"):
        load_registry(["leaves_too"])
    installed(quitter="leaves_too")
    (broken,) = load_registry().broken
    assert broken.cause == "SystemExit: 0"


def test_an_edited_file_is_loaded_anew(tmp_path: Path) -> None:
    file = write(tmp_path / "edited.py", REWARD_FILE.format(name="before"))
    assert "before" in load_registry([file]).rewards
    import os

    write(tmp_path / "edited.py", REWARD_FILE.format(name="after"))
    os.utime(file, ns=(1, 1))
    assert "after" in load_registry([file]).rewards


def test_an_unknown_name_says_what_is_near_and_what_there_is(
    installed: Callable[..., None],
) -> None:
    installed()
    rewards = load_registry([Lengths()]).rewards
    with pytest.raises(UnknownName) as caught:
        rewards["lenght"]
    assert str(caught.value) == (
        "no plugin registers a reward named 'lenght'\n"
        "  did you mean 'length'?\n"
        "  registered: length"
    )
    assert "lenght" not in rewards
    assert rewards.get("lenght") is None


def test_a_broken_installed_plugin_is_reported_and_stops_nothing(
    installed: Callable[..., None], modules: Path
) -> None:
    write(modules / "acme_broken.py", "import no_such_module_at_all\n")
    write(modules / "acme_works.py", REWARD_FILE.format(name="works"))
    installed(broken="acme_broken", works="acme_works")
    registry = load_registry()
    assert list(registry.rewards) == ["works"]
    (broken,) = registry.broken
    assert broken.origin.distribution == "broken-dist"
    assert broken.origin.file == str(modules / "acme_broken.py")
    assert broken.cause == "ModuleNotFoundError: No module named 'no_such_module_at_all'"
    with pytest.raises(UnknownName, match="'broken' might, but does not load: ModuleNotFoundError"):
        registry.rewards["boxed"]


def test_a_plugin_that_breaks_halfway_registers_nothing(
    installed: Callable[..., None], modules: Path
) -> None:
    half = REWARD_FILE.format(name="half") + "    raise RuntimeError('no licence')\n"
    write(modules / "acme_half.py", half)
    installed(half="acme_half")
    registry = load_registry()
    assert list(registry.rewards) == []
    assert registry.broken[0].cause == (
        "plugin 'half': register_rewards failed: RuntimeError: no licence"
    )


def test_installed_plugins_load_in_the_order_of_their_names(
    installed: Callable[..., None], modules: Path
) -> None:
    for name in ("b", "a", "c"):
        note = (
            "import builtins as b\nb.acme_order = getattr(b, 'acme_order', '')" + f" + {name!r}\n"
        )
        write(modules / f"acme_{name}.py", note + REWARD_FILE.format(name=name))
    installed(b="acme_b", a="acme_a", c="acme_c")
    load_registry()
    import builtins

    assert builtins.acme_order == "abc"  # type: ignore[attr-defined]


def test_a_duplicate_name_is_an_error_that_names_both_plugins_and_the_way_out(
    installed: Callable[..., None], modules: Path
) -> None:
    for name in ("acme", "zeta"):
        write(modules / f"{name}_dup.py", REWARD_FILE.format(name="same"))
    installed(acme="acme_dup", zeta="zeta_dup")
    with pytest.raises(PluginError) as caught:
        load_registry()
    assert str(caught.value) == (
        "two plugins register a reward 'same': 'acme' (acme-dist 1.2) and 'zeta' (zeta-dist 1.2)\n"
        "  to use one of them, block the other: --block acme or --block zeta"
    )
    assert "same" in load_registry(block=["zeta"]).rewards


def test_a_blocked_plugin_is_not_even_imported(
    installed: Callable[..., None], modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(modules / "acme_blocked.py", "raise SystemExit('imported')\n")
    installed(acme="acme_blocked")
    monkeypatch.setenv("TRL_DEEPSEEK_BLOCK", "acme")
    registry = load_registry()
    assert [origin.plugin for origin in registry.blocked] == ["acme"]
    assert registry.broken == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "def broken(:\n",
            "plugin file {file}:1 does not load: SyntaxError: invalid syntax: def broken(:",
        ),
        (
            "x = 1\n\nundefined_name\n",
            "plugin file {file}:3 does not load: NameError: name 'undefined_name' is not defined",
        ),
        (
            "from trl_deepseek import hookimpl\n@hookimpl\ndef register_reward(register): ...\n",
            "plugin 'mine': unknown hook 'register_reward'\n  did you mean 'register_rewards'?\n"
            "  known hooks: register_chat_templates, register_noises, register_losses, "
            "register_rewards, register_quantizations, register_metrics, register_advantages, "
            "register_policy_losses, register_models, register_datasets, register_tools, "
            "register_presets",
        ),
        (
            "from trl_deepseek import hookimpl\n@hookimpl\ndef register_rewards(registry): ...\n",
            "plugin 'mine': register_rewards takes an unknown parameter 'registry'\n"
            "  its one parameter is 'register'",
        ),
        (
            "from trl_deepseek import hookimpl\n@hookimpl\n"
            "def register_rewards(register):\n    register('x', print, columms=())\n",
            "plugin 'mine': reward 'x': unknown option 'columms'\n"
            "  options: columns, timeout, isolate, samplewise, runs_code, requires, check_row, "
            "check, tasks",
        ),
        (
            "from trl_deepseek import hookimpl\n@hookimpl\n"
            "def register_rewards(register):\n    register('x', 3)\n",
            "plugin 'mine': reward 'x' is a int, not a function",
        ),
    ],
    ids=["syntax", "name", "unknown-hook", "unknown-parameter", "unknown-option", "not-callable"],
)
def test_a_named_plugin_that_breaks_the_contract_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    file = write(tmp_path / "mine.py", text)
    with pytest.raises(PluginError) as caught:
        load_registry([file])
    assert str(caught.value) == message.format(file=file)


def test_a_file_without_hooks_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.py", "def short(completions, **_): ...\n")
    with pytest.raises(PluginError, match="plugin 'mine': no hook implementation found"):
        load_registry([file])


def test_a_missing_file_and_a_missing_module_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="does not exist"):
        load_registry([str(tmp_path / "none.py")])
    with pytest.raises(PluginError, match="'no_such_module_here' does not load: ModuleNotFound"):
        load_registry(["no_such_module_here"])


def test_a_plugin_to_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        load_registry(block=["deepseek-qlora", "deepseek-rewards-matc"])
    first, hint, known = str(refused.value).splitlines()
    assert first == "block: there is no plugin 'deepseek-rewards-matc'"
    assert hint == "  did you mean 'deepseek-rewards-match'?"
    assert "deepseek-rewards-match" in known


def test_the_environment_may_block_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_DEEPSEEK_BLOCK", "nobody")
    assert "exact_match" in load_registry().rewards


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": "triples"}, "data is 'triples'; it must be 'pairs', 'unpaired' or 'rewards'"),
        ({"reference": "no"}, "reference is 'no'; it must be True or False"),
    ],
)
def test_a_loss_registered_for_what_there_is_not_is_refused(
    options: dict[str, Any], says: str
) -> None:
    class Plugin:
        @hookimpl
        def register_losses(self, register: Callable[..., None]) -> None:
            register("mine", length, **options)

    with pytest.raises(PluginError, match=f"plugin 'Plugin': loss 'mine': {says}"):
        load_registry([Plugin()])
