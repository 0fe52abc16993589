"""Evaluates a checkpoint with the metric of a config."""

from __future__ import annotations

import sys

from mnv2_backbone.runtime.cli import test

if __name__ == '__main__':
    sys.exit(test())
