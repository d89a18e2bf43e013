"""What the notebooks do with other parameters that their text offers: `python tests/grid.py [--only 03 06]`.

Each line runs one notebook whole, through papermill: about an hour for all of it on two cores. A cheap part of it is in
tests/test_notebooks.py. Every run must come to its end; the claims that do not hold there are counted and named (amber).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SEEDS = tuple({"seed": seed} for seed in range(1, 5))
SHORT = {"steps": 40}  # for what does not ask how well a model learns
GRID: dict[str, tuple[dict, ...]] = {
    "00": ({"task": "appearance", "number": 7}, {"task": "blink", "number": 383, "seed": 5}),
    "01": (*SEEDS, {"clips": 64}, {"clips": 256}, {"clips": 2048}),
    "02": (*SEEDS, {"frames": 6}, {"frames": 12}, {"clips": 4}, {"clips": 64}),
    "03": (*SEEDS, {"clips": 1}, {"clips": 8}, {"adapter_size": 0.05}, {"adapter_size": 1.5}),
    "04": ({"preset": "stdha-mini-blink", **SHORT}, {"preset": "probe-mini-motion", **SHORT},
           {"preset": "full-mini-appearance", **SHORT}, {"preset": "embedding-mini-motion", **SHORT},
           {"lr": 0.05, "batch_size": 8, **SHORT}),
    "05": (*SEEDS, {"clips": 2}, {"clips": 3}, {"clips": 8}, {"clips": 16}, {"clips": 32}, {"clips": 384}),
    "06": (*SEEDS, *({"preset": name, **SHORT} for name in (
        "inti-sigmoid-mini-corrupted", "convpool-mini-corrupted", "tome-mini-corrupted", "inti-mini-motion",
        "zeroi2v-inti-mini-motion"))),
    "07": ({"number": 0}, {"number": 383, "block": 1, "temporal_head": 0, "spatial_head": 3}, {"block": 4}),
    "08": ({"number": 0, "turned_number": 0, "junk_number": 0}, {"number": 383, "turned_number": 14, "junk_number": 383}),
    "09": ({"tower": "ViT-B/16", "rounds": 1}, {"frames": 4, "clips": 2}, {"frames": 16, "rounds": 1}),
    "11": (*SEEDS, {"adapt": "frozen"}, {"adapt": "full", "steps": 30}, {"steps": 10, "val_share": 0.5}, {"flip": 0.5},
           {"preset": "probe-mini-appearance", "steps": 20}),
    "12": (*SEEDS, {"steps": 60}, {"batch_size": 8}, {"tower": "none"}),
    "13": (*SEEDS, {"fit_steps": 10}, {"fit_steps": 400}),
    "14": ({"number": 0}, {"number": 383}),
}


def run(notebook: str, parameters: dict) -> tuple[str, list[dict]]:
    """('', claims as JSON) of a notebook that came to its end with these parameters, else (the error, what it claimed before)."""
    import papermill

    from i2vlib.course.claims import MIME

    path = next((ROOT / "notebooks").glob(f"{notebook}_*.ipynb"))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        out = {"out": f"{folder}/run"} if notebook in ("04", "06", "11", "12") else {}
        try:
            papermill.execute_notebook(str(path), str(copy), {**out, **parameters}, cwd=str(path.parent), progress_bar=False,
                                       extra_arguments=["--IPKernelApp.log_level=CRITICAL"])
            error = ""
        except papermill.PapermillExecutionError as failed:
            error = f"cell {failed.exec_count}: {failed.ename}: {failed.evalue}".splitlines()[0]
        cells = json.loads(copy.read_text(encoding="utf-8"))["cells"]
    return error, [o["data"][MIME] for c in cells for o in c.get("outputs", []) if MIME in o.get("data", {})]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NN", default=list(GRID), choices=list(GRID))
    stopped = 0
    for notebook in parser.parse_args().only:
        for parameters in GRID[notebook]:
            start = time.time()
            error, claims = run(notebook, parameters)
            amber = [f"  amber: {c['statement']} (measured: {c['measured']}; with the defaults: {c.get('default', 'not known')})"
                     for c in claims if not c["holds"]]
            words = ", ".join(f"{k}={v}" for k, v in parameters.items())
            how = f"{len(claims) - len(amber)} of {len(claims)} claims hold, {time.time() - start:.0f} s"
            print(f"{notebook} {words}: {'STOPPED' if error else 'ran'}, {how}", *([f"  {error}"] if error else []), *amber,
                  sep="\n", flush=True)
            stopped += bool(error)
    return 1 if stopped else 0


if __name__ == "__main__":
    sys.exit(main())
