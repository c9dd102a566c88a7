"""What stands in a model's weight files: read before it is loaded, refused where it does not fit.

transformers initialises at random what a checkpoint lacks, and warns. Here its own loading is
rehearsed on the names and shapes in the files' headers, on torch's meta device (half a second for
7 billion weights), so that renamed, fused and tied weights are judged as it will judge them.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_deepseek import health
from trl_deepseek.errors import ModelError, boundary
from trl_deepseek.models import skeleton

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

NAMES = ("model.safetensors", "pytorch_model.bin")  # transformers takes the first that is there
SCORE_HEAD = "score."  # new in a reward model that begins from a language model
LAYER = re.compile(r"\blayers\.(\d+)\.")
CLASSIFIER = "ForSequenceClassification"
NOT_WEIGHTS = {
    b"version https://git-lfs": "is a Git LFS pointer; `git lfs pull` fetches the file itself",
    b"<": "is a web page, not weights; download the file itself",
}


def files_of(name: str, revision: str | None = None) -> list[Path]:
    """The weight files that transformers would load; none where they have names of their own.

    Args:
        name: A folder, or a hub id, whose files are downloaded where they are not cached.
        revision: Of a hub id.

    Raises:
        ModelError: An index of shards cannot be read, or lists a file that is not there.
    """
    for usual in NAMES:
        whole = _find(name, usual, revision)
        if whole is not None:
            return [whole]
        index = _find(name, f"{usual}.index.json", revision)
        if index is None:
            continue
        try:
            shards = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} is no index of shards: {_say(error)}") from error
        found = {shard: _find(name, str(shard), revision) for shard in shards}
        lost = [str(shard) for shard, file in found.items() if file is None]
        if lost:
            raise ModelError(f"{index} lists shards that are not there: {health.some(lost)}")
        return [file for file in found.values() if file is not None]
    return []


def _find(name: str, file: str, revision: str | None) -> Path | None:
    if Path(name).expanduser().is_dir():
        path = Path(name).expanduser() / file
        return path if path.is_file() else None
    from transformers.utils import cached_file

    try:
        found = cached_file(name, file, revision=revision)
    except OSError:
        return None
    return None if found is None else Path(found)


def check_readable(files: Sequence[Path]) -> None:
    """Refuse files that are no weights, or not all of them.

    Raises:
        ModelError: Names the file and what it is.
    """
    for file in files:
        _headers(file)


def check_fit(
    name: str, config: PretrainedConfig, files: Sequence[Path], *, sequence_classification: bool
) -> None:
    """Refuse weights that would leave a part of the model as random as it was made.

    Args:
        name: Of the model, for messages.
        config: Of the model.
        files: As :func:`files_of` found them. Of a checkpoint that is quantized by anything but
            bitsandbytes nothing can be said by names; it is not trained on either.
        sequence_classification: Whether it becomes a reward model, whose head may be new.

    Raises:
        ModelError: A weight is missing, or has another shape than the config says; names it.
    """
    quantized = _quantization(config)
    stored = {key: value for file in files for key, value in _headers(file).items()}
    if not files or quantized not in (None, "bitsandbytes"):
        return
    if not stored:
        raise ModelError(f"model {name!r} lacks all weights: {files[0]} holds no tensors")
    architecture = _architecture(name, config, sequence_classification)
    cannot = f"model {name!r} cannot be built from its config.json"
    with _quiet(), boundary(ModelError, cannot):
        _, report = architecture.from_pretrained(
            None,
            config=_plain(config, sequence_classification),
            state_dict=stored,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    layers = getattr(config, "num_hidden_layers", None)
    beyond = sorted(_beyond(layers, config, report["unexpected_keys"]))
    if beyond:
        raise ModelError(
            f"model {name!r} has more layers than the num_hidden_layers of its config.json, "
            f"{layers}: {health.some(beyond)}\n  take config and weights from the same model"
        )
    new_head = sequence_classification and not any(SCORE_HEAD in key for key in stored)
    missing = sorted(
        key for key in report["missing_keys"] if not (new_head and key.startswith(SCORE_HEAD))
    )
    if missing:
        raise ModelError(
            f"model {name!r} lacks weights, which would be random: {health.some(missing)}\n"
            f"  its files hold {len(stored)} tensors; complete them, or name another model"
        )
    if report["mismatched_keys"] and quantized is None:
        wrong = [
            f"{key} is {_shape(found)}, not {_shape(expected)}"
            for key, found, expected in sorted(report["mismatched_keys"])
        ]
        raise ModelError(
            f"model {name!r} does not fit its config.json: {health.some(wrong)}\n"
            "  take config and weights from the same model"
        )


def require_finite(name: str, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse weights to begin from that hold NaN or infinity.

    Args:
        name: Of the model, for messages.
        tensors: Its weights by name; packed ones are integers and are passed over.

    Raises:
        ModelError: Names the tensors.
    """
    wrong = [
        tensor.removeprefix("base_model.model.").replace(".base_layer.", ".")  # peft's additions
        for tensor in health.not_finite(tensors)
    ]
    if wrong:
        raise ModelError(
            f"model {name!r} has weights that are NaN or infinite: {health.some(wrong)}\n"
            "  nothing can be learned from there; begin from an earlier checkpoint, or download it "
            "again"
        )


def tensors_of(files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """Name and values of each tensor in weight files, one at a time."""
    import torch
    from safetensors import safe_open

    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                for key in opened.keys():  # noqa: SIM118  (no mapping, it only has keys)
                    yield key, opened.get_tensor(key)
        else:
            yield from torch.load(file, map_location="cpu", weights_only=True).items()


def _headers(file: Path) -> dict[str, Tensor]:
    """The tensors of a file on the meta device: names, shapes and dtypes.

    Raises:
        ModelError: It is no such file, or cut off.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with file.open("rb") as opened:
            start = opened.read(64)
        if not start:
            raise ModelError(f"{file} is empty; download it again")
        for beginning, what in NOT_WEIGHTS.items():
            if start.lstrip().startswith(beginning):
                raise ModelError(f"{file} {what}")
        if file.suffix != ".safetensors":
            with torch.device("meta"):
                found = torch.load(file, map_location="meta", weights_only=True)
            return {key: value for key, value in found.items() if isinstance(value, torch.Tensor)}
        with safe_open(file, "pt") as weights, torch.device("meta"):
            slices = {key: weights.get_slice(key) for key in weights.keys()}  # noqa: SIM118
            return {
                key: torch.empty(part.get_shape(), dtype=_dtype(part.get_dtype()))
                for key, part in slices.items()
            }
    except ModelError:
        raise
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, AttributeError) as error:
        raise ModelError(f"{file} is cut off, or holds no weights: {_say(error)}") from error
    except pickle.UnpicklingError as error:
        raise ModelError(f"{file} holds more than weights, or none: {_say(error)}") from error


def _dtype(code: str) -> Any:
    """The torch dtype of a safetensors code; bytes where it is a packed one, whose shape counts."""
    import torch

    known = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16}
    known |= {"BF16": torch.bfloat16, "I64": torch.int64, "I32": torch.int32, "BOOL": torch.bool}
    return known.get(code, torch.uint8)


def _architecture(name: str, config: PretrainedConfig, sequence_classification: bool) -> Any:
    """The class that the weights are loaded into, chosen as TRL does.

    Raises:
        ModelError: It is a reward model, where a language model is needed.
    """
    import transformers

    named = next(iter(getattr(config, "architectures", None) or ()), "")
    if sequence_classification:
        return type(skeleton.build(config, sequence_classification=True))
    if named.endswith(CLASSIFIER):
        raise ModelError(
            f"model {name!r} is a {named}, a reward model without a language model's head\n"
            "  name the model that it was trained from"
        )
    return getattr(transformers, named, None) or type(skeleton.build(config))


def _beyond(
    layers: int | None, config: PretrainedConfig, unexpected: Iterable[str]
) -> Iterator[str]:
    """Those of the tensors that no module takes which lie in layers after the config's last.

    The layers that predict further tokens come after it, and are rightly left out.
    """
    last = (layers or 0) + (getattr(config, "num_nextn_predict_layers", None) or 0)
    for key in unexpected:
        place = LAYER.search(key)
        if layers is not None and place is not None and int(place[1]) >= last:
            yield key


def _plain(config: PretrainedConfig, sequence_classification: bool) -> PretrainedConfig:
    import copy

    plain = copy.deepcopy(config)
    if hasattr(plain, "quantization_config"):
        del plain.quantization_config
    if sequence_classification:
        plain.num_labels = 1
    return plain


def _quantization(config: PretrainedConfig) -> str | None:
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return None
    method = stored.get("quant_method") if isinstance(stored, dict) else stored.quant_method
    return str(getattr(method, "value", method))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own report and progress bar."""
    from transformers.utils import logging

    verbosity, shows = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows:
            logging.enable_progress_bar()


def _shape(size: Iterable[int]) -> str:
    return " x ".join(map(str, size))


def _say(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
