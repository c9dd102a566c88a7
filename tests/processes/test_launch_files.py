"""The files of ``examples/launch/`` are read by accelerate, and mean what their first lines say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import (
    DeepSpeedPlugin,
    FullyShardedDataParallelPlugin,
    prepare_multi_gpu_env,
)
from accelerate.utils.launch import prepare_deepspeed_cmd_env
from torch.distributed.fsdp import OffloadPolicy

FOLDER = Path(__file__).parents[2] / "examples" / "launch"
NAMES = ("ddp", "fsdp2", "zero2", "zero3")


def environment(name: str) -> dict[str, str]:
    """What ``accelerate launch`` hands to two processes."""
    words = ["--config_file", str(FOLDER / f"{name}.yaml"), "--num_processes", "2", "train.py"]
    words = ["--main_process_port", "0", *words]
    args, config, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert args.num_processes == 2
    args.deepspeed_fields_from_accelerate_config = ",".join(config.deepspeed_config)
    handed: dict[str, str] = (
        prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)
    )
    return {key: text for key, text in handed.items() if isinstance(text, str)}


def test_these_are_all() -> None:
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_says_when_and_leaves_precision_and_the_number_of_processes_to_the_run(
    name: str,
) -> None:
    file = FOLDER / f"{name}.yaml"
    first, second = file.read_text().splitlines()[:2]
    assert first.startswith("# When ")
    assert f"--config_file examples/launch/{name}.yaml --num_processes" in second
    config = load_config_from_file(str(file))
    assert config.num_processes == -1  # accelerate asks for it
    assert config.mixed_precision == "no"
    assert set(yaml.safe_load(file.read_text())) <= set(vars(config))


def test_ddp_splits_nothing() -> None:
    handed = environment("ddp")
    assert not {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} & set(handed)


def test_fsdp2_splits_weights_too_and_saves_whole_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, text in environment("fsdp2").items():
        monkeypatch.setenv(key, text)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert not plugin.activation_checkpointing
    assert type(plugin.cpu_offload) is OffloadPolicy  # the class that moves nothing


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_zero_splits_what_its_stage_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, text in environment(name).items():
        monkeypatch.setenv(key, text)
    found = DeepSpeedPlugin().deepspeed_config["zero_optimization"]
    assert found["stage"] == int(name[-1])
    assert found["offload_optimizer"]["device"] == "none"
    assert found["stage3_gather_16bit_weights_on_model_save"] is (name == "zero3")


@pytest.mark.matrix
@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_deepspeed_itself_takes_what_the_files_mean(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deepspeed = pytest.importorskip("deepspeed", reason="pip install 'trl-deepseek[deepspeed]'")
    for key, text in environment(name).items():
        monkeypatch.setenv(key, text)
    plugin = DeepSpeedPlugin()
    of_the_run = {"gradient_accumulation_steps": 1, "gradient_clipping": 1.0}
    batch = {"train_micro_batch_size_per_gpu": 1, "train_batch_size": 1}
    plugin.deepspeed_config_process(must_match=False, **of_the_run, **batch)
    config = deepspeed.runtime.config.DeepSpeedConfig(plugin.deepspeed_config)
    assert int(config.zero_config.stage) == int(name[-1])
