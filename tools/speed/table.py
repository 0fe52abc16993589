"""The rows for people and for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from mnv2_backbone.errors import whole_file

from .measure import Row

CAPTION = (
    'x floor: the time divided by that of a float32 matrix product with as many multiply-adds, measured in the same '
    "rounds. speed: images a second divided by those of the task's slowest peer. "
    'max diff, from ours as trained: of the features; of the scores of the same boxes; share of pixels with another '
    'label; weights are random. peak: memory of the whole process, libraries included.'
)


def as_table(rows: Sequence[Row], title: str) -> Table:
    """The table to print."""
    table = Table(title=title, caption=CAPTION)
    for name in ('task', 'name', 'precision'):
        table.add_column(name, no_wrap=True)
    for name in ('median ms', 'p10', 'p90', 'images/s', 'peak MB', 'x floor', 'speed', 'max diff'):
        table.add_column(name, justify='right', no_wrap=True)
    for index, row in enumerate(rows):
        table.add_row(
            row.task,
            row.name,
            row.precision,
            f'{row.median_ms:.1f}',
            f'{row.p10_ms:.1f}',
            f'{row.p90_ms:.1f}',
            f'{row.images_per_s:.1f}',
            '' if row.peak_mb is None else f'{row.peak_mb:.0f}',
            '' if row.x_floor is None else f'{row.x_floor:.1f}',
            '' if row.speed is None else f'{row.speed:.2f}',
            '' if row.max_abs_diff is None else f'{row.max_abs_diff:.2g}',
            end_section=row.task != rows[min(index + 1, len(rows) - 1)].task,
        )
    return table


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Writes the rows as a list of objects, whole or not at all."""
    with whole_file(path) as draft:
        draft.write_text(json.dumps([asdict(row) for row in rows], indent=1) + '\n')
