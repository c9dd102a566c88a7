"""A conversation with a model: its turns, and each answer as it is generated."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from trl_deepseek import chat, generation, stopping
from trl_deepseek.chat import reasoning
from trl_deepseek.chat.streaming import Parting
from trl_deepseek.errors import ConfigError, TemplateError
from trl_deepseek.generation import Sampling
from trl_deepseek.registry import Registry
from trl_deepseek.trainers import ranges
from trl_deepseek.types import Messages

logger = logging.getLogger(__name__)

# What templates call the option: DeepSeek's families, and others.
THINKING = ("thinking", "enable_thinking")
Show = Callable[[bool, str], None]  # of each part of an answer: whether it is reasoning, and text


@dataclass
class ChatOptions:
    """The options of a conversation; those of generation have the same names elsewhere."""

    chat_template: str | None = field(
        default=None,
        metadata={"help": "Registered template or .jinja file; when not given, recognised."},
    )
    thinking: Literal["on", "off"] | None = field(
        default=None, metadata={"help": "Whether to think first, where the template has a choice."}
    )
    system: str | None = field(default=None, metadata={"help": "What the system message says."})
    max_new_tokens: int = field(default=1024, metadata={"help": "Longest answer, in tokens."})
    temperature: float = field(default=0.6, metadata={"help": "0 for the likeliest answer."})
    top_p: float = field(default=0.95, metadata={"help": "Nucleus that is sampled from."})
    top_k: int = field(default=0, metadata={"help": "Likeliest tokens to sample from; 0 for all."})
    seed: int = field(default=0, metadata={"help": "Of the sampling."})
    quantization: str | None = field(
        default=None,
        metadata={"help": "How the weights are held; that of training for an adapter."},
    )
    dtype: Literal["bfloat16", "float16", "float32"] | None = field(
        default=None, metadata={"help": "Of the weights; when not given, as they are stored."}
    )

    def __post_init__(self) -> None:
        ranges.check_numbers(self, but=["temperature"])
        Sampling(temperature=self.temperature)


@dataclass
class Job:
    """A conversation with everything checked that can be before a model is loaded."""

    model: str
    options: ChatOptions
    registry: Registry
    tokenizer: Any
    template_kwargs: dict[str, Any]


def check(name: str, options: ChatOptions, registry: Registry) -> Job:
    """The checked job.

    Args:
        name: An embedded model, the folder of a model or an adapter, or a hub id.
        options: Of the conversation.
        registry: Where names are looked up.

    Raises:
        UserError: There is no such model or template, the model has none, or the template has no
            choice of thinking.
    """
    tokenizer = generation.check(
        name, registry, quantization=options.quantization, chat_template=options.chat_template
    )
    if not tokenizer.chat_template:
        raise TemplateError(
            f"the tokenizer of {name} has no chat template\n  name one with --chat_template; "
            f"registered: {', '.join(registry.chat_templates)}"
        )
    with chat.inference_template(tokenizer):
        kwargs = _thinking(tokenizer, options.thinking)
    return Job(name, options, registry, tokenizer, kwargs)


def _thinking(tokenizer: Any, wanted: str | None) -> dict[str, Any]:
    """The template's option that makes the model think or not."""
    if wanted is None:
        return {}
    for name in THINKING:
        prompts = {
            value: tokenizer.apply_chat_template(
                [{"role": "user", "content": "q"}],
                tokenize=False,
                add_generation_prompt=True,
                **{name: value},
            )
            for value in (True, False)
        }
        if prompts[True] != prompts[False]:
            return {name: wanted == "on"}
    raise ConfigError(
        f"thinking {wanted}: this chat template has no choice of thinking\n  leave it out, or name "
        "a template that has it, such as --chat_template deepseek-v3.1"
    )


class Conversation:
    """The turns so far, and a loaded model that goes on with them.

    Args:
        job: As :func:`check` returned it.
    """

    def __init__(self, job: Job) -> None:
        options = job.options
        self.job = job
        self.model, self.tokenizer = generation.load(
            job.model,
            job.registry,
            quantization=options.quantization,
            chat_template=options.chat_template,
            dtype=options.dtype,
        )
        self.messages: Messages = []
        self._answers = 0  # given so far, each drawn by a seed of its own
        self.reset()

    def reset(self) -> None:
        """Forget all turns but the system message."""
        system = self.job.options.system
        self.messages = [] if system is None else [{"role": "system", "content": system}]

    def answer(self, said: str, show: Show) -> str:
        """Answer what the user said, showing the answer as it comes.

        Ctrl-C meanwhile stops the answer. What is there of an answer stays in the conversation; one
        that has not got beyond its reasoning is taken back, with the question.

        Returns:
            How it did not end by itself, in a sentence; empty where it did.

        Raises:
            TemplateError: The template cannot render the conversation.
        """
        asked = [*self.messages, {"role": "user", "content": said}]
        encoded, prefix = self._encode(asked)
        opened = reasoning.opens_thinking(prefix)
        parting = Parting(opened)
        whole: list[str] = []

        def take(text: str) -> None:
            whole.append(text)
            for part in parting.feed(text):
                show(*part)

        with _stoppable() as stopped:
            ended = self._generate(encoded, take, stopped)
        for part in parting.end():
            show(*part)
        how = "stopped" if stopped else "" if ended else "cut off at max_new_tokens"
        text = "".join(whole)
        if how and (parting.reasons or not text.strip()):
            return f"{how} before an answer: the question is taken back"
        content = (reasoning.OPEN if opened else "") + text
        self.messages = [*asked, {"role": "assistant", "content": content}]
        return how

    def _encode(self, messages: Messages) -> tuple[Any, str]:
        """The prompt's tokens, and what it ends with behind the assistant's header."""
        from jinja2 import TemplateError as JinjaError

        kwargs = self.job.template_kwargs
        with chat.inference_template(self.tokenizer):
            try:
                encoded = self.tokenizer.apply_chat_template(
                    messages,
                    add_generation_prompt=True,
                    return_dict=True,
                    return_tensors="pt",
                    **kwargs,
                )
            except JinjaError as error:
                raise TemplateError(f"the chat template cannot render this: {error}") from error
            prefix = chat.generation_prefix(self.tokenizer, **kwargs)
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and encoded["input_ids"].shape[1] >= positions:
            logger.warning(
                "the conversation has %d tokens, and the model knows %d positions: begin anew",
                *(encoded["input_ids"].shape[1], positions),
            )
        return encoded.to(self.model.device), prefix

    def _generate(self, encoded: Any, take: Callable[[str], None], stopped: list[int]) -> bool:
        """Generate an answer; whether it ended by itself."""
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer

        class Pieces(TextStreamer):
            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                take(text)

        class Stop(StoppingCriteria):
            def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
                return torch.full((input_ids.shape[0],), bool(stopped), device=input_ids.device)

        options = self.job.options
        samples = options.temperature > 0
        chosen = {
            "temperature": options.temperature,
            "top_p": options.top_p,
            "top_k": options.top_k,
        }
        torch.manual_seed(options.seed + self._answers)
        self._answers += 1
        output = self.model.generate(
            **encoded,
            max_new_tokens=options.max_new_tokens,
            do_sample=samples,
            streamer=Pieces(self.tokenizer, skip_prompt=True, skip_special_tokens=True),
            stopping_criteria=StoppingCriteriaList([Stop()]),
            **(chosen if samples else {}),
        )
        ends = self.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, (list, tuple)) else [ends]
        return int(output[0, -1]) in ends


@contextlib.contextmanager
def _stoppable() -> Iterator[list[int]]:
    """Meanwhile the first Ctrl-C is noted in what is yielded; all else ends the command."""
    noted: list[int] = []

    def receive(number: int) -> None:
        if number != signal.SIGINT or noted:
            raise stopping.Interrupted(number)
        noted.append(number)

    with stopping.passing_on(receive):
        yield noted
