"""Write the tokenizer of the embedded models: 256 byte tokens and DeepSeek's control tokens.

Run from the repository root: ``python scripts/make_tiny_tokenizer.py``. As in DeepSeek's own
tokenizers, only the tokens that begin, end and pad a text are ``special``; role, think and tool
tokens are added tokens that stay visible in decoded text.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

FOLDER = (
    Path(__file__).parents[1] / "plugins" / "trl_deepseek_plugins" / "embedded" / "tiny_tokenizer"
)
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
CONTROL = [
    *("<｜User｜>", "<｜Assistant｜>", "<｜System｜>", "<think>", "</think>", "<|EOT|>"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    *("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
    *("<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>"),
    *("<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
    *("｜DSML｜", "<｜latest_reminder｜>"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
]


def main() -> None:
    """Build the tokenizer and save it as ``tokenizer.json`` and ``tokenizer_config.json``."""
    specials = [BOS, EOS, PAD]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in CONTROL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    fast.save_pretrained(FOLDER)


if __name__ == "__main__":
    main()
