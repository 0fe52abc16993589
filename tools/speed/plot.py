"""What the deployed backbone costs by input size and width."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_backbone.errors import whole_file

from .measure import TURN

SIZES = (160, 224, 320, 512, 768, 1024)
WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.4)


def measure_costs(turns: Any, sizes: Sequence[int], widths: Sequence[float], repeats: int, **_: Any) -> None:
    """Gives ``costs``: for each width the milliseconds at each size, the median of at least ``repeats``.

    The networks take turns, as the rows of the table do.
    """
    import torch

    from mnv2_backbone import MobileNetV2, deploy

    networks: dict[tuple[float, int], Any] = {
        (width, size): deploy(MobileNetV2(widen_factor=width, out_indices='layer_19'), size=(size, size))
        for width in widths
        for size in sizes
    }
    inputs = {size: torch.rand(1, 3, size, size) * 2 - 1 for size in sizes}
    times: dict[tuple[float, int], list[float]] = {cell: [] for cell in networks}
    turn, cold = TURN
    rounds = -(-repeats // (turn - cold))
    for (width, size), network in list(networks.items()) * rounds:
        for count in range(turn):
            start = time.perf_counter()
            network(inputs[size])
            if count >= cold:
                times[width, size].append(time.perf_counter() - start)
    costs = {width: [1000 * float(np.median(times[width, size])) for size in sizes] for width in widths}
    turns.begin(costs=costs)


def draw_costs(costs: Mapping[float, Sequence[float]], sizes: Sequence[int], threads: int, out: Path) -> None:
    """Draws one line of milliseconds over the size of the input for each width, to an image file."""
    from matplotlib.figure import Figure  # no window, whatever the machine

    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axes = figure.subplots()
    for width, times in sorted(costs.items(), reverse=True):
        axes.plot(sizes, times, marker='o', markersize=4, label=f'{width:g}')
    axes.set(
        xscale='log',
        yscale='log',
        xlabel='side of the input, pixels',
        ylabel='ms a image',
        title=f'MobileNetV2 features as deployed, float32, one image, threads: {threads}',
    )
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    least, most = min(map(min, costs.values())), max(map(max, costs.values()))
    ticks = [digit * 10**power for power in range(-2, 6) for digit in (1, 2, 5)]
    shown = [tick for tick in ticks if least / 2 <= tick <= 2 * most]
    axes.set_yticks(shown, [f'{tick:g}' for tick in shown])
    axes.grid(alpha=0.3)
    axes.legend(title='width')
    with whole_file(out) as draft:
        figure.savefig(draft, dpi=120)
