"""`make experiments` with runs that train nothing, so that it can be stopped: the first is done at once, the others never are.

    python _experiments_victim.py --out FOLDER/results.json ...
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from i2vlib.course import experiments
from i2vlib.presets import PROTOCOLS, protocol_for

FIRST, SECOND, THIRD = experiments.RUNS[:3]


def row(preset: str, tower: str, seed: int) -> dict:
    return {"preset": preset, "tower": tower, "seed": seed, "steps": PROTOCOLS[protocol_for(preset)].train.steps}


def run(preset: str, tower: str, seed: int) -> dict:
    folder = Path(sys.argv[sys.argv.index("--out") + 1]).parent
    (folder / f"{preset} {os.getpid()}").touch()
    if (preset, tower) != FIRST:
        time.sleep(300)
    return row(preset, tower, seed)


experiments.RUNS[:] = [FIRST, SECOND, THIRD]
experiments.run, experiments.mini_data = run, lambda task: None

if __name__ == "__main__":
    experiments.main()
