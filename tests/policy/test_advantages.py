"""Advantages against plain math in float64, and against TRL's where it has them."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import pytest
import torch

from trl_deepseek import GRPOConfig, GRPOTrainer, hookimpl, load_registry
from trl_deepseek.errors import ConfigError, NotFinite, RunError
from trl_deepseek.policy.bound import BoundAdvantage, bind_advantage

REGISTRY = load_registry()
NAN = math.nan
WEIGHTS = [1.0, 0.5]
# Three questions, four answers, two rewards; NaN where one abstained.
SCORES = [
    [[1.0, 0.2], [0.0, 0.9], [1.0, 0.4], [0.0, 0.0]],
    [[1.0, 0.5], [1.0, 0.5], [1.0, 0.5], [1.0, 0.5]],
    [[0.0, NAN], [NAN, NAN], [1.0, 0.1], [0.0, 0.3]],
]
TINY = 1e-4


def called(name: str, scores: Any = SCORES, drops: bool = False, **options: Any) -> torch.Tensor:
    given = torch.tensor(scores, dtype=torch.float64)
    bound = bind_advantage(REGISTRY.advantages[name], options, group=given.size(1), drops=drops)
    values, _ = bound(given, torch.tensor(WEIGHTS[: given.size(2)], dtype=torch.float64), step=0)
    return values


def rewards() -> list[list[float | None]]:
    """The weighted sums; None where all abstained."""
    return [
        [
            None
            if all(map(math.isnan, row))
            else sum(w * r for w, r in zip(WEIGHTS, row, strict=True) if not math.isnan(r))
            for row in group
        ]
        for group in SCORES
    ]


def known(values: list[Any]) -> list[float]:
    return [value for value in values if value is not None]


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def plainly(name: str) -> list[list[float]]:
    """The formula of each, in floats."""
    groups = rewards()
    everyone = known(list(itertools.chain(*groups)))
    centred = [[None if r is None else r - statistics.fmean(known(g)) for r in g] for g in groups]
    differences = known(list(itertools.chain(*centred)))

    def one(g: int, i: int) -> float:
        r, group = groups[g][i], known(groups[g])
        if r is None:
            return 0.0
        away = r - statistics.fmean(group)
        if name == "grpo":
            return away / (spread(group) + TINY)
        if name == "dr_grpo":
            return away
        if name == "rloo":
            return r - (sum(group) - r) / (len(group) - 1)
        if name == "batch_norm":
            return away / (spread(everyone) + TINY)
        if name == "reinforce_pp":
            return (away - statistics.fmean(differences)) / (spread(differences) + TINY)
        assert name == "maxrl"
        return away / statistics.fmean(group)

    return [[one(g, i) for i in range(4)] for g in range(3)]


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "batch_norm", "reinforce_pp", "maxrl"])
def test_is_its_formula(name: str) -> None:
    expected = torch.tensor(plainly(name), dtype=torch.float64)
    torch.testing.assert_close(called(name), expected, rtol=1e-12, atol=1e-12)


def test_gdpo_normalises_each_reward_and_then_the_batch() -> None:
    total: list[list[float | None]] = [[None] * 4 for _ in SCORES]
    for g, group in enumerate(SCORES):
        for k, weight in enumerate(WEIGHTS):
            own = [row[k] for row in group if not math.isnan(row[k])]
            for i, row in enumerate(group):
                if not math.isnan(row[k]):
                    part = (row[k] - statistics.fmean(own)) / (spread(own) + TINY)
                    total[g][i] = (total[g][i] or 0.0) + weight * part
    everyone = known(list(itertools.chain(*total)))
    mean, deviation = statistics.fmean(everyone), statistics.stdev(everyone) + TINY
    expected = [[0.0 if t is None else (t - mean) / deviation for t in row] for row in total]
    torch.testing.assert_close(
        called("gdpo"), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_pass_at_k_is_the_mean_advantage_of_all_groups_of_k_that_one_is_in(k: int) -> None:
    verdicts = [1.0, 0.0, 0.0, 1.0, 0.0]
    groups = list(itertools.combinations(range(5), k))
    best = [max(verdicts[i] for i in group) for group in groups]
    mean, deviation = statistics.fmean(best), statistics.pstdev(best)
    expected = [
        statistics.fmean(
            [(b - mean) / deviation if deviation else 0.0 for g, b in zip(groups, best) if i in g]  # noqa: B905
        )
        for i in range(5)
    ]
    found = called("pass_at_k", [[[v] for v in verdicts]], k=k)
    assert found[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_groups_without_spread_are_left_out_of_batch_and_mean() -> None:
    kept = [SCORES[0], SCORES[2]]
    expected = called("batch_norm", kept) * 3 / 2
    found = called("batch_norm", drops=True)
    torch.testing.assert_close(found[[0, 2]], expected)
    assert not found[1].any()
    assert not called("grpo", [SCORES[1]] * 2, drops=True).any()


def test_an_advantage_is_handed_what_it_asks_for_and_of_the_groups_that_are_left() -> None:
    seen: dict[str, Any] = {}

    def mine(scores: Any, weights: Any, lengths: Any, step: int, bonus: float = 1.0) -> Any:
        seen.update(scores=scores, lengths=lengths, step=step)
        return scores[..., 0].nan_to_num() * bonus, {"mine/mean": 2.0}

    class Plugin:
        @hookimpl
        def register_advantages(self, register: Any) -> None:
            register("mine", mine)

    item = load_registry([Plugin()]).advantages["mine"]
    assert item.options == {"bonus": 1.0}
    bound = bind_advantage(item, {"bonus": 2.0}, group=4, drops=True)
    scores = torch.tensor(SCORES)
    lengths = torch.arange(12).view(3, 4)
    _, metrics = bound(scores, torch.tensor(WEIGHTS), lengths=lengths, step=7)
    assert seen["step"] == 7
    assert seen["lengths"].tolist() == lengths[[0, 2]].tolist()
    assert metrics == {"advantage/dropped_groups": pytest.approx(1 / 3), "mine/mean": 2.0}


@pytest.mark.parametrize(
    ("result", "error", "words"),
    [
        (lambda s: s.sum(), RunError, "not one advantage per completion, (3, 4)"),
        (lambda s: s[..., 0] / 0, NotFinite, "advantage 'bad' is not finite"),
        (lambda s: None, RunError, "returned NoneType"),
        (lambda s: s[..., 0] > 0, RunError, "returned torch.bool, not numbers with a fraction"),
        (
            lambda s: (s[..., 0], {"m": s[..., 1]}),
            RunError,
            "metric 'm' has the shape (3, 4), not ()",
        ),
        (lambda s: s.nosuch, RunError, "failed: AttributeError"),
    ],
)
def test_what_an_advantage_may_not_return(result: Any, error: Any, words: str) -> None:
    from trl_deepseek.policy_types import Advantage

    item = Advantage("bad", lambda scores, weights: result(scores.nan_to_num()))
    with pytest.raises(error) as caught:
        BoundAdvantage(item, {})(torch.tensor(SCORES), torch.tensor(WEIGHTS))
    assert words in str(caught.value)
    with pytest.raises(ConfigError):
        bind_advantage(item, None, group=4, drops=False)


# In training: what TRL's own settings compute, by name.
TWINS: dict[str, dict[str, Any]] = {
    "grpo": {"scale_rewards": "group"},
    "dr_grpo": {"scale_rewards": "none"},
    "batch_norm": {"scale_rewards": "batch"},
    "gdpo": {"multi_objective_aggregation": "normalize_then_sum"},
}


def first(completions: list[Any], **_: Any) -> list[float | None]:
    texts = [c[0]["content"] if isinstance(c, list) else c for c in completions]
    return [None if len(t) % 5 == 0 else float(sum(map(ord, t)) % 7) for t in texts]


def second(completions: list[Any], **_: Any) -> list[float]:
    texts = [c[0]["content"] if isinstance(c, list) else c for c in completions]
    return [float(len(t)) for t in texts]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Any:
    def trained(**options: Any) -> Any:
        model, tokenizer = REGISTRY.models["tiny-deepseek-llm"]()
        config = GRPOConfig(
            str(tmp_path_factory.mktemp("run")),
            **{
                "chat_template": "deepseek-v3",
                "per_device_train_batch_size": 8,
                "num_generations": 4,
                "max_completion_length": 5,
                "max_steps": 1,
                "learning_rate": 1e-2,
                "logging_steps": 1,
                "save_strategy": "no",
                "save_completions": False,
                "report_to": "none",
                "use_cpu": True,
                "bf16": False,
                "disable_tqdm": True,
                "reward_weights": [1.0, 0.3],
                **options,
            },
        )
        rows = REGISTRY.datasets["arithmetic"](size=8)
        trainer = GRPOTrainer(
            model, [first, second], config, train_dataset=rows, processing_class=tokenizer
        )
        trainer.train()
        return trainer

    return trained


@pytest.mark.parametrize(
    "name",
    [
        "grpo",
        "gdpo",
        pytest.param("dr_grpo", marks=pytest.mark.matrix),
        pytest.param("batch_norm", marks=pytest.mark.matrix),
    ],
)
def test_a_run_with_trls_advantage_by_name_is_a_run_with_trls_setting(
    name: str, train: Any
) -> None:
    ours, theirs = train(advantage=name), train(**TWINS[name])
    assert list(ours._logs["advantages"]) == pytest.approx(
        list(theirs._logs["advantages"]), rel=1e-5, abs=1e-6
    )
    (norm, other) = (each.state.log_history[0]["grad_norm"] for each in (ours, theirs))
    assert norm == pytest.approx(other, rel=1e-4)
    assert norm > 0


def test_a_penalty_among_the_rewards_is_the_divergence_of_each_completion(train: Any) -> None:
    seen: list[Any] = []

    def spy(scores: Any, weights: Any) -> Any:
        seen.append((scores.clone(), weights.clone()))
        return scores.nansum(dim=2) - scores.nansum(dim=2).mean(dim=1, keepdim=True)

    class Plugin:
        @hookimpl
        def register_advantages(self, register: Any) -> None:
            register("spy", spy)

    trainer = train(advantage="spy", plugins=[Plugin()], beta=0.2, kl_in="reward", max_steps=2)
    *_, (scores, weights) = seen
    assert weights.tolist() == pytest.approx([1.0, 0.3, 0.2])
    assert scores.shape == (2, 4, 3)
    penalty = scores[..., 2]
    assert penalty.abs().max() > 1e-4  # the policy has moved
    logged = [log["kl"] for log in trainer.state.log_history if "kl" in log]
    # one update per rollout: the loss logs k1 per token of the same policy
    assert logged[-1] == pytest.approx(-penalty.sum().item() / (8 * 5), rel=1e-3)
