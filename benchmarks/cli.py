"""Start time of the command line: what answers before TensorFlow is imported, and what needs it.

    python benchmarks/cli.py

Prints one JSON object: for each command line the median wall time of 5 processes in seconds, after one that is not
counted, the fastest and the slowest; and which of the slow packages were imported. Run it on an idle machine.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROUNDS = 5
SCRIPT = str(Path(sys.executable).with_name("tfprune"))
COMMAND_LINES = (["--help"], ["--version"], ["prune", "--help"], ["prnue"], ["methods", "--json"])
SLOW = ("tensorflow", "keras", "numpy", "rich")

_LIST_IMPORTS = """
import sys
from tfprune_cli.program import main
main(sys.argv[1:])
print([name for name in {slow!r} if name in sys.modules], file=sys.stderr)
"""


def measure(words: list[str]) -> dict[str, Any]:
    """Time a command line.

    Args:
        words: The words after `tfprune`.

    Returns:
        Median, least and most seconds, and the slow packages that were imported.
    """
    seconds = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        subprocess.run([SCRIPT, *words], capture_output=True, check=False)
        seconds.append(time.perf_counter() - began)
    counted = seconds[1:]
    code = _LIST_IMPORTS.format(slow=SLOW)
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return {
        "median": round(statistics.median(counted), 3),
        "least": round(min(counted), 3),
        "most": round(max(counted), 3),
        "imported": done.stderr.splitlines()[-1],
    }


def main() -> None:
    """Measure all command lines and print the result."""
    result = {
        "rounds": ROUNDS,
        "seconds": {" ".join(["tfprune", *words]): measure(words) for words in COMMAND_LINES},
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
