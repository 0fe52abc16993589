"""Finding the data sets that read images below the wrappers around them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def base_datasets(dataset: Any) -> Iterator[Any]:
    """Yields the data sets with a pipeline below ``dataset``, in a fixed order.

    Args:
        dataset: A built data set or one of mmengine's or MMDetection's wrappers around some.
    """
    if hasattr(dataset, 'datasets'):  # ConcatDataset and its kin
        for part in dataset.datasets:
            yield from base_datasets(part)
    elif '_dataset' in vars(dataset):  # mmengine's slice for num_batch_per_epoch
        yield from base_datasets(vars(dataset)['_dataset'])
    elif 'dataset' in vars(dataset):  # RepeatDataset, ClassBalancedDataset, MultiImageMixDataset
        yield from base_datasets(vars(dataset)['dataset'])
    else:
        yield dataset


def wrappers(dataset: Any) -> Iterator[Any]:
    """Yields every data set in the tree of ``dataset``, wrappers and itself included."""
    yield dataset
    inner = vars(dataset).get('datasets') or [
        vars(dataset).get(name) for name in ('_dataset', 'dataset')
    ]
    for part in inner:
        if part is not None:
            yield from wrappers(part)
