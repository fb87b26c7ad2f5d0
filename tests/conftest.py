"""Settings of the whole test session: one stable compile cache, and a count of the contract cases at the end."""

import os
import re
from collections import Counter

import pytest

_CONTRACT = "tests/optim/test_contract"


def pytest_configure(config: pytest.Config) -> None:
    """Compiled kernels survive from run to run (a cold one costs 5 to 20 seconds of compiler)."""
    if config.cache is not None and "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(config.cache.mkdir("inductor"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many pairs of a method and a clause of the contract were checked."""
    checked: Counter[str] = Counter()
    methods: set[str] = set()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if getattr(report, "when", "") == "call" and report.nodeid.startswith(_CONTRACT):
                checked[outcome] += 1
                methods.update(re.findall(r"@([a-z]+(?:-k)?)(?![a-z])", report.nodeid))
    if checked:
        terminalreporter.write_line(
            f"optimizer contract: {sum(checked.values())} cases of method x clause over {len(methods)} methods, "
            f"{checked['passed']} hold, {checked['failed']} fail"
        )
