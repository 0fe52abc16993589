"""Trains the model that a config describes."""

from __future__ import annotations

import sys

from mnv2_backbone.runtime.cli import train

if __name__ == '__main__':
    sys.exit(train())
