"""``trl-deepseek report``: one page about a run or a recipe, also an unfinished one."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from trl_deepseek.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="Output folder of a run or a recipe.")
    parser.add_argument(
        "--output_file", metavar="FILE", help="Where to write it; report.html in DIR if not given."
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")


def run(args: argparse.Namespace) -> int:
    from trl_deepseek import report

    try:
        file = report.write(args.folder, args.output_file)
    except OSError as error:
        place = args.output_file or os.path.join(args.folder, "report.html")
        raise ConfigError(
            f"the report cannot be written to {place!r}: {error.strerror or error}\n"
            "  name another place with --output_file"
        ) from error
    print(json.dumps({"report": str(file)}) if args.json else f"report: {Path(file)}")
    return 0
