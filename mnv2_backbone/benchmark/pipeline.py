"""What a training sample costs, from the file to the packed input, in one thread."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from mmdet.registry import DATASETS
from mmdet.utils import register_all_modules
from mmengine.dataset import Compose


def ssd_chain(scale: tuple[int, int]) -> list[dict]:
    """SSD's augmentation with MMDetection's transforms, the colours first, as the paper and Caffe's SSD have it.

    (MMDetection 3 distorts the colours last, the fill's too.)

    Args:
        scale: (width, height) of the output.

    Returns:
        The config of a pipeline that does what that of ``configs/_base_/datasets/ssd_pipelines.py`` does.
    """
    return [
        dict(type='mnv2_backbone.LoadImage', skip_corrupt=True),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PhotoMetricDistortion'),
        dict(type='Expand', mean=[127.5] * 3, to_rgb=True, ratio_range=(1, 4), prob=0.5),
        dict(type='MinIoURandomCrop', min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3),
        dict(type='Resize', scale=scale, keep_ratio=False),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs'),
    ]


def compare_ms(pipelines: Mapping[str, Sequence[dict]], dataset_cfg: dict, n: int) -> dict[str, list[float]]:
    """Times pipelines on the same samples, each with the same random state, one after the other.

    Args:
        pipelines: Their configs by name.
        dataset_cfg: The data set's config; its own pipeline is not used.
        n: The number of samples that are timed; the data set is begun again at its end.

    Returns:
        Milliseconds of each sample, by name; in one thread, without the one that warms up.

    Raises:
        ValueError: ``n`` is below 1, or a pipeline gives no sample: a picture that is damaged.
    """
    if n < 1:
        raise ValueError(f'n={n}, must be at least 1')
    register_all_modules(init_default_scope=True)
    dataset = DATASETS.build(dict(dataset_cfg, pipeline=[]))
    built = {name: Compose(steps) for name, steps in pipelines.items()}
    times: dict[str, list[float]] = {name: [] for name in built}
    state, threads = np.random.get_state(), (cv2.getNumThreads(), torch.get_num_threads())
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    try:
        for number in range(-1, n):
            for name, pipeline in built.items():
                sample = dataset.get_data_info(number % len(dataset))
                np.random.seed(number + 1)
                start = time.perf_counter()
                packed = pipeline(sample)
                elapsed = 1000 * (time.perf_counter() - start)
                if packed is None:
                    raise ValueError(f'the pipeline {name} gives no sample for {sample["img_path"]}')
                if number >= 0:
                    times[name].append(elapsed)
    finally:
        np.random.set_state(state)
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])
    return times


def pipeline_ms(pipeline_cfg: Sequence[dict], dataset_cfg: dict, n: int) -> list[float]:
    """Times one pipeline; see :func:`compare_ms`.

    Args:
        pipeline_cfg: The pipeline's config.
        dataset_cfg: The data set's config.
        n: The number of samples.

    Returns:
        Milliseconds of each sample.
    """
    return compare_ms({'pipeline': pipeline_cfg}, dataset_cfg, n)['pipeline']


def spread(times: Sequence[float]) -> tuple[float, float, float]:
    """The median and how far times lie around it.

    Args:
        times: Any unit, at least one.

    Returns:
        The tenth percentile, the median and the ninetieth percentile.
    """
    low, median, high = np.percentile(times, (10, 50, 90))
    return float(low), float(median), float(high)
