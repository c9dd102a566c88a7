"""Tokens, keys and passwords stand in no file that a run saves and in nothing that it says."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from trl_deepseek import SFTConfig, secrets
from trl_deepseek.cli.main import main

HUB, KEY, PASSWORD = "hf_fakeFAKEhub", "sk-fakeFAKEkey", "fakeFAKEword"
REWARD = """
import os

def leaking(completions, **_):
    raise ValueError("asked https://user:fakeFAKEword@judge with " + os.environ["OPENAI_API_KEY"])

def fine(completions, **_):
    return [0.0] * len(completions)
"""


def holding_any(folder: Path) -> list[str]:
    fakes = [part.encode() for part in (HUB, KEY, PASSWORD)]
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(fake in path.read_bytes() for fake in fakes)
    ]


@pytest.mark.parametrize(("reward", "code"), [("fine", 0), ("leaking", 1)])
def test_a_run_keeps_its_secrets(
    folder: Path,
    words: Callable[..., list[str]],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    reward: str,
    code: int,
) -> None:
    Path("r.py").write_text(REWARD)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "out/runs")
    secret = {
        "hub_token": HUB,
        "vllm_server_base_url": f"https://user:{PASSWORD}@server:80",
        "model_init_kwargs": json.dumps({"token": HUB, "proxies": {"https_password": PASSWORD}}),
    }
    options = words("grpo", reward_funcs=f"r.py:{reward}", max_steps=1, **secret)
    assert main(options) == code
    found = capfd.readouterr()
    said = found.out + found.err
    assert not [fake for fake in (HUB, KEY, PASSWORD) if fake in said]
    assert not holding_any(folder / "out")
    assert ("asked https://***@judge with ***" in said) == (reward == "leaking")
    if code == 0:
        kept = torch.load("out/checkpoint-1/training_args.bin", weights_only=False)
        assert (kept.hub_token, kept.vllm_server_base_url) == ("***", "https://***@server:80")


@pytest.mark.slow
def test_a_recipe_hands_secrets_to_its_stages_and_keeps_them(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stage = {"command": "sft", "max_steps": 1, "report_to": "none", "hub_token": HUB}
    stage |= {"plugins": ["seen.py"]}
    Path("seen.py").write_text(
        "import os\nfrom pathlib import Path\nfrom trl_deepseek import hookimpl\n"
        "@hookimpl\ndef register_rewards(register):\n    pass\n"
        "Path('variables').write_text(str('TRL_DEEPSEEK_SECRETS' in os.environ))\n"
    )
    recipe = {
        "output_dir": "out",
        "model_name_or_path": "tiny-deepseek-llm",
        "dataset_name": "sft.jsonl",
        "chat_template": "deepseek-v3",
        "stages": [stage],
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    for _ in range(2):  # the second finds the stage done, and the same options
        assert main(["run", "recipe.yaml"]) == 0
    found = capfd.readouterr()
    assert HUB not in found.out + found.err
    assert not holding_any(folder / "out")
    assert yaml.safe_load(Path("out/sft.yaml").read_text())["hub_token"] == "***"
    assert Path("variables").read_text() == "False"
    assert secrets.handed_on(stage) == {"TRL_DEEPSEEK_SECRETS": json.dumps({"hub_token": HUB})}


def test_a_secret_is_itself_where_it_is_used_and_hidden_where_it_is_kept(tmp_path: Path) -> None:
    config = SFTConfig(output_dir=str(tmp_path), hub_token=HUB, report_to="none")
    secrets.guard(config)
    for each in (config, copy.copy(config), copy.deepcopy(config)):
        assert f"Bearer {each.hub_token}" == f"Bearer {HUB}"
    assert pickle.loads(pickle.dumps(config)).hub_token == "***"
    assert HUB not in f"{config!r} {config.to_json_string()} {vars(config)}"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("hub_token", "abc", "***"),
        ("judge_api_key", "abc", "***"),
        ("password", "abc", "***"),
        ("base_url", "https://me:abc@host/v1", "https://***@host/v1"),
        ("eos_token", "<|end|>", "<|end|>"),
        ("pad_token", "<pad>", "<pad>"),
        ("token_type", "abc", "abc"),
        ("max_tokens", 5, 5),
        ("hub_token", None, None),
        ("revision", "me@host", "me@host"),
    ],
)
def test_what_is_hidden(name: str, value: object, shown: object) -> None:
    assert secrets.hidden({"outer": {name: [value]}}) == {"outer": {name: [shown]}}
