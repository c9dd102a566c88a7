"""What GRPO does with a registered policy loss or advantage; stands before TRL's trainer.

It touches TRL where a generated batch has been scored, to put other advantages in the place of
TRL's, and at the loss, which it computes where ``plan`` names an objective. Log-probs come from
TRL's own pass, ``_get_per_token_logps_and_entropies``, the entropy bonus from TRL's own loss.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from trl_deepseek.policy import kl
from trl_deepseek.policy.objective import Objective
from trl_deepseek.policy.plan import PolicyPlan
from trl_deepseek.policy.reductions import reduce
from trl_deepseek.policy_types import TokenLogps
from trl_deepseek.replacing import replaced
from trl_deepseek.trainers.trl_grpo import grpo_trainer

# What a batch carries for TRL's pass besides its tokens.
_PASSED_ON = (
    *("pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes"),
    *("num_tiles", "image_sizes", "token_type_ids", "mm_token_type_ids", "image_position_ids"),
)


class PolicyTrainer(grpo_trainer.GRPOTrainer):
    """The part of our ``GRPOTrainer`` that is about policy losses and advantages."""

    policy: PolicyPlan
    _scored: Any

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.policy.advantage is not None:
            self._replace_advantages(output)
        return output

    def _replace_advantages(self, output: dict[str, Any]) -> None:
        mode = "train" if self.model.training else "eval"
        group = self.num_generations if mode == "train" else self.num_generations_eval
        scores, weights = self._scored.scores, self.reward_weights.to(self._scored.scores.device)
        if self.policy.penalty is not None:
            penalty = self._penalty(output, mode).to(scores.dtype)
            # a completion that nobody scored stays without a score
            penalty = penalty.masked_fill(scores.isnan().all(dim=1), float("nan"))
            scores = torch.cat([scores, penalty.unsqueeze(1)], dim=1)
            weights = torch.cat([weights, weights.new_tensor([self.beta])])
        bound = self.policy.advantage
        assert bound is not None
        context: dict[str, Any] = {"step": self.state.global_step}
        if "lengths" in bound.asks:
            own = [len(ids) for ids in self._scored.completion_ids]
            context["lengths"] = self._gathered(own).view(-1, group)
        if "prompt_ids" in bound.asks:
            own = [_identity(prompt) for prompt in self._scored.prompts]
            context["prompt_ids"] = self._gathered(own).view(-1, group)[:, 0]
        grouped = scores.view(-1, group, scores.size(1))
        advantages, metrics = bound(grouped, weights, **context)
        everyones = advantages.reshape(-1).to(output["advantages"].dtype)
        own_size = len(output["advantages"])
        start = self.accelerator.process_index * own_size
        output["advantages"] = everyones[start : start + own_size].clone()
        for name, value in metrics.items():
            self._metrics[mode][name].append(float(value))
        shown = self._logs["advantages"]  # where TRL has just put its own
        for _ in range(min(len(everyones), len(shown))):
            shown.pop()
        shown.extend(everyones.tolist())

    def _gathered(self, own: list[int]) -> torch.Tensor:
        gathered: torch.Tensor = self.accelerator.gather(
            torch.tensor(own, device=self.accelerator.device)
        )
        return gathered

    @torch.no_grad()
    def _penalty(self, output: dict[str, Any], mode: str) -> torch.Tensor:
        """Minus the divergence from the reference, summed over each completion, of all processes.

        Returns:
            (B over all processes,), nats.
        """
        assert self.policy.penalty is not None
        old = output.get("old_per_token_logps")
        if old is None:
            args = self.args
            size = args.per_device_train_batch_size
            old, _, _ = self._pass(
                self.model, output, size if mode == "train" else args.per_device_eval_batch_size
            )
        tokens = self._tokens(output, old, old)
        divergence = kl.estimate(self.policy.penalty, tokens)
        return self.accelerator.gather(-(divergence * tokens.mask).sum(dim=1))

    def _pass(
        self, model: Any, inputs: Mapping[str, Any], batch_size: int | None = None, **asked: Any
    ) -> tuple[Any, Any, Any]:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attended = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        found: tuple[Any, Any, Any] = self._get_per_token_logps_and_entropies(
            model,
            ids,
            attended,
            inputs["completion_ids"].size(1),
            batch_size=batch_size,
            **asked,
            **{name: inputs.get(name) for name in _PASSED_ON},
        )
        return found

    def _tokens(self, inputs: Mapping[str, Any], logps: Any, old: Any) -> TokenLogps:
        mask = inputs["completion_mask"]
        if "tool_mask" in inputs:
            mask = mask * inputs["tool_mask"]
        corrected = self.use_vllm and self.vllm_importance_sampling_correction
        return TokenLogps(
            logps=logps,
            old=old,
            ref=inputs.get("ref_per_token_logps"),
            sampled=inputs.get("sampling_per_token_logps"),
            advantages=inputs["advantages"],
            mask=mask.bool(),
            importance=inputs["importance_sampling_ratio"] if corrected else None,
        )

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if self.policy.objective is None:
            loss: torch.Tensor = super()._compute_loss(model, inputs)
            return loss
        return self._objective_loss(model, inputs, self.policy.objective)

    def _objective_loss(
        self, model: Any, inputs: dict[str, Any], objective: Objective
    ) -> torch.Tensor:
        mode = "train" if self.model.training else "eval"
        logps, entropies, aux_loss = self._pass(
            model, inputs, compute_entropy=True, compute_aux_loss=self.aux_loss_enabled
        )
        old = inputs.get("old_per_token_logps")
        tokens = self._tokens(inputs, logps, logps.detach() if old is None else old)
        high_entropy = None
        if self.top_entropy_quantile < 1.0:
            high_entropy = self.get_high_entropy_mask(
                entropies, tokens.mask.long(), 1 - self.top_entropy_quantile
            )
        values, metrics = objective(tokens, high_entropy)
        steps = self.current_gradient_accumulation_steps if mode == "train" else 1.0
        window = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        if mode == "train":  # it is counted over a whole generated batch
            window = window * steps / self.args.steps_per_generation
        loss, reported = reduce(
            objective.reduction,
            values,
            tokens.mask,
            steps=steps,
            longest=self.max_completion_length,
            window=window,
        )
        log = self._metrics[mode]
        if self._entropy_bonus_enabled:
            loss = loss + self._entropy_bonus(model, inputs, logps.detach(), entropies, mode)
            log["policy_loss"].append(self.accelerator.gather(reported).nanmean().item())
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * aux_loss / steps
            log["aux_loss"].append(self.accelerator.gather_for_metrics(aux_loss).mean().item())
        for name, value in {**metrics, "entropy": entropies.detach()}.items():
            log[name].append(self._average(value, tokens.mask))
        return loss

    def _average(self, value: Any, mask: torch.Tensor) -> float:
        """Mean over all processes of a metric per token, per completion or of the batch."""
        value = torch.as_tensor(value, device=mask.device, dtype=torch.float32)
        per_token = value.dim() == 2 and value.shape == mask.shape
        total = value.masked_fill(~mask, 0.0).sum() if per_token else value.sum()
        count = mask.sum() if per_token else torch.tensor(value.numel(), device=mask.device)
        found = self.accelerator.reduce(torch.stack([total, count.float()]), reduction="sum")
        return float(found[0] / found[1].clamp(min=1.0))

    def _entropy_bonus(
        self, model: Any, inputs: dict[str, Any], logps: Any, entropies: Any, mode: str
    ) -> torch.Tensor:
        """What TRL adds for entropy, with its controller: its own loss where advantages are 0."""
        nothing = {
            **inputs,
            "advantages": torch.zeros_like(inputs["advantages"]),
            "old_per_token_logps": logps,
            "sampling_per_token_logps": logps,
        }
        apart: Any = {name: defaultdict(list) for name in ("train", "eval")}
        with replaced(
            self,
            _get_per_token_logps_and_entropies=lambda *_, **__: (logps, entropies, None),
            _metrics=apart,
            aux_loss_enabled=False,
            beta=0.0,
            loss_type="grpo",
        ):
            bonus: torch.Tensor = super()._compute_loss(model, nothing)
        self._metrics[mode]["entropy_coef"] += apart[mode]["entropy_coef"]
        return bonus


def _identity(prompt: Any) -> int:
    """A number for a prompt, the same in every process and every run."""
    text = json.dumps(prompt, sort_keys=True, default=str).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")
