from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trl_deepseek import Registry, hookimpl, load_registry
from trl_deepseek.errors import ConfigError, UnknownName
from trl_deepseek.noise import choose


class Mine:
    @hookimpl
    def register_noises(self, register: Any) -> None:
        register("plain", lambda embeddings, lengths: embeddings)
        register("sized", lambda embeddings, lengths, alpha: embeddings * alpha)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry([Mine()])


def config(**fields: Any) -> Any:
    return SimpleNamespace(**fields)


def test_without_options_there_is_no_noise(registry: Registry) -> None:
    assert choose(config(), registry) is None
    assert choose(config(noise=None, noise_alpha=None, neftune_noise_alpha=None), registry) is None


def test_transformers_own_option_means_neftune_of_that_alpha(registry: Registry) -> None:
    chosen = choose(config(neftune_noise_alpha=7.0), registry)
    assert chosen is not None
    assert chosen.function is registry.noises["neftune"]
    assert chosen.options == {"alpha": 7.0}
    assert chosen.alpha == 7.0


def test_a_users_function_is_called_with_the_alpha_given(registry: Registry) -> None:
    chosen = choose(config(noise="sized", noise_alpha=3.0), registry)
    assert chosen is not None
    assert torch.equal(chosen(torch.ones(1, 1, 2), torch.ones(1, 1)), torch.full((1, 1, 2), 3.0))


def test_without_alpha_the_noises_own_default_holds(registry: Registry) -> None:
    chosen = choose(config(noise="neftune"), registry)
    assert chosen is not None
    assert chosen.options == {}
    assert chosen.alpha == 5.0  # the paper's, arXiv:2310.05914


def test_an_unknown_noise_is_refused_with_the_nearest_name(registry: Registry) -> None:
    with pytest.raises(UnknownName) as error:
        choose(config(noise="neftun"), registry)
    assert str(error.value) == (
        "no plugin registers a noise named 'neftun'\n  did you mean 'neftune'?\n"
        "  registered: gaussian, neftune, plain, sized"
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"noise": "gaussian", "neftune_noise_alpha": 5.0},
            "neftune_noise_alpha and noise both ask for noise on the embeddings: leave one out\n"
            "  neftune_noise_alpha=5 means noise='neftune', noise_alpha=5",
        ),
        (
            {"noise_alpha": 5.0},
            "noise_alpha is set, but noise is not: name the noise that it is the size of\n"
            "  registered: gaussian, neftune, plain, sized",
        ),
        (
            {"noise": "neftune", "noise_alpha": -1.0},
            "noise_alpha must be a finite number, 0 or more, not -1",
        ),
        (
            {"noise": "neftune", "noise_alpha": float("nan")},
            "noise_alpha must be a finite number, 0 or more, not nan",
        ),
        (
            {"neftune_noise_alpha": float("inf")},
            "neftune_noise_alpha must be a finite number, 0 or more, not inf",
        ),
        (
            {"noise": "plain", "noise_alpha": 5.0},
            "noise 'plain' cannot be called with noise_alpha: got an unexpected keyword argument "
            "'alpha'\n  its signature: plain(embeddings, lengths)",
        ),
        (
            {"noise": "sized"},
            "noise 'sized' cannot be called with its own defaults: missing a required argument: "
            "'alpha'\n  its signature: sized(embeddings, lengths, alpha)",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    registry: Registry, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        choose(config(**fields), registry)
    assert str(error.value) == message
