"""Every hook a plugin may implement.

The verb is the contract. ``register_*`` runs once for every plugin, before a model is loaded, and
returns nothing: call ``register(name, item)`` once per item. Each hook is called for every plugin;
order never matters, since names are unique across plugins.
"""

from __future__ import annotations

import pluggy

from trl_deepseek.types import Register

PROJECT = "trl_deepseek"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_chat_templates(register: Register) -> None:
    """Offer chat formats, to be named in ``chat_template``.

    Args:
        register: Call as ``register(name, ChatTemplate(...))``.
    """


@hookspec
def register_noises(register: Register) -> None:
    """Offer embedding noise, to be named in ``noise``.

    Args:
        register: Call as ``register(name, noise)``, where
            ``noise(embeddings, lengths, alpha=...)`` takes embeddings (B, T, H) and the length of
            the document that each token stands in, (B, T), and returns the noised embeddings,
            (B, T, H); see :class:`trl_deepseek.types.Noise`.
    """


@hookspec
def register_losses(register: Register) -> None:
    """Offer losses, to be named in ``loss_type``.

    Args:
        register: Call as ``register(name, loss, data="pairs", reference=True, prompt_nll=False,
            kl=False)``, where ``loss(logps, **options)`` returns one loss per sequence, (B,), or
            that and a dict of metrics, and leaves the mean to the trainer. ``data`` is ``pairs``,
            ``unpaired`` or ``rewards``; see :class:`trl_deepseek.types.Loss`.
    """


@hookspec
def register_rewards(register: Register) -> None:
    """Offer reward functions, to be named in ``reward_funcs``.

    Args:
        register: Call as ``register(name, reward, columns=(), timeout=None, isolate=False,
            samplewise=False, runs_code=False, requires=(), check_row=None, tasks=None)``, where
            ``reward(prompts, completions, completion_ids, **columns)`` returns one float per
            completion, or None to abstain; or per sample, ``reward(completion, **columns)``
            returns one; sync or async. ``columns`` names the dataset columns it needs;
            ``timeout`` is in seconds; see :class:`trl_deepseek.types.Reward` for the rest.
    """


@hookspec
def register_quantizations(register: Register) -> None:
    """Offer ways to hold the base model in memory, to be named in ``quantization``.

    Args:
        register: Call as ``register(name, Quantization(...))``.
    """


@hookspec
def register_metrics(register: Register) -> None:
    """Offer metrics, to be named in ``evaluate --metrics``; every reward is one already.

    Args:
        register: Call as ``register(name, metric, over="completions", columns=(), rows="prompts",
            aggregate=None, judge=None, requires=(), check=None, check_row=None,
            higher_is_better=True, scores=False)``. ``metric`` has a reward's
            signature and gives each answer a number, or None to abstain; over ``groups`` it gives
            one to all answers to a prompt together; over ``model``,
            ``metric(model, tokenizer, dataset, **options)`` gives one to each row. See
            :class:`trl_deepseek.types.Metric`.
    """


@hookspec
def register_advantages(register: Register) -> None:
    """Offer advantages, to be named in ``advantage`` of GRPO.

    Args:
        register: Call as ``register(name, advantage, kl_in_reward=True)``, where
            ``advantage(scores, weights, **options)`` takes the scores of a generated batch,
            (groups, G, rewards), NaN where a reward abstained, and the rewards' weights, and
            returns (groups, G), or that and a dict of metrics; see
            :class:`trl_deepseek.policy_types.Advantage`.
    """


@hookspec
def register_policy_losses(register: Register) -> None:
    """Offer policy losses, to be named in ``loss_type`` of GRPO.

    Args:
        register: Call as ``register(name, loss, reduction="sequence_mean", stock=False,
            owns_importance=False)``, where ``loss(tokens, **options)`` takes
            :class:`trl_deepseek.TokenLogps` and returns the loss per token, (B, T), or that and a
            dict of metrics; see :class:`trl_deepseek.policy_types.PolicyLoss`.
    """


@hookspec
def register_models(register: Register) -> None:
    """Offer embedded models, to be named in ``model_name_or_path``.

    Args:
        register: Call as ``register(name, build)``, where ``build(seed=0)`` returns a new model
            and its tokenizer.
    """


@hookspec
def register_datasets(register: Register) -> None:
    """Offer embedded datasets, to be named in ``dataset_name``.

    Args:
        register: Call as ``register(name, build, verifier=None, system_prompt=None,
            requires=())``, where ``build(split="train", kind="prompts", size=None, seed=0,
            **options)`` returns a ``Dataset`` with the columns that ``kind`` stands for:
            ``demonstrations`` (prompt, completion), ``preferences`` (prompt, chosen, rejected) or
            ``prompts`` (prompt, and what the verifier reads, such as solution). ``verifier`` names
            the reward that scores answers to it, ``options`` are what ``dataset_kwargs`` sets, and
            a builder with a parameter ``task`` is named ``NAME:TASK``; see
            :class:`trl_deepseek.dataset_types.EmbeddedDataset`.
    """


@hookspec
def register_tools(register: Register) -> None:
    """Offer tools that a model may call while it answers, to be named in ``tools``.

    Args:
        register: Call as ``register(name, tool, timeout=None, isolate=False, requires=())``, where
            ``tool(argument, ...)``, sync or async, returns text or what JSON can hold; the model is
            told of it by its type hints and docstring. ``timeout`` is in seconds; see
            :class:`trl_deepseek.types.Tool`.
    """


@hookspec
def register_presets(register: Register) -> None:
    """Offer named settings of a training command, to be named in ``preset``.

    Args:
        register: Call as ``register(name, Preset(...))``; each number has a source, see
            :class:`trl_deepseek.types.Preset`.
    """
