"""A model without weights: every module and shape of it, built on torch's meta device.

It takes about a second and no memory for a model of any size, so that names and sizes can be
checked before a checkpoint is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import ModelError, describe

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def build(
    config: PretrainedConfig,
    *,
    sequence_classification: bool = False,
    dtype: torch.dtype | None = None,
) -> PreTrainedModel:
    """The model that ``config`` describes, on the meta device; its tied weights are tied.

    Args:
        config: Of any causal language model.
        sequence_classification: Whether to give it one score as output instead of the LM head.
        dtype: Of the parameters that the architecture does not hold in float32; float32 if None.

    Raises:
        ModelError: transformers has no such architecture.
    """
    import copy

    import torch
    import transformers

    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    name = "SequenceClassification" if sequence_classification else "CausalLM"
    if sequence_classification:
        config.num_labels = 1
    loader: Any = getattr(transformers, f"AutoModelFor{name}")
    try:
        with torch.device("meta"):
            model: PreTrainedModel = loader.from_config(config, dtype=dtype or torch.float32)
    except Exception as error:  # what a number in the config brings about where it is used
        said = error if isinstance(error, ValueError) else describe(error)
        raise ModelError(
            f"a model of type {config.model_type!r} cannot be built: {said}"
        ) from error
    model.tie_weights()
    return model
