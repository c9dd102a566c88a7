"""Rollouts in which each prompt is encoded once: the samples of TRL, the weights as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from scipy import stats
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from trl_deepseek import GRPOConfig, GRPOTrainer
from trl_deepseek.errors import ConfigError
from trl_deepseek.segments import PrefixSharing
from trl_deepseek.trainers.merged import merged
from trl_deepseek.trainers.prefill import shared_prefill
from trl_deepseek.trainers.sampling import as_trained

PROMPTS = torch.randint(3, 200, (2, 24), generator=torch.Generator().manual_seed(2)).tolist()


def ones(completions: list[Any], **_: Any) -> list[float]:
    return [1.0 for _ in completions]


def trainer(folder: Path, model: str, peft: Any = None, **given: Any) -> Any:
    config = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=12,
        bf16=False,
        **given,
    )
    rows = Dataset.from_list([{"prompt": "a"}] * 8)
    made = GRPOTrainer(model, ones, config, train_dataset=rows, peft_config=peft)
    with torch.no_grad():
        for name, each in made.model.named_parameters():
            if "lora_B" in name:
                each.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    return made


def sampled(made: Any, mode: str, prompts: list[list[int]]) -> list[list[int]]:
    made._prefix_sharing = PrefixSharing(mode)
    torch.manual_seed(5)
    return made._generate_single_turn(prompts, None, {}, 4)[0]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    lora = LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_b_proj", "o_proj"])
    return trainer(tmp_path_factory.mktemp("lora"), "tiny-deepseek-v3", lora)


def test_a_seed_samples_what_it_samples_in_trl(adapted: Any) -> None:
    before = {name: each.clone() for name, each in adapted.model.named_parameters()}
    rows = [PROMPTS[0]] * 4 + [PROMPTS[1][:20]] * 4
    assert sampled(adapted, "auto", rows) == sampled(adapted, "off", rows)
    assert all(torch.equal(before[name], each) for name, each in adapted.model.named_parameters())


def test_each_prompt_is_encoded_once(adapted: Any) -> None:
    sampled(adapted, "auto", [PROMPTS[0]] * 4)  # tries once whether the model goes on from a cache
    seen = []
    layer = adapted.model.get_base_model().model.layers[0]
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[:2].numel()))
    sampled(adapted, "auto", [PROMPTS[0]] * 4 + [PROMPTS[1]] * 4)
    hook.remove()
    assert seen[:3] == [2 * 23, 8, 8]  # all but the last token of two prompts, then a token each


def test_a_stop_string_ends_a_completion_and_no_padding_is_left(tmp_path: Path) -> None:
    stop = ["1", "e"]
    plain = trainer(tmp_path, "tiny-deepseek-llm")
    stopped = trainer(tmp_path, "tiny-deepseek-llm", generation_kwargs={"stop_strings": stop})
    rows = [PROMPTS[0]] * 4 + [PROMPTS[1]] * 4
    decode, expected = plain.processing_class.decode, []
    for ids in sampled(plain, "auto", rows):  # the draws are the same until one ends
        ends = (n for n in range(1, len(ids)) if any(each in decode(ids[:n]) for each in stop))
        expected.append(ids[: next(ends, len(ids))])
    found = sampled(stopped, "auto", rows)
    assert found == expected
    assert len({len(each) for each in found}) > 1
    assert sampled(stopped, "off", rows) == expected


@pytest.mark.parametrize(
    "option", ["mask_truncated_completions", "use_transformers_continuous_batching"]
)
def test_stop_strings_are_refused_where_they_cannot_be_kept(option: str, tmp_path: Path) -> None:
    given = {"generation_kwargs": {"stop_strings": ["1"]}, option: True}
    with pytest.raises(ConfigError, match=f"^generation_kwargs: stop_strings: {option} "):
        trainer(tmp_path, "tiny-deepseek-llm", **given)


def test_merged_adapters_are_those_of_the_policy(adapted: Any) -> None:
    model = adapted.model.eval()
    ids = torch.tensor(PROMPTS)
    with torch.no_grad():
        apart = model(ids).logits
        with merged(model) as done:
            together = model(ids).logits
            layer = model.get_base_model().model.layers[0].self_attn.o_proj
            assert done
            assert layer.merged
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    assert not layer.merged
    model.train()


def test_weights_in_16_bits_are_not_merged(tmp_path: Path) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj"])
    made = trainer(tmp_path, "tiny-deepseek-llm", lora)
    with merged(made.model.to(torch.bfloat16)) as done:
        assert not done


def test_a_model_that_does_not_go_on_from_a_cache_encodes_each_prompt() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 64}
    model = MptForCausalLM(MptConfig(**sizes)).eval()
    for each in model.parameters():
        torch.nn.init.normal_(each, std=0.3)
    rows = torch.arange(20).repeat(2, 1)
    given = {"input_ids": rows, "attention_mask": torch.ones_like(rows)}
    config = GenerationConfig(do_sample=False, max_new_tokens=6, pad_token_id=0)
    expected = model.generate(**given, generation_config=config)
    with shared_prefill(model):
        assert torch.equal(model.generate(**given, generation_config=config), expected)


def test_a_head_tied_to_the_embeddings_is_not_merged_into_them() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=64, num_hidden_layers=1, tie_word_embeddings=True, **sizes)
    lora = LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False)
    model = get_peft_model(LlamaForCausalLM(config), lora)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        apart = model(ids).logits
        with merged(model):
            assert torch.equal(model(ids).logits, apart)


def test_dropout_that_is_no_module_is_off_while_sampling() -> None:
    sizes = {"hidden_size": 16, "ffn_dim": 16, "num_attention_heads": 2, "word_embed_proj_dim": 16}
    config = OPTConfig(vocab_size=64, num_hidden_layers=1, dropout=0.5, **sizes)
    model, ids = OPTForCausalLM(config).train(), torch.arange(8)[None]
    with torch.no_grad(), as_trained(model):
        assert torch.equal(model(ids).logits, model(ids).logits)
    assert all(part.training for part in model.modules())


def test_second_tokens_are_distributed_as_the_model_says(tmp_path: Path) -> None:
    temperature, count = 0.2, 1500
    made = trainer(tmp_path, "tiny-deepseek-llm", temperature=temperature)
    made.generation_config.max_new_tokens = 2
    drawn = [row[1] for row in sampled(made, "auto", [PROMPTS[0]] * count) if len(row) == 2]
    with torch.no_grad():
        model = made.model.eval()
        first = (model(torch.tensor(PROMPTS[:1])).logits[0, -1] / temperature).softmax(-1)
        every = torch.arange(len(first))[:, None]
        rows = torch.cat([torch.tensor(PROMPTS[:1]).expand(len(first), -1), every], dim=1)
        second = (model(rows).logits[:, -1] / temperature).softmax(-1)
    first[made.processing_class.eos_token_id] = 0  # whose rows end there
    expected = (first @ second).double()
    expected *= len(drawn) / expected.sum()
    order = expected.argsort(descending=True)
    groups = order.chunk(20)
    observed = torch.bincount(torch.tensor(drawn), minlength=len(expected))
    found = stats.chisquare(
        [int(observed[group].sum()) for group in groups],
        [float(expected[group].sum()) for group in groups],
    )
    assert found.pvalue > 0.01
