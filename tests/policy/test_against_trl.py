"""On one batch, our losses and TRL's: values, gradients and what is logged."""

from __future__ import annotations

import copy
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

from trl_deepseek import GRPOConfig, GRPOTrainer, load_registry
from trl_deepseek.policy.plan import plan

REGISTRY = load_registry()


COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 4,
    "num_generations": 2,
    "max_completion_length": 6,
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 4,
    "gradient_checkpointing": False,
}


def with_options(args: Any, options: dict[str, Any]) -> Any:
    """A config as it were with these; a new one would set up the device again."""
    found = copy.copy(args)
    found.given = frozenset({*COMMON, *options})
    for name, value in options.items():
        setattr(found, name, value)
    return found


@pytest.fixture(scope="module")
def model() -> Any:
    return REGISTRY.models["tiny-deepseek-llm"]()


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Any:
    """One trainer of each kind, whose settings a test replaces."""
    folder = tmp_path_factory.mktemp("out")
    rows = REGISTRY.datasets["arithmetic"](size=8)
    language_model, tokenizer = model
    made = [
        kind(
            language_model,
            len_reward,
            kind_of_config(str(folder), **COMMON),
            train_dataset=rows,
            processing_class=tokenizer,
        )
        # The same log-probs on both sides, to the bit: what is compared is the loss.
        for kind, kind_of_config in (
            (GRPOTrainer, partial(GRPOConfig, prefix_sharing="off")),
            (trl.GRPOTrainer, trl.GRPOConfig),
            (GMPOTrainer, GMPOConfig),
        )
    ]
    for trainer in made:
        trainer.first_args = trainer.args
    return dict(zip(("ours", "theirs", "gmpo"), made, strict=True))


def len_reward(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(str(completion))) for completion in completions]


def batch(model: Any) -> dict[str, Any]:
    """Four completions, two of them shorter, of a policy that has moved since."""
    chance = torch.Generator().manual_seed(3)
    size = model.config.vocab_size
    mask = torch.ones(4, 6, dtype=torch.long)
    mask[1, 3:], mask[2, 5:] = 0, 0
    moved = torch.randn(4, 6, generator=chance)
    inputs = {
        "prompt_ids": torch.randint(5, size, (4, 3), generator=chance),
        "prompt_mask": torch.ones(4, 3, dtype=torch.long),
        "completion_ids": torch.randint(5, size, (4, 6), generator=chance),
        "completion_mask": mask,
        "advantages": torch.tensor([1.2, -0.7, -1.4, 0.4]),
        "num_items_in_batch": torch.tensor(40.0),
    }
    with torch.no_grad():
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        logits = model(ids).logits[:, 2:-1]
        logps = logits.log_softmax(-1).gather(2, ids[:, 3:, None]).squeeze(2)
    inputs["old_per_token_logps"] = logps - 0.3 * moved
    inputs["ref_per_token_logps"] = logps + 0.4 * moved.flip(0)
    return inputs


def settle(trainer: Any, args: Any) -> None:
    """What TRL's constructor reads from the config for the loss."""
    trainer.args = args
    trainer.loss_type, trainer.beta = args.loss_type, args.beta
    trainer.importance_sampling_level = args.importance_sampling_level
    trainer.epsilon_low = args.epsilon
    trainer.epsilon_high = args.epsilon if args.epsilon_high is None else args.epsilon_high
    trainer.off_policy_mask_threshold = args.off_policy_mask_threshold
    trainer.top_entropy_quantile = args.top_entropy_quantile
    trainer.entropy_coef, trainer.use_adaptive_entropy = (
        args.entropy_coef,
        args.use_adaptive_entropy,
    )
    trainer._entropy_bonus_enabled = args.entropy_coef != 0.0 or args.use_adaptive_entropy
    trainer._last_world_entropy, trainer._entropy_window_stats = 0.0, None
    trainer.current_gradient_accumulation_steps = args.gradient_accumulation_steps
    trainer._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}


def computed(trainer: Any, args: Any, inputs: dict[str, Any]) -> tuple[float, Any, Any]:
    settle(trainer, args)
    trainer.model.train()
    trainer.model.zero_grad()
    corrected = "importance_sampling_ratio" in inputs
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = corrected
    loss = trainer._compute_loss(trainer.model, dict(inputs))
    loss.backward()
    gradients = [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]
    trainer.use_vllm = False
    return loss.item(), gradients, trainer._metrics["train"]


def agree(trainers: Any, ours: dict[str, Any], theirs: dict[str, Any]) -> Any:
    """The same loss, gradients and metrics; returns what ours logged."""
    inputs = batch(trainers["theirs"].model)
    args = with_options(trainers["ours"].first_args, ours)
    trainers["ours"].policy = plan(args, REGISTRY)
    assert trainers["ours"].policy.objective is not None
    extra = theirs.pop("inputs", {})
    given = with_options(trainers["theirs"].first_args, theirs)
    expected = computed(trainers["theirs"], given, inputs | extra)
    found = computed(trainers["ours"], args, inputs | extra)
    assert found[0] == pytest.approx(expected[0], rel=1e-6, abs=1e-7)
    scale = max(float(one.abs().max()) for one in expected[1])
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6 * scale)
    for name, values in found[2].items():
        if name in expected[2]:
            assert values == pytest.approx(expected[2][name], rel=1e-5, abs=1e-7), name
    return found[2]


SHARED: dict[str, dict[str, Any]] = {
    "grpo": {"epsilon": 0.1, "epsilon_high": 0.3},
    "bnpo": {"epsilon": 0.1},
    "dr_grpo": {"epsilon": 0.1, "delta": 1.2},
    "dapo": {"epsilon": 0.2, "epsilon_high": 0.28},
    "luspo": {"epsilon": 0.1, "importance_sampling_level": "sequence"},
    "cispo": {"epsilon_high": 1.2},
    "sapo": {"sapo_temperature_neg": 1.3, "sapo_temperature_pos": 0.8},
    "vespo": {"vespo_k_pos": 1.5, "vespo_lambda_neg": 2.5},
}


@pytest.mark.parametrize("name", SHARED)
def test_every_shared_name_is_trls_loss(name: str, trainers: Any) -> None:
    options = SHARED[name]
    logged = agree(
        trainers,
        {"loss_type": name, "loss_kwargs": options, "beta": 0.1},
        {"loss_type": name, **options, "beta": 0.1},
    )
    assert {"kl", "entropy"} <= set(logged)


@pytest.mark.parametrize("name", SHARED)
def test_so_it_is_where_nothing_is_given_and_ours_is_forced(
    name: str, trainers: Any, tmp_path: Path
) -> None:
    ours = {"loss_type": name, "kl_estimator": "k3", "beta": 0.02}
    theirs = {"loss_type": name, "beta": 0.02, "use_bias_correction_kl": False}
    agree(trainers, ours, theirs)


def test_gspo_is_trls_grpo_with_the_ratio_of_the_sequence(trainers: Any) -> None:
    clip = {"epsilon": 0.01, "epsilon_high": 0.02}
    level = {"importance_sampling_level": "sequence"}
    logged = agree(trainers, {"loss_type": "gspo", **clip}, {"loss_type": "grpo", **level, **clip})
    assert logged["clip_ratio/region_mean"][0] > 0


V3_2 = {"off_policy_mask_threshold": 0.02}


def test_deepseek_v3_2_is_trls_grpo_with_its_two_settings(trainers: Any) -> None:
    logged = agree(
        trainers,
        {"loss_type": "deepseek_v3_2", "beta": 0.1, **V3_2},
        {"loss_type": "grpo", "use_bias_correction_kl": True, "beta": 0.1, **V3_2},
    )
    assert 0 < logged["off_policy_mask_mean"][0] < 1


# What holds for all losses alike: settings of TRL's, each with a loss of either kind of ratio.
SETTINGS: dict[str, dict[str, Any]] = {
    "KL as in the first GRPO": {"use_bias_correction_kl": False},
    "off-policy mask": V3_2,
    "high entropy": {"top_entropy_quantile": 0.5},
    "entropy bonus": {"entropy_coef": 0.01, "top_entropy_quantile": 0.5},
    "adaptive entropy": {"use_adaptive_entropy": True, "entropy_coef": 0.02},
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["grpo", "cispo", "luspo"])
def test_a_setting_of_trls_does_the_same(
    name: str, setting: str, trainers: Any, tmp_path: Path
) -> None:
    options = {"loss_type": name, "beta": 0.1, **SETTINGS[setting]}
    level = {"importance_sampling_level": "sequence"} if name == "luspo" else {}
    logged = agree(trainers, {**options, "loss_kwargs": level or {"epsilon": 0.2}}, options | level)
    if "entropy_coef" in SETTINGS[setting]:
        assert logged["policy_loss"][0] != 0


@pytest.mark.parametrize("name", ["grpo", "vespo"])
@pytest.mark.parametrize("shape", [(4, 6), (4, 1)])
def test_the_correction_for_the_engine_that_sampled_is_trls(
    name: str, shape: tuple[int, int], trainers: Any, tmp_path: Path
) -> None:
    ratio = 1 + 0.1 * torch.arange(shape[0] * shape[1]).view(shape) / shape[1]
    sampled = torch.full((4, 6), -3.0)
    sampled[0, 0] = float("nan")
    extra = {"importance_sampling_ratio": ratio, "sampling_per_token_logps": sampled}
    agree(
        trainers,
        {"loss_type": name, "beta": 0.1, "kl_estimator": "unbiased", **V3_2},
        {"loss_type": name, "beta": 0.1, "inputs": extra, **V3_2},
    )


def test_gmpo_is_that_of_trls_experiment(trainers: Any) -> None:
    clip = {"epsilon": 0.2, "epsilon_high": 0.3, "beta": 0.1}
    args = with_options(
        trainers["ours"].first_args, {"loss_type": "gmpo", "kl_estimator": "k3", **clip}
    )
    trainers["ours"].policy = plan(args, REGISTRY)
    inputs = batch(trainers["ours"].model)
    found = computed(trainers["ours"], args, inputs)
    expected = computed(trainers["gmpo"], with_options(trainers["gmpo"].first_args, clip), inputs)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    for name in ("clip_ratio/region_mean", "kl", "entropy"):
        assert found[2][name] == pytest.approx(expected[2][name], rel=1e-5)
