"""``python -m trl_deepseek`` is ``trl-deepseek``."""

from trl_deepseek.cli.main import main

raise SystemExit(main())
