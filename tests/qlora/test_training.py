from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset

import trl_deepseek
from trl_deepseek import load_registry

TINY = ("tiny-deepseek-llm", "tiny-deepseek-v2", "tiny-deepseek-v3")
KINDS = ("SFT", "DPO", "KTO", "Reward", "GRPO")
COMMON: dict[str, Any] = {
    "quantization": "qlora",
    "chat_template": "deepseek-v3",
    "per_device_train_batch_size": 4,
    "learning_rate": 5e-3,
    "lr_scheduler_type": "constant",
    "max_steps": 30,
    "logging_steps": 1,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
}


def rows(kind: Any, size: int = 64) -> Dataset:
    return load_registry().datasets["arithmetic"](kind=kind, size=size)


def low_ids(completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The share of tokens from the lower half of the vocabulary: easy to raise in a few steps."""
    return [sum(token < 140 for token in ids) / max(1, len(ids)) for ids in completion_ids]


def trainer(kind: str, model: str, folder: Path, **options: Any) -> Any:
    config = {**COMMON, "output_dir": str(folder), **options}
    if kind == "SFT":
        config = {**config, "gradient_checkpointing": True}
        return trl_deepseek.SFTTrainer(
            model, trl_deepseek.SFTConfig(**config), train_dataset=rows("demonstrations")
        )
    if kind == "GRPO":
        config |= {"num_generations": 8, "max_completion_length": 6, "beta": 0.0}
        config |= {"per_device_train_batch_size": 16, "save_completions": False}
        return trl_deepseek.GRPOTrainer(
            model, low_ids, trl_deepseek.GRPOConfig(**config), train_dataset=rows("prompts")
        )
    config_class = getattr(trl_deepseek, f"{kind}Config")
    train = rows("preferences")
    return getattr(trl_deepseek, f"{kind}Trainer")(
        model, args=config_class(**config), train_dataset=train
    )


def logged(trained: Any, key: str) -> list[float]:
    return [entry[key] for entry in trained.state.log_history if key in entry]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "model"),
    [
        pytest.param(kind, model, marks=[] if few else pytest.mark.matrix)
        for model in TINY
        for kind in KINDS
        for few in [model == TINY[0] or (kind, model) == ("GRPO", TINY[-1])]
    ],
)
def test_every_trainer_learns_in_30_steps(kind: str, model: str, tmp_path: Path) -> None:
    trained = trainer(kind, model, tmp_path)
    packed = {n for n, p in trained.model.named_parameters() if p.dtype == torch.uint8}
    assert packed
    trained.train()
    # The reward rises where the loss is no measure of progress.
    key, sign = ("reward", -1) if kind == "GRPO" else ("loss", 1)
    values = [sign * value for value in logged(trained, key)]
    assert len(values) == 30
    assert sum(values[-5:]) < sum(values[:5])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "model"),
    [*(("SFT", model) for model in TINY), *((kind, TINY[-1]) for kind in KINDS[1:])],
)
def test_a_resumed_run_ends_with_the_same_weights(kind: str, model: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    options |= {"lr_scheduler_type": "linear"}
    whole = trainer(kind, model, tmp_path, **options)
    whole.train()
    # A new process would have another state of the random generator.
    torch.manual_seed(12345)
    resumed = trainer(kind, model, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    first = {n: p for n, p in whole.model.named_parameters() if p.requires_grad}
    second = {n: p for n, p in resumed.model.named_parameters() if p.requires_grad}
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert logged(whole, "loss")[3:6] == logged(resumed, "loss")[3:6]


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_have_the_dtype_that_trl_gives_them(kind: str, tmp_path: Path) -> None:
    built = trainer(kind, "tiny-deepseek-v3", tmp_path, gradient_checkpointing=True)
    trained = {n: p.dtype for n, p in built.model.named_parameters() if p.requires_grad}
    adapters = {dtype for name, dtype in trained.items() if "lora_" in name}
    assert adapters == {torch.bfloat16}
    assert not any("mlp.gate." in name or ".mlp.experts." in name for name in trained)
    # Checkpointed layers need an input with a gradient, which frozen embeddings would not give.
    assert built.model.get_input_embeddings()._forward_hooks


def test_float16_has_adapters_in_float32_whose_gradients_its_loss_scaler_unscales(
    tmp_path: Path,
) -> None:
    """On a GPU; there is no float16 without one, only what is done about it."""
    from trl_deepseek import quantization

    built = trainer("SFT", "tiny-deepseek-llm", tmp_path, quantization="qlora")
    packed = {n for n, p in built.model.named_parameters() if p.dtype == torch.uint8}
    quantization.hold_trained_in_float32(built.model)
    parameters = dict(built.model.named_parameters())
    assert {p.dtype for p in parameters.values() if p.requires_grad} == {torch.float32}
    assert packed == {n for n, p in parameters.items() if p.dtype == torch.uint8}


def test_whole_weights_in_float16_are_not_trained_under_its_loss_scaler(tmp_path: Path) -> None:
    from trl_deepseek.errors import ConfigError

    model, tokenizer = load_registry().models["tiny-deepseek-llm"]()
    args = trl_deepseek.SFTConfig(str(tmp_path), report_to="none")
    args.fp16 = True  # which a config takes on a GPU only
    data = rows("demonstrations", 8)
    with pytest.raises(ConfigError) as caught:
        trl_deepseek.SFTTrainer(model.half(), args, train_dataset=data, processing_class=tokenizer)
    assert str(caught.value) == (
        "fp16: all weights are trained and held in float16, where their gradients cannot be "
        "unscaled\n  hold them in float32 (dtype), or train an adapter"
    )


def test_what_is_done_is_printed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer("SFT", "tiny-deepseek-v2", tmp_path)
    printed = capsys.readouterr().err
    assert (
        "quantization qlora: weights in nf4, double quantization; compute in float32; "
        "routed experts in nf4\n"
        "LoRA, rank 64, alpha 128, on down_proj, gate_proj, kv_a_proj_with_mqa, kv_b_proj, "
        "o_proj, q_proj, up_proj\n"
    ) in printed


def test_a_gpu_gets_the_paged_optimizer_unless_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl_deepseek import quantization

    model, _ = load_registry().models["tiny-deepseek-llm"]()
    for named, chosen in ((None, "paged_adamw_8bit"), ("sgd", "sgd")):
        options: dict[str, Any] = {} if named is None else {"optim": named}
        args = trl_deepseek.SFTConfig(str(tmp_path), quantization="qlora", **options)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        quantization.apply(model, {"args": args}, load_registry())
        monkeypatch.undo()
        assert str(getattr(args.optim, "value", args.optim)) == chosen


def test_rollouts_are_sampled_without_dropout_and_casts(tmp_path: Path) -> None:
    from trl_deepseek.trainers.sampling import as_trained

    built = trainer("GRPO", "tiny-deepseek-llm", tmp_path, quantization="lora")
    model = built.model.train()
    ids = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(0))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    before = {name: parameter.dtype for name, parameter in model.named_parameters()}
    with torch.no_grad():
        assert not torch.equal(model(ids).logits, model(ids).logits)  # dropout is on
        with as_trained(model):
            first = model(ids).logits
            assert model.to(torch.bfloat16) is model
            assert torch.equal(model(ids).logits, first)
            assert model.training
        assert not torch.equal(model(ids).logits, model(ids).logits)
    assert before == {name: parameter.dtype for name, parameter in model.named_parameters()}
    model.to(torch.bfloat16)  # the model can be cast again
    assert {p.dtype for p in model.parameters() if p.is_floating_point()} == {torch.bfloat16}


def test_grpo_samples_from_the_policy_that_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock: Any = trl.GRPOTrainer
    generate = stock._generate_single_turn
    seen = []

    def watch(self: Any, *args: Any, **kwargs: Any) -> Any:
        dropouts = [m for m in self.model.modules() if isinstance(m, torch.nn.Dropout)]
        seen.append((len(dropouts), sum(m.training for m in dropouts)))
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(stock, "_generate_single_turn", watch)
    trainer("GRPO", "tiny-deepseek-llm", tmp_path, max_steps=1).train()
    assert seen
    assert all(count > 0 and training == 0 for count, training in seen)
