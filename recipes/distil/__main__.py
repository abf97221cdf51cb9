"""``python -m recipes.distil --input FOLDER --out FOLDER``: teach the students, anywhere.

Needs torch, NumPy and safetensors; ``FOLDER`` is what ``python -m recipes --only prepare`` made.
"""

import argparse
import time
from pathlib import Path

from recipes.distil.run import teach
from recipes.distil.training import Plan, device_named

_STARTED = time.monotonic()


def main() -> None:
    """Read the command line and run all phases."""
    parser = argparse.ArgumentParser(prog="python -m recipes.distil", description=__doc__)
    parser.add_argument("--input", type=Path, required=True, help="the prepared folder")
    parser.add_argument("--out", type=Path, required=True, help="where the students are left")
    parser.add_argument("--device", help="cuda if not given")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps and mined pairs")
    options = parser.parse_args()
    plan = Plan().scaled(options.share)
    teach(options.input, options.out, device_named(options.device), plan, _say)


def _say(event: str, /, **values: object) -> None:
    said = " ".join(f"{name}={value}" for name, value in values.items())
    print(f"[{time.monotonic() - _STARTED:.0f}s] {event} {said}", flush=True)


if __name__ == "__main__":
    main()
