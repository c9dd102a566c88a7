"""Noise on the input embeddings, in the policy's gradient pass and nowhere else.

Three hooks while a trainer trains: two on the model and its backbone, which see how the rows of a
forward are laid out (padding, packing, shared prefixes), and one on the input embedding, which
calls the registered noise with the true length of the document that each token stands in. It
fires only inside a forward in training mode that records gradients. That leaves out evaluation,
generation, and every pass for reference or old log-probs, also where these share the policy's
weights under LoRA.

The noise has a random stream of its own, a function of seed, process, step and firing: whether a
run is noised changes nothing else that is drawn (rollouts, dropout, order), and a resumed run
draws what the interrupted one would have drawn.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import ConfigError, RunError, boundary
from trl_deepseek.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class NamedNoise:
    """A registered noise and the options that a run calls it with."""

    name: str
    function: Callable[..., Tensor]
    options: dict[str, float]

    @property
    def alpha(self) -> float | None:
        """Its size: as given, else its own default; None where it takes none."""
        bound = inspect.signature(self.function).bind(None, None, **self.options)
        bound.apply_defaults()
        found: float | None = bound.arguments.get("alpha")
        return found

    def __call__(self, embeddings: Tensor, lengths: Tensor) -> Tensor:
        """Noised ``embeddings``, (B, T, H).

        Raises:
            RunError: The noise raised, or returned something else than embeddings.
        """
        with boundary(RunError, f"noise {self.name!r} failed"):
            noised = self.function(embeddings, lengths, **self.options)
        shape, dtype = getattr(noised, "shape", None), getattr(noised, "dtype", None)
        if shape != embeddings.shape or dtype != embeddings.dtype:
            found = type(noised).__name__ if shape is None else f"{tuple(shape)}, {dtype}"
            raise RunError(
                f"noise {self.name!r} must return embeddings as it got them "
                f"({tuple(embeddings.shape)}, {embeddings.dtype}), not {found}"
            )
        return noised


def choose(args: Any, registry: Registry) -> NamedNoise | None:
    """The noise that a config asks for, with ``noise`` or with transformers' own field for it.

    Raises:
        UnknownName: No plugin registers that noise.
        ConfigError: ``noise_alpha`` without a noise or not a size, a noise that takes no alpha or
            needs one, or ``neftune_noise_alpha`` beside ``noise``.
    """
    name, alpha = getattr(args, "noise", None), getattr(args, "noise_alpha", None)
    theirs = getattr(args, "neftune_noise_alpha", None)
    option = "noise_alpha"
    if theirs is not None:
        if name is not None or alpha is not None:
            raise ConfigError(
                "neftune_noise_alpha and noise both ask for noise on the embeddings: leave one "
                f"out\n  neftune_noise_alpha={theirs:g} means noise='neftune', "
                f"noise_alpha={theirs:g}"
            )
        name, alpha, option = "neftune", theirs, "neftune_noise_alpha"
    if name is None:
        if alpha is not None:
            raise ConfigError(
                "noise_alpha is set, but noise is not: name the noise that it is the size of\n"
                f"  registered: {', '.join(registry.noises) or '(none)'}"
            )
        return None
    function = registry.noises[name]
    if alpha is not None and not (math.isfinite(alpha) and alpha >= 0):
        raise ConfigError(f"{option} must be a finite number, 0 or more, not {alpha:g}")
    options = {} if alpha is None else {"alpha": alpha}
    try:
        inspect.signature(function).bind(None, None, **options)
    except TypeError as error:
        raise ConfigError(
            f"noise {name!r} cannot be called with "
            f"{'noise_alpha' if options else 'its own defaults'}: {error}\n"
            f"  its signature: {name}{inspect.signature(function)}"
        ) from error
    return NamedNoise(name, function, options)


def document_lengths(
    attention_mask: Tensor | None, position_ids: Tensor | None, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Length of the document that each token stands in, and which tokens are not padding; (B, T).

    A document is a run of consecutive positions. A run that starts at position p > 0 behind
    another one is a branch on a shared prefix: its document has p tokens more.

    Args:
        attention_mask: 2-D, 1 where a token is real; None, or a 4-D mask, says nothing about
            padding.
        position_ids: (B, T) or (1, T); None where the model counts by itself.
        like: Any tensor of shape (B, T, ...) on the right device.
    """
    import torch

    rows, width = like.shape[:2]
    real = torch.ones((rows, width), dtype=torch.bool, device=like.device)
    if attention_mask is not None and attention_mask.dim() == 2:
        real = attention_mask.to(like.device).bool()
    if position_ids is None or position_ids.dim() != 2:
        return real.sum(1, keepdim=True).clamp(min=1).expand(rows, width), real
    positions = position_ids.to(like.device).expand(rows, width)
    run = torch.zeros_like(positions)
    run[:, 1:] = (positions.diff(dim=1) != 1).cumsum(1)  # (B, T), the index of each token's run
    tokens = torch.zeros_like(run).scatter_add_(1, run, real.to(run.dtype))  # per run
    # Where each run's first real token stands; the row's first run is no branch of anything.
    far = torch.iinfo(positions.dtype).max
    start = torch.full_like(run, far).scatter_reduce_(
        1, run, positions.masked_fill(~real, far), "amin"
    )
    first = run.gather(1, real.to(torch.int8).argmax(1, keepdim=True))
    prefix = start.masked_fill(start == far, 0).scatter(1, first, 0)
    return (tokens + prefix).gather(1, run).clamp(min=1), real


@dataclass
class EmbeddingNoise:
    """Noises the embeddings of one model while it is attached.

    Attributes:
        noise: What to call.
        seed: Of the run.
        process: Index among the processes that see different data.
        step: Tells the current optimizer step.
        firings: How often noise has been added.
    """

    noise: NamedNoise
    seed: int = 0
    process: int = 0
    step: Callable[[], int] = lambda: 0
    firings: int = 0
    _layouts: list[dict[str, Any]] = field(default_factory=list)
    _last: tuple[int, int] = (-1, 0)

    @contextmanager
    def attached(self, model: Any) -> Iterator[None]:
        """Noise the embeddings of ``model`` (a transformers model, with or without PEFT)."""
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        with ExitStack() as hooks:
            # The backbone is called alone where log-probs are computed without the LM head's
            # forward; the outermost module, because prompt tuning embeds before it calls the rest.
            for module in {id(m): m for m in (model, base, base.base_model)}.values():
                before = module.register_forward_pre_hook(self._enter, with_kwargs=True)
                after = module.register_forward_hook(self._leave, always_call=True)
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            hook = base.get_input_embeddings().register_forward_hook(self._add)
            hooks.callback(hook.remove)
            try:
                yield
            finally:
                self._layouts.clear()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        import torch

        given: dict[str, Any] = {}
        if torch.is_grad_enabled():  # without, nothing will be noised, and decoding is to be fast
            with suppress(TypeError):  # then the call itself is about to say what is wrong with it
                given = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        self._layouts.append({**given.get("kwargs", {}), **given})

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self._layouts:
            self._layouts.pop()

    def _add(self, module: nn.Module, args: tuple[Any, ...], embeddings: Tensor) -> Tensor | None:
        """Forward hook of the embedding: None leaves its output as it is."""
        import torch

        if not (self._layouts and module.training and torch.is_grad_enabled()):
            return None
        layout = self._layouts[-1]
        lengths, real = document_lengths(
            layout.get("attention_mask"), layout.get("position_ids"), embeddings
        )
        with _own_stream(self._next_seed()):
            noised = self.noise(embeddings, lengths)
        self.firings += 1
        return torch.where(real.unsqueeze(-1), noised, embeddings)

    def _next_seed(self) -> int:
        step = self.step()
        self._last = (step, self._last[1] + 1 if self._last[0] == step else 0)
        key = f"{self.seed} {self.process} {self._last}"
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def _own_stream(seed: int) -> Iterator[None]:
    """Draw from ``seed``, and leave the random state of every device as it was."""
    import torch

    accelerator = torch.accelerator.current_accelerator()
    kind = "cuda" if accelerator is None else accelerator.type
    with torch.random.fork_rng(range(torch.accelerator.device_count()), device_type=kind):
        torch.manual_seed(seed)
        yield
