"""``trl-deepseek merge``: an adapter into its 16-bit base, checked on sample prompts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trl_deepseek.cli.parser import add_plugin_options
from trl_deepseek.plugin_loading import load_registry

WIDTHS = {"bfloat16": 2, "float16": 2, "float32": 4}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", metavar="ADAPTER", help="Folder that training saved.")
    parser.add_argument("--output_dir", required=True, help="Folder to write; must not exist yet.")
    parser.add_argument(
        "--base_model_name_or_path", help="The base, where it is elsewhere than the adapter says."
    )
    parser.add_argument(
        "--dtype", choices=list(WIDTHS), default="bfloat16", help="Of the merged weights."
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object at the end.")
    add_plugin_options(parser)


def run(args: argparse.Namespace) -> int:
    from trl_deepseek.adapters import merging
    from trl_deepseek.cli.output import hide_progress_bars, machine_readable

    if not sys.stderr.isatty():
        hide_progress_bars()
    registry = load_registry(args.plugins, args.block)
    output = Path(args.output_dir).expanduser()
    with machine_readable(args.json):
        source = merging.inspect(args.adapter, registry, args.base_model_name_or_path)
        merging.check_room(source, output, WIDTHS[args.dtype])
        import torch

        agreement = merging.merge(source, output, registry, dtype=getattr(torch, args.dtype))
    if args.json:
        print(json.dumps({"output_dir": str(output), "base": source.base, **vars(agreement)}))
        return 0
    print(
        f"a token's logits differ by {agreement.logits:.1e}, relative (at most "
        f"{agreement.worst:.1e}), on {agreement.prompts} prompts"
    )
    if agreement.same is not None:
        print(f"greedy answers: {agreement.same} of {agreement.prompts} the same")
    print(f"merged model saved in {output}")
    return 0
