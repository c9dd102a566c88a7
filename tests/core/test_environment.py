"""What is said, and not said, about what a run stands in."""

import warnings
from pathlib import Path


def test_a_run_from_python_warns_of_nothing_that_its_user_did_not_choose(tmp_path: Path) -> None:
    from trl_deepseek import SFTConfig, SFTTrainer, load_registry

    rows = load_registry().datasets["arithmetic"](kind="demonstrations", size=8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = SFTConfig(
            output_dir=str(tmp_path), max_steps=1, save_strategy="no", report_to="none"
        )
        SFTTrainer("tiny-deepseek-llm", config, train_dataset=rows).train()
    texts = [str(warning.message) for warning in caught]
    assert config.gradient_checkpointing  # TRL's default, of which transformers warns
    assert not [text for text in texts if "checkpointing" in text or "pin_memory" in text]
