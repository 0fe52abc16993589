"""What a training sample costs, from the file to the packed input, in one thread."""

import time
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch
from mmdet.registry import DATASETS
from mmdet.utils import register_all_modules
from mmengine.dataset import Compose


def compare_ms(pipelines: Mapping[str, Sequence[dict]], dataset_cfg: dict, n: int) -> dict[str, list[float]]:
    """Times pipelines on ``n`` samples of a data set, each with the same random state, in turns and in one thread.

    Returns:
        Milliseconds of each sample, by the pipeline's name, without one sample that warms up.

    Raises:
        ValueError: ``n`` is below 1, or a pipeline gives no sample: an image that is damaged.
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
