"""What all tests share."""

from __future__ import annotations

import os

# Workers share the cores, and threads that wait for each other there take far longer than one alone. Read
# when PyTorch is imported, by the commands that tests run too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

# The same examples on every run, so that a failure is one that everybody sees; no deadline, because two workers on two
# busy cores say nothing about the code by taking long (pytest's own timeout catches what hangs).
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of the test's own: no test disturbs the numbers of another."""
    return np.random.default_rng(20151210)  # the day the paper came out
