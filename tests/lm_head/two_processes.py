"""Run by ``test_two_processes.py`` on two processes: each scores one row, FSDP2 or DDP sums up."""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from trl_deepseek import load_registry
from trl_deepseek.lm_head import token_logps


def largest_error(found: list[Any], expected: list[nn.Parameter]) -> float:
    """Of averaged gradients, relative to the largest entry of each summed gradient."""
    return max(
        float((2 * mine - true.grad).abs().max() / true.grad.abs().max().clamp(min=1e-6))
        for mine, true in zip(found, expected, strict=True)
        if true.grad is not None
    )


def main() -> None:
    """Print, for each wrapper, the largest error of log-probs and gradients."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    plain = load_registry().models["tiny-deepseek-v3"]()[0]
    ids = torch.randint(1, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :4] = -100
    own: dict[str, Any] = {"input_ids": ids[rank : rank + 1], "labels": labels[rank : rank + 1]}
    wrapped: dict[str, Any] = {
        "ddp": nn.parallel.DistributedDataParallel(
            copy.deepcopy(plain), find_unused_parameters=True
        )
    }
    mesh = init_device_mesh("cpu", (2,))
    for name in ("fsdp2", "fsdp2, head alone"):
        model = copy.deepcopy(plain)
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        if name != "fsdp2":
            fully_shard(model.lm_head, mesh=mesh)
        wrapped[name] = fully_shard(model, mesh=mesh)

    both = token_logps(plain, input_ids=ids, labels=labels).logps
    both.sum().backward()
    errors = {}
    for name, model in wrapped.items():
        logps = token_logps(model, **own).logps
        logps.sum().backward()
        gradients = [p.grad for p in model.parameters()]
        whole = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in gradients]
        errors[name] = (
            float((logps - both[rank : rank + 1]).abs().max()),
            largest_error(whole, list(plain.parameters())),
        )
    if rank == 0:
        print("errors", json.dumps(errors))


if __name__ == "__main__":
    main()
