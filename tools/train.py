"""Trains the model that a config describes."""

import sys

from mnv2_backbone.training.command_line import train as main

if __name__ == '__main__':
    sys.exit(main())
