"""Wrong input ends in one clear message and exit code 2, before a model is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trl_deepseek import models
from trl_deepseek.cli.main import main

Run = Callable[..., str]


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    """Run a command, see that it is refused in time and without a traceback, and give its words."""
    monkeypatch.chdir(tmp_path)

    def no_model(*args: object, **kwargs: object) -> None:
        raise AssertionError("a model was about to be loaded")

    monkeypatch.setattr(models, "resolve", no_model)

    def run(command: str, **options: object) -> str:
        argv = [command]
        for name, value in options.items():
            values = value if isinstance(value, list) else [value]
            argv += [f"--{name}", *map(str, values)]
        assert main(argv) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        assert captured.err.startswith(f"trl-deepseek {command}: ")
        assert not list(tmp_path.glob("trainer_output"))
        return captured.err.removeprefix(f"trl-deepseek {command}: ")

    return run


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": [{"role": "user", "content": "1+1"}]}) + "\n")
    return str(file)


TINY = {"model_name_or_path": "tiny-deepseek-llm", "dataset_name": "arithmetic"}


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["grop"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("trl-deepseek grop: unknown command 'grop' (did you mean 'grpo'?)\n")


def test_an_unknown_option(refused: Run) -> None:
    message = refused("sft", **TINY, lerning_rate=1)
    assert message == "unknown option --lerning_rate (did you mean '--learning_rate'?)\n"


def test_an_unknown_key_in_yaml(refused: Run, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("num_generation: 4\n")
    message = refused("grpo", **TINY, config="run.yaml")
    assert (
        message == "run.yaml:1: unknown option 'num_generation' (did you mean 'num_generations'?)\n"
    )


@pytest.mark.parametrize("command", ["sft", "grpo"])
def test_no_model_and_no_data(refused: Run, command: str) -> None:
    extra = {"reward_funcs": "exact_match"} if command == "grpo" else {}
    assert refused(command, **extra) == "--model_name_or_path is required\n"
    message = refused(command, model_name_or_path="tiny-deepseek-llm", **extra)
    assert message == "--dataset_name is required\n"


def test_an_unknown_reward(refused: Run) -> None:
    message = refused("grpo", **TINY, reward_funcs="exact_mach")
    assert message.startswith("no plugin registers a reward named 'exact_mach'\n")
    assert "did you mean 'exact_match'?\n" in message


def test_an_unknown_template(refused: Run) -> None:
    message = refused("sft", **TINY, chat_template="deepseek-r2")
    assert "'deepseek-r2'" in message
    assert "deepseek-r1" in message


def test_a_model_that_is_nothing(refused: Run) -> None:
    message = refused("sft", model_name_or_path="./nowhere", dataset_name="arithmetic")
    assert message == "model folder './nowhere' does not exist\n"


def test_a_model_folder_without_weights(refused: Run, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    message = refused("sft", model_name_or_path=folder, dataset_name="arithmetic")
    assert message.startswith(
        f"model folder '{folder}' has no weights (*.safetensors or pytorch_model*.bin)\n"
    )
    assert "it contains: config.json" in message


def test_a_missing_file(refused: Run) -> None:
    message = refused("sft", model_name_or_path="tiny-deepseek-llm", dataset_name="rows.jsonl")
    assert message == "data file 'rows.jsonl' does not exist\n"


def test_a_malformed_line(refused: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": }\n')
    message = refused("sft", model_name_or_path="tiny-deepseek-llm", dataset_name="rows.jsonl")
    assert message.startswith("rows.jsonl:2: not valid JSON: ")


def test_a_column_that_a_reward_needs(refused: Run, prompts: str) -> None:
    message = refused(
        "grpo",
        model_name_or_path="tiny-deepseek-llm",
        dataset_name=prompts,
        reward_funcs="exact_match",
    )
    assert "reward 'exact_match' needs the column 'solution'" in message
    assert "columns found: prompt" in message


def test_a_column_that_grpo_needs(refused: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "1+1", "solution": "2"}\n')
    message = refused(
        "grpo",
        model_name_or_path="tiny-deepseek-llm",
        dataset_name="rows.jsonl",
        reward_funcs="exact_match",
    )
    assert "has no column 'prompt', which GRPO needs\n" in message
    assert "columns found: question, solution" in message


def test_a_plugin_file_with_a_syntax_error(refused: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\ndef broken(:\n")
    message = refused("grpo", **TINY, reward_funcs="exact_match", plugins="mine.py")
    assert message.startswith("plugin file mine.py:2 does not load: SyntaxError: ")


def test_a_reward_file_without_that_function(refused: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def short(completions, **_):\n    return []\n")
    message = refused("grpo", **TINY, reward_funcs="mine.py:shot")
    assert message == "mine.py has no function 'shot'\n  it has: short\n"


def test_options_that_do_not_go_together(refused: Run) -> None:
    message = refused(
        "grpo", **TINY, reward_funcs="exact_match", num_generations=3, generation_batch_size=8
    )
    assert "num_generations" in message


def test_lora_on_the_lm_head(refused: Run) -> None:
    message = refused("sft", **TINY, use_peft=[], lora_target_modules="lm_head")
    assert message.startswith("lora_target_modules: LoRA on 'lm_head' would never be trained")


def test_no_checkpoint_to_resume_from(refused: Run) -> None:
    message = refused("sft", **TINY, resume_from_checkpoint="true")
    assert message == (
        "--resume_from_checkpoint true: no checkpoint in the output folder 'trainer_output'\n"
        "  leave the option out to begin anew; what is there is moved with --overwrite_output_dir\n"
    )
    message = refused("sft", **TINY, resume_from_checkpoint="nowhere")
    assert message == "--resume_from_checkpoint: 'nowhere' is no checkpoint folder\n"


def test_a_quickstart_folder_that_is_not_empty(refused: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("keep")
    message = refused("quickstart", output_dir="mine")
    assert message.startswith("output folder 'mine' is not empty; nothing is overwritten\n")
    assert (tmp_path / "mine" / "precious.txt").read_text() == "keep"


@pytest.mark.parametrize("command", ["sft", "preference", "reward", "grpo"])
def test_an_adapter_is_no_model_to_train(refused: Run, command: str) -> None:
    Path("lora").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        Path("lora", name).write_text("{}")
    rewards = {"reward_funcs": "exact_match"} if command == "grpo" else {}
    message = refused(command, model_name_or_path="lora", dataset_name="arithmetic", **rewards)
    assert message == (
        "model folder 'lora' holds an adapter and no model\n"
        "  merge it first: trl-deepseek merge lora --output_dir lora-merged\n"
    )
