"""Batch norms for networks whose norms were folded into their convolutions."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

#: Epsilon of the norms: slim's, and DeepLab's own in the segmentation head.
EPS = 1e-3
HEAD_EPS = {'decode_head.': 1e-5, 'image_pooling': 1e-5, 'aspp': 1e-5, 'concat_projection': 1e-5}


def norm_eps(name: str) -> float:
    """Epsilon of the norm of a module of ours, or of a TensorFlow scope."""
    return next((eps for prefix, eps in HEAD_EPS.items() if name.startswith(prefix)), EPS)


def unfold(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds a norm to each convolution that has a bias instead of one (``conv.bias``).

    The norm computes the same in evaluation: mean 0, variance 1, a scale that cancels epsilon, and the bias as its
    shift. The statistics are not those of the features, so train with them frozen (``norm_eval=True``), or measure them
    first: :func:`measure_statistics`.
    """
    unfolded: dict[str, Tensor] = {}
    for key, value in state.items():
        if not key.endswith('conv.bias'):
            unfolded[key] = value
            continue
        bn = key.removesuffix('conv.bias') + 'bn.'
        one = torch.ones_like(value)
        unfolded[f'{bn}weight'] = (one.double() + norm_eps(key)).sqrt().float()
        unfolded[f'{bn}bias'] = value
        unfolded[f'{bn}running_mean'] = torch.zeros_like(value)
        unfolded[f'{bn}running_var'] = one
    return unfolded


@torch.no_grad()
def measure_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Sets the statistics of batch norms to those of real features, without changing what they compute.

    Afterwards a network whose norms were folded behaves the same in training as in evaluation, and can be fine-tuned
    with its norms in training mode. Scale and shift compensate the change of the statistics.

    Args:
        network: Any network with batch norms; its mode is kept.
        batches: Images (N, 3, H, W), prepared as for training; a few hundred in all are enough.

    Raises:
        ValueError: ``batches`` is empty.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    sums: dict[_BatchNorm, list[Tensor]] = {}

    def add_up(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, _BatchNorm)
        x = inputs[0].double().transpose(0, 1).flatten(1)
        new = [x.new_tensor(x.shape[1]), x.sum(1), x.square().sum(1)]
        old = sums.get(module)
        sums[module] = [a + b for a, b in zip(old, new)] if old else new

    handles = [norm.register_forward_pre_hook(add_up) for norm in norms]
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        for batch in batches:
            network(batch)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    if not sums:
        raise ValueError('batches is empty, or no batch norm was reached: nothing to measure')
    for norm, (count, total, squares) in sums.items():
        mean = total / count
        var = squares / count - mean.square()
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        norm.weight.copy_(scale * (var + norm.eps).sqrt())
        norm.bias.copy_(shift + mean * scale)
