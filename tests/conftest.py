"""What the tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

if 'PYTEST_XDIST_WORKER' in os.environ:  # one of several processes of tests: it and what it starts take one core
    os.environ.setdefault('OMP_NUM_THREADS', '1')


@pytest.fixture(scope='session')
def real_data() -> Path:
    """The folder of reference outputs, trained weights and real pictures; the test is skipped without."""
    path = Path(os.environ.get('MNV2_REAL_DATA', ROOT.parent / 'shared'))
    if not (path / 'reference').is_dir():
        pytest.skip(f'no reference data in {path}: set MNV2_REAL_DATA to the folder that holds it')
    return path
