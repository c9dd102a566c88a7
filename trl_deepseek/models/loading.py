"""Find a model and its tokenizer: an embedded one by name, a folder, or a hub id.

Everything that can be wrong with a folder is said before any weight is read.
"""

from __future__ import annotations

import copy
import difflib
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_deepseek.checkpoints.writing import is_half_moved
from trl_deepseek.errors import ModelError, describe, did_you_mean
from trl_deepseek.models import published, vocabulary, weights
from trl_deepseek.registry import Registry

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SEED_REVISION = "seed-"
TYPED_WRONG = 0.8  # so like an embedded model's name that the hub, slow to say no, is not asked
WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.safetensors.index.json", "*.bin.index.json")


def check(name: str, registry: Registry, *, needs_weights: bool = True) -> None:
    """Refuse a name that cannot be loaded, as far as that shows without loading it.

    Args:
        name: An embedded model, a folder, or a hub id.
        registry: Where embedded models are looked up.
        needs_weights: Whether the weights are needed too, or only the config.

    Raises:
        ModelError: ``name`` is a folder without config or weights, or with an adapter alone, a path
            that does not exist, the name of an embedded model with a slip, or the short name of a
            config that is shipped without weights; or a file of weights is cut off or holds
            something else.
    """
    if name in registry.models:
        return
    folder = Path(name).expanduser()
    if not folder.exists():
        known = published.find(name)
        if known is not None and "/" not in name and needs_weights:
            raise ModelError(
                f"model {name!r} is a shipped config without weights, for --dry_run\n"
                f"  the weights are on the hub: {published.PUBLISHED[known].hub_id}"
            )
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise ModelError(f"model folder {name!r} does not exist")
        if "/" not in name and difflib.get_close_matches(name, registry.models, 1, TYPED_WRONG):
            raise ModelError(f"no model {name!r}{did_you_mean(name, registry.models)}")
        return  # a hub id; whether it exists is for the hub to say
    if not folder.is_dir():
        raise ModelError(f"model {name!r} is a file; name the folder that contains it")
    if is_half_moved(folder):
        raise ModelError(
            f"model folder {name!r} is partly a former model: the save of the last one was cut "
            "short\n  run what saved it again, with --resume_from_checkpoint true"
        )
    files = sorted(path.name for path in folder.iterdir())
    if "config.json" not in files and "adapter_config.json" in files:
        raise ModelError(
            f"model folder {name!r} holds an adapter and no model\n"
            f"  merge it first: trl-deepseek merge {name} --output_dir {name}-merged"
        )
    if "config.json" not in files:
        raise ModelError(f"model folder {name!r} has no config.json\n  it contains: {_some(files)}")
    if needs_weights and not any(any(folder.glob(pattern)) for pattern in WEIGHTS):
        raise ModelError(
            f"model folder {name!r} has no weights (*.safetensors or pytorch_model*.bin)\n"
            f"  it contains: {_some(files)}"
        )
    _check_config(folder / "config.json")
    if "generation_config.json" in files:  # transformers takes one that it cannot read for none
        _settings(folder / "generation_config.json")
    if needs_weights:
        weights.check_readable(weights.files_of(name))


def _check_config(file: Path) -> None:
    """Refuse a config.json that names no architecture of transformers."""
    from transformers import CONFIG_MAPPING

    settings = _settings(file)
    kind = settings.get("model_type")
    if kind is None:
        raise ModelError(f"{str(file)!r} names no model_type: it is no model of transformers")
    if kind not in CONFIG_MAPPING and "auto_map" not in settings:
        hint = did_you_mean(kind, CONFIG_MAPPING, inline=True)
        raise ModelError(f"{str(file)!r}: transformers knows no model_type {kind!r}{hint}")


def _settings(file: Path) -> dict[str, Any]:
    text = file.read_text(encoding="utf-8", errors="replace")
    if text.startswith("version https://git-lfs"):
        raise ModelError(f"{str(file)!r} is a pointer of git LFS, not the file\n  git lfs pull")
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise ModelError(f"{str(file)!r} is not valid JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ModelError(f"{str(file)!r} holds a {type(settings).__name__}, no object of settings")
    return settings


def resolve(
    model: str | PreTrainedModel, registry: Registry, args: Any
) -> tuple[str | PreTrainedModel, PreTrainedTokenizerBase | None]:
    """What a TRL trainer takes as its model, and the tokenizer where an embedded model brings one.

    An embedded model is built here, with ``args.seed``; a folder or hub id stays a string.

    Raises:
        ModelError: See :func:`check` and :func:`check_weights`; or a model in memory has weights
            that are NaN or infinite.
    """
    if not isinstance(model, str):
        name = getattr(model.config, "_name_or_path", "") or type(model).__name__
        weights.require_finite(name, model.named_parameters())
        return model, None
    check(model, registry)
    if model in registry.models:
        return registry.models[model](seed=args.seed)
    if Path(model).expanduser().is_dir():
        check_weights(model, registry, args)
    return model, None


def check_weights(name: str, registry: Registry, args: Any, *, finite: bool = False) -> None:
    """Refuse a folder or hub id whose weights are not whole, by its files.

    Args:
        name: A folder, or a hub id, which is downloaded.
        registry: Where embedded models are looked up.
        args: The config of a trainer; None for what generates.
        finite: Whether to read the values too, for a model that will be packed as it is loaded.

    Raises:
        ModelError: Weights are missing, have other shapes than the config says, or are NaN or
            infinite; names them.
    """
    import trl

    revision = (getattr(args, "model_init_kwargs", None) or {}).get("revision")
    files = weights.files_of(name, revision)
    if getattr(args, "trust_remote_code", False):
        logger.info("model %s has code of its own: its weights' names are not checked", name)
    else:
        config = load_config(name, registry, revision)
        scores = isinstance(args, trl.RewardConfig)
        weights.check_fit(name, config, files, sequence_classification=scores)
    if finite:
        weights.require_finite(name, weights.tensors_of(files))


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, model: str | PreTrainedModel, registry: Registry, args: Any
) -> None:
    """Refuse a tokenizer some of whose tokens a model does not know.

    Raises:
        ModelError: See :func:`trl_deepseek.models.vocabulary.check`.
    """
    if isinstance(model, str):
        if getattr(args, "trust_remote_code", False):
            return
        revision = (getattr(args, "model_init_kwargs", None) or {}).get("revision")
        config = load_config(model, registry, revision)
        rows = getattr(config.get_text_config(), "vocab_size", None)
        vocabulary.check(tokenizer, config, model, rows)
        return
    config = model.config
    name = getattr(config, "_name_or_path", "") or type(model).__name__
    vocabulary.check(tokenizer, config, name, model.get_input_embeddings().num_embeddings)


def load_config(
    name: str, registry: Registry, revision: str | None = None, *, trust: bool = False
) -> PretrainedConfig:
    """The config of a model, without its weights (an embedded model is small enough to build).

    That of a common DeepSeek model is shipped and needs no network; see
    :mod:`trl_deepseek.models.published`.

    Args:
        name: An embedded model, a folder, or a hub id.
        registry: Where embedded models are looked up.
        revision: Of a hub id.
        trust: Whether code that comes with the model may run; it is never asked for at a prompt.

    Raises:
        ModelError: There is no such model, or it has code of its own, which is not trusted.
    """
    from transformers import AutoConfig

    check(name, registry, needs_weights=False)
    if name in registry.models:
        return registry.models[name]()[0].config
    known = published.find(name)
    if known is not None and not Path(name).exists() and revision in (None, "main"):
        return published.config(known)
    try:
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust)
    except (OSError, ValueError) as error:
        if not trust and "trust_remote_code" in str(error):
            raise ModelError(
                f"model {name!r} comes with custom code, which runs with all of your rights\n"
                "  read it, and add --trust_remote_code true (trust_remote_code=True in a config)"
            ) from error
        raise ModelError(
            f"model {name!r} cannot be found: {_first_line(error)}{_nowhere(name)}"
        ) from error
    except Exception as error:  # transformers tries what the config says, each in its own way
        raise ModelError(
            f"model {name!r}: transformers does not take its config.json: {describe(error)}"
        ) from error


def load_tokenizer(name: str, args: Any, **kwargs: Any) -> PreTrainedTokenizerBase:
    """The tokenizer (or processor) of the model called ``name``.

    Raises:
        ModelError: There is none, or the hub cannot be reached.
    """
    from transformers import AutoProcessor

    if not name:
        raise ModelError(
            "the model has no name by which its tokenizer could be found\n"
            "  pass the tokenizer as processing_class"
        )
    revision = (getattr(args, "model_init_kwargs", None) or {}).get("revision")
    trust = getattr(args, "trust_remote_code", False)
    try:
        return AutoProcessor.from_pretrained(
            name, revision=revision, trust_remote_code=trust, **kwargs
        )
    except (OSError, ValueError) as error:
        folder = Path(name).expanduser()
        files = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        if files and not any(file.startswith("token") for file in files):
            raise ModelError(
                f"model folder {name!r} has no tokenizer; copy that of its base model beside it\n"
                f"  it contains: {_some(files)}"
            ) from error
        raise ModelError(
            f"no tokenizer for model {name!r}: {_first_line(error)}{_nowhere(name)}"
        ) from error


def _nowhere(name: str) -> str:
    """What a name is not that was then looked for on the hub, as a line of a message."""
    if Path(name).expanduser().exists():
        return ""
    return "\n  it is no folder here and no embedded model; `trl-deepseek plugins` lists those"


def load(
    name: str, registry: Registry, *, seed: int = 0, **kwargs: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, ready to generate.

    Args:
        name: An embedded model, a folder, or a hub id.
        registry: Where embedded models are looked up.
        seed: Of an embedded model's random weights.
        **kwargs: Passed to ``from_pretrained``.

    Raises:
        ModelError: There is no such model.
    """
    from transformers import AutoModelForCausalLM

    check(name, registry)
    if name in registry.models:
        return registry.models[name](seed=seed)
    check_weights(name, registry, None)
    tokenizer = load_tokenizer(name, None)
    try:
        return AutoModelForCausalLM.from_pretrained(name, **kwargs), tokenizer
    except (OSError, ValueError) as error:
        raise ModelError(f"model {name!r} does not load: {_first_line(error)}") from error


def revision_of_seed(seed: int) -> str:
    """What an adapter on an embedded model notes as its base's revision."""
    return f"{SEED_REVISION}{seed}"


def build_revision(name: str, revision: str | None, registry: Registry) -> PreTrainedModel:
    """The embedded model that an adapter was trained on: its weights are those of its seed.

    Raises:
        ModelError: The adapter does not say which seed.
    """
    digits = (revision or "").removeprefix(SEED_REVISION)
    if not digits.isdigit() or digits == revision:
        raise ModelError(
            f"an adapter on the embedded model {name!r} does not say with which seed it was built "
            f"(its revision is {revision!r}, not '{SEED_REVISION}0')"
        )
    return registry.models[name](seed=int(digits))[0]


def as_reward_model(language_model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """The same backbone with a new head that gives one score per text.

    Args:
        language_model: A causal language model whose architecture has a sequence classifier.
        seed: Of the new head's random weights; the caller's random state is left as it was.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(language_model.config)
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config, dtype=language_model.dtype)
    model.base_model.load_state_dict(language_model.base_model.state_dict())
    return model


def copy_of(model: Any) -> Any:
    """A copy of a model in memory that shares nothing with it.

    A trainer leaves its own ``forward`` on a model, a closure that a deep copy would share: it
    would go on to run the original's weights. The copy has its class's again.
    """
    import copy

    copied = copy.deepcopy(model)
    if not hasattr(
        copied, "_hf_hook"
    ):  # accelerate's dispatch to devices is copied as it should be
        for name in ("forward", "_original_forward"):
            vars(copied).pop(name, None)
    return copied


def _some(files: list[str]) -> str:
    return ", ".join(files[:12] + ["..."] * (len(files) > 12)) or "(nothing)"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
