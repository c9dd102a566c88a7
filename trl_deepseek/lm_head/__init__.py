"""Log-probs of labelled tokens without the full logits."""

from trl_deepseek.lm_head.balancing import balanced_by_trl
from trl_deepseek.lm_head.scoring import IGNORED, HeadOutput, target_logps, token_logps, unwrap

__all__ = ["IGNORED", "HeadOutput", "balanced_by_trl", "target_logps", "token_logps", "unwrap"]
