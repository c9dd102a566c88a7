"""Several sequences in one row: a forest of segments, in which what rows begin with is there once.

GRPO, DPO, KTO and reward models score rows that share prompts. Laid out as a forest, a prompt goes
through the model once, and its completions attend to its keys and their own. Every trainer asks
the same thing of it::

    sharing = PrefixSharing(args.prefix_sharing)                # once per run
    scored = sharing.token_logps(model, input_ids=ids, attention_mask=mask, labels=labels)

in place of ``lm_head.token_logps``, with the same arguments and the same result: ``logps`` and
``correct``, (B, T-1), ``entropy`` too where it is asked for, zero where nothing is scored. Groups
are found in the tokens themselves, so that rows may stand in any order and beginnings of any depth
(a system prompt, a prompt, the first words of completions) are shared; rows that are equal
throughout are encoded once.

For GRPO with prompts padded on the left and completions on the right: ``ids`` are both side by
side, (B, P + C), ``mask`` likewise, ``labels`` are ``ids`` with -100 on the prompts and where the
completion mask is 0; the completions' log-probs are the last C columns of ``logps``. Old and
reference passes are the same call under ``torch.no_grad()``. With a frozen head the head's gradient
is known after its one pass (see :mod:`trl_deepseek.lm_head`). The experts' load-balancing loss
counts every token as often as it would stand in the batch.

``auto`` leaves alone what would not gain (:mod:`~trl_deepseek.segments.cost`) and what would not be
exact (:mod:`~trl_deepseek.segments.exactness`); the layout itself is in
:mod:`~trl_deepseek.segments.layout`, attention in :mod:`~trl_deepseek.segments.mask`.
"""

from trl_deepseek.segments.layout import Layout, lay_out
from trl_deepseek.segments.mask import SegmentMask
from trl_deepseek.segments.packing import by_documents
from trl_deepseek.segments.sharing import MODES, PrefixSharing
from trl_deepseek.segments.spans import Span

__all__ = ["MODES", "Layout", "PrefixSharing", "SegmentMask", "Span", "by_documents", "lay_out"]
