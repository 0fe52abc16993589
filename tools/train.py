"""Trains the model that a config describes."""

import sys

from mnv2_backbone.training.command_line import train

if __name__ == '__main__':
    sys.exit(train())
