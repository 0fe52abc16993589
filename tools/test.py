"""Evaluates a checkpoint with the metric of a config."""

import sys

from mnv2_backbone.training.command_line import test as main

if __name__ == '__main__':
    sys.exit(main())
