from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from scipy import stats

from trl_deepseek import Registry, chat, load_registry
from trl_deepseek.errors import ConfigError, DataError, TemplateError
from trl_deepseek.generation import Completion, Sampling, complete, load
from trl_deepseek.types import Messages

DRAWN = Sampling(num_samples=2, max_new_tokens=6, temperature=0.8, top_p=0.9, top_k=50)


def ask(text: str) -> Messages:
    return [{"role": "user", "content": text}]


PROMPTS: list[str | Messages] = [ask("1" * n) for n in (3, 40, 7, 1)]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


@pytest.fixture(scope="module")
def loaded(registry: Registry) -> tuple[Any, Any]:
    return load("tiny-deepseek-llm", registry)


@pytest.fixture
def model(loaded: tuple[Any, Any]) -> Iterator[Any]:
    config = loaded[0].generation_config
    kept = config.eos_token_id
    yield loaded[0]
    config.eos_token_id = kept


@pytest.fixture
def tokenizer(loaded: tuple[Any, Any]) -> Any:
    return loaded[1]


def test_greedy_answers_are_those_of_transformers_one_by_one(model: Any, tokenizer: Any) -> None:
    found = complete(model, tokenizer, [*PROMPTS, "plain text"], Sampling(max_new_tokens=6))
    for prompt, (answer,) in zip([*PROMPTS, "plain text"], found, strict=True):
        if isinstance(prompt, str):
            ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        else:
            with chat.inference_template(tokenizer):
                ids = tokenizer.apply_chat_template(
                    prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
                )["input_ids"]
        expected = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
        assert list(answer.token_ids) == expected.tolist()


def test_a_draw_does_not_depend_on_what_else_is_answered(model: Any, tokenizer: Any) -> None:
    together = complete(model, tokenizer, PROMPTS, DRAWN)
    one_by_one = complete(model, tokenizer, PROMPTS, replace(DRAWN, batch_size=1))
    some = complete(model, tokenizer, PROMPTS[1:3], DRAWN, indices=[1, 2])
    assert together == one_by_one
    assert together[1:3] == some
    assert together[0][0] != together[0][1]
    assert together != complete(model, tokenizer, PROMPTS, replace(DRAWN, seed=1))
    more = complete(model, tokenizer, PROMPTS, replace(DRAWN, num_samples=3))
    assert [own[:2] for own in more] == together


def test_tokens_are_drawn_as_often_as_the_model_says(model: Any, tokenizer: Any) -> None:
    sampling = Sampling(num_samples=3000, max_new_tokens=1, temperature=0.5, top_k=8)
    (answers,) = complete(model, tokenizer, ["12"], sampling)
    with torch.no_grad():
        logits = model(**tokenizer("12", return_tensors="pt")).logits[0, -1]
    best = (logits / 0.5).topk(8)
    counts = Counter(answer.token_ids[0] for answer in answers)
    assert set(counts) <= set(best.indices.tolist())
    expected = best.values.softmax(dim=0).double() * 3000
    seen = [counts[token] for token in best.indices.tolist()]
    assert stats.chisquare(seen, expected.numpy() * (3000 / expected.sum().item())).pvalue > 1e-3


def test_a_nucleus_is_the_likeliest_tokens_that_make_up_its_share(
    model: Any, tokenizer: Any
) -> None:
    sampling = Sampling(num_samples=300, max_new_tokens=1, top_p=0.1)
    (answers,) = complete(model, tokenizer, ["12"], sampling)
    with torch.no_grad():
        logits = model(**tokenizer("12", return_tensors="pt")).logits[0, -1]
    shares, order = logits.softmax(dim=0).sort(descending=True)
    size = int((shares.cumsum(dim=0) < 0.1).sum()) + 1
    assert {answer.token_ids[0] for answer in answers} <= set(order[:size].tolist())


def test_an_answer_ends_at_any_stop_token(model: Any, tokenizer: Any) -> None:
    (free,) = complete(model, tokenizer, ["12"], Sampling(max_new_tokens=6))[0]
    assert not free.finished
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, free.token_ids[2]]
    (stopped,) = complete(model, tokenizer, ["12"], Sampling(max_new_tokens=6))[0]
    end = free.token_ids.index(free.token_ids[2])
    assert stopped.token_ids == free.token_ids[: end + 1]
    assert stopped.finished


def test_an_answer_begins_as_it_is_made_to(model: Any, tokenizer: Any) -> None:
    (made,) = complete(model, tokenizer, ["12"], Sampling(max_new_tokens=4, begin="ab"))[0]
    (gone_on,) = complete(model, tokenizer, ["12ab"], Sampling(max_new_tokens=4))[0]
    assert made.token_ids == gone_on.token_ids
    assert made.text == "ab" + gone_on.text


def test_what_the_prompt_opens_is_not_opened_twice(model: Any, registry: Registry) -> None:
    tokenizer = registry.models["tiny-deepseek-llm"]()[1]
    chat.install(tokenizer, "deepseek-r1", registry)
    assert chat.generation_prefix(tokenizer) == "<think>\n"
    plain = complete(model, tokenizer, [ask("1")], Sampling(max_new_tokens=4))
    assert complete(model, tokenizer, [ask("1")], Sampling(max_new_tokens=4, begin="<think>")) == (
        plain
    )


def test_an_answer_that_has_begun_is_gone_on_from(model: Any, registry: Registry) -> None:
    tokenizer = registry.models["tiny-deepseek-llm"]()[1]
    chat.install(tokenizer, "deepseek-v3", registry)  # nothing stands between header and answer
    begun = [*ask("1"), {"role": "assistant", "content": "ab"}]
    made = complete(model, tokenizer, [ask("1")], Sampling(max_new_tokens=4, begin="ab"))[0][0]
    gone_on = complete(model, tokenizer, [begun], Sampling(max_new_tokens=4))[0][0]
    assert gone_on.token_ids == made.token_ids


def test_rows_bring_their_own_template_options(model: Any, registry: Registry) -> None:
    tokenizer = registry.models["tiny-deepseek-llm"]()[1]
    chat.install(tokenizer, "deepseek-v3.1", registry)
    rows: list[dict[str, Any]] = [
        {"chat_template_kwargs": {"thinking": True}},
        {"chat_template_kwargs": None},
    ]
    mixed = complete(model, tokenizer, [ask("1")] * 2, Sampling(max_new_tokens=4), rows=rows)
    for answer, kwargs in zip(mixed, ({"thinking": True}, {}), strict=True):
        alone = complete(
            model, tokenizer, [ask("1")], Sampling(max_new_tokens=4), chat_template_kwargs=kwargs
        )
        assert alone == [answer]
    assert mixed[0] != mixed[1]


def test_a_live_model_is_left_as_it_was(model: Any, tokenizer: Any) -> None:
    model.train()
    frozen = next(iter(model.children())).eval()
    modes = [module.training for module in model.modules()]
    try:
        answers = complete(model, tokenizer, ["12"], Sampling(max_new_tokens=2))
        assert [module.training for module in model.modules()] == modes
        assert torch.is_grad_enabled()
    finally:
        model.eval()
        frozen.eval()
    assert answers == complete(model, tokenizer, ["12"], Sampling(max_new_tokens=2))


def test_what_does_not_fit_into_memory_is_answered_in_parts(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = complete(model, tokenizer, PROMPTS, DRAWN)
    generate = type(model).generate

    def small(self: Any, input_ids: Any, **options: Any) -> Any:
        if len(input_ids) > 3:
            raise torch.OutOfMemoryError
        return generate(self, input_ids=input_ids, **options)

    monkeypatch.setattr(type(model), "generate", small)
    assert complete(model, tokenizer, PROMPTS, DRAWN) == expected
    assert "8 answers at once do not fit into memory: half of them" in caplog.text


def test_a_prompt_that_cannot_be_answered_is_refused(model: Any, registry: Registry) -> None:
    bare = registry.models["tiny-deepseek-llm"]()[1]
    bare.chat_template = None
    with pytest.raises(TemplateError, match="no chat template"):
        complete(model, bare, [ask("1")], Sampling())
    bare.bos_token = None
    if not bare("")["input_ids"]:
        with pytest.raises(DataError, match="prompt 0 has no tokens"):
            complete(model, bare, [""], Sampling())


@pytest.mark.parametrize(
    "options",
    [
        {"num_samples": 0},
        {"max_new_tokens": 1.5},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": 0.0, "num_samples": 2},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"seed": -1},
        {"batch_size": 0},
    ],
)
def test_a_sampling_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Sampling(**options)


def test_no_prompts_have_no_answers(model: Any, tokenizer: Any) -> None:
    found: list[list[Completion]] = complete(model, tokenizer, [], Sampling())
    assert found == []
