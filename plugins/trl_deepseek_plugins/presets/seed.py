"""The method that this project follows: SFT with LoRA and noise, then DPO.

Its tables stand in ``docs/choosing.md``. A batch is per process: divide the accumulation by the
number of processes.
"""

from __future__ import annotations

from trl_deepseek import hookimpl
from trl_deepseek.types import Preset, Register

TABLE = "the method, docs/choosing.md,"


@hookimpl
def register_presets(register: Register) -> None:
    register("seed-sft", SFT)
    register("seed-dpo", DPO)


SFT = Preset(
    description="The project's method: SFT with LoRA and NEFTune on one GPU.",
    command="sft",
    values={
        "learning_rate": 2e-5,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 8,
        "max_length": 4096,
        "weight_decay": 0.01,
        "warmup_steps": 0.03,
        "neftune_noise_alpha": 5.0,
    },
    model={"use_peft": True, "lora_r": 64, "lora_alpha": 128, "lora_dropout": 0.05},
    sources={
        "learning_rate": f"{TABLE} SFT; arXiv:2401.02954, section 4, has 1e-5 for 7B",
        "num_train_epochs": f"{TABLE} SFT; arXiv:2401.02954, section 4, has 4 for 7B, 2 for 67B",
        "per_device_train_batch_size": f"{TABLE} SFT: 4, by 8 steps of accumulation",
        "gradient_accumulation_steps": f"{TABLE} SFT: 32 rows per step on one process",
        "max_length": f"{TABLE} SFT; the context of the models of arXiv:2401.02954, section 2.2",
        "weight_decay": f"{TABLE} SFT",
        "warmup_steps": f"{TABLE} SFT: 3 % of all steps",
        "neftune_noise_alpha": f"{TABLE} SFT; 5, 10 and 15 in arXiv:2310.05914, appendix A.1",
        "use_peft": f"{TABLE} SFT; arXiv:2106.09685",
        "lora_r": f"{TABLE} SFT",
        "lora_alpha": f"{TABLE} SFT",
        "lora_dropout": f"{TABLE} SFT",
    },
    notes=(
        "LoRA is put on every linear layer of attention and MLP, which are the method's seven.",
        "neftune_noise_alpha is TRL's word for noise: neftune with noise_alpha: 5.0.",
        "The method's Gaussian noise is the noise named gaussian; NEFTune's paper draws uniformly.",
    ),
)

DPO = Preset(
    description="The project's method: DPO after SFT.",
    command="preference",
    values={
        "loss_type": ["sigmoid"],
        "beta": 0.1,
        "learning_rate": 1e-6,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "max_length": 2048,
        "max_grad_norm": 1.0,
        "weight_decay": 0.01,
    },
    sources={
        "loss_type": f"{TABLE} DPO; arXiv:2305.18290, equation 7",
        "beta": f"{TABLE} DPO; arXiv:2305.18290, appendix B",
        "learning_rate": f"{TABLE} DPO; arXiv:2305.18290, appendix B",
        "num_train_epochs": f"{TABLE} DPO; arXiv:2401.02954, section 4",
        "per_device_train_batch_size": f"{TABLE} DPO: 4, by 4 steps of accumulation",
        "gradient_accumulation_steps": f"{TABLE} DPO: 16 pairs per step on one process",
        "max_length": f"{TABLE} DPO",
        "max_grad_norm": f"{TABLE} DPO",
        "weight_decay": f"{TABLE} DPO",
    },
    notes=(
        "The method's label smoothing of 0.0 is what the loss has by itself.",
        "It starts from the model that SFT saved; with LoRA or QLoRA the rate may be ten times it.",
    ),
)
