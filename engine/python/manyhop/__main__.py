"""``python -m manyhop VERB``: the command line, the same program as ``manyhop``."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> int:
    program = Path(__file__).with_name("bin") / "manyhop"
    if not program.is_file():
        print(f"manyhop: this installation has no command line ({program} is missing)", file=sys.stderr)
        return 1
    sys.stdout.flush()
    os.execv(program, ["manyhop", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
