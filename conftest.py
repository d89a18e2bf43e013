"""What every test shares, the cells of notebooks under nbval included."""

from __future__ import annotations

import os
import signal

import matplotlib
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network; a slip fails in seconds
os.environ.setdefault("I2V_CLAIMS", "strict")  # nobody looks at a row that only turns amber
matplotlib.use("Agg")  # in this process only: notebook kernels keep their inline figures
for name, default in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if (number := getattr(signal, name, None)) and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, default)  # ignored under nohup and after a script's &; tests send them

_failed: dict[str, str] = {}  # notebook -> its first cell that failed


def pytest_runtest_logreport(report) -> None:
    path = report.nodeid.split("::")[0]
    if report.failed and path.endswith(".ipynb"):
        _failed.setdefault(path, report.nodeid)


def pytest_runtest_setup(item) -> None:
    """Skip the rest of a notebook whose cell failed: what follows could only fail for the same reason."""
    first = _failed.get(item.nodeid.split("::")[0])
    if first:
        pytest.skip(f"an earlier cell failed: {first}")
