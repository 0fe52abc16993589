"""Trains the model that a config describes."""

from __future__ import annotations

import sys

from mnv2_backbone.runtime.cli import train
from mnv2_backbone.runtime.memory import keep_freed_memory

if __name__ == '__main__':
    keep_freed_memory()
    sys.exit(train())
