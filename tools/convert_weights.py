"""Converts weights from elsewhere into a checkpoint of this package."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from mnv2_backbone.weights.slim import from_slim


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', type=Path, help='slim variables by TensorFlow name (.npz)')
    parser.add_argument('dst', type=Path, help='checkpoint to write (.pth)')
    args = parser.parse_args()
    state = from_slim(np.load(args.src))
    torch.save(dict(state_dict=state), args.dst)
    print(f'{len(state)} tensors written to {args.dst}')


if __name__ == '__main__':
    main()
