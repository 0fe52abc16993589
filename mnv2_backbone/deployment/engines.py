"""Ways to run a network fast within a Python process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
import torch._inductor.config
from mmengine.logging import print_log
from torch import Tensor, nn

#: The engines, the fastest first for float32: at one thread ONNX Runtime takes three quarters of TorchInductor's time.
ENGINES = ('onnxruntime', 'inductor', 'eager')


def run_with(engine: str, network: nn.Module, sample: Tensor) -> Callable[..., Any]:
    """Prepares a network for inputs of one size.

    Args:
        engine: One of :data:`ENGINES`, or ``'auto'``: the first that is at hand and can compute in the sample's or the
            network's type.
        network: From one tensor to a tensor or a tuple; its parameters must stay as they are from now on.
        sample: An input. Others may have another batch size.

    Returns:
        What is called like the network.

    Raises:
        ValueError: The engine is unknown.
    """
    if engine not in ('auto', *ENGINES):
        raise ValueError(f'engine={engine!r}: allowed are auto, {", ".join(ENGINES)}')
    if engine == 'eager':
        return network
    half = any(parameter.dtype == torch.bfloat16 for parameter in network.parameters())
    installed = all(find_spec(name) for name in ('onnx', 'onnxruntime', 'onnxscript'))
    if engine == 'onnxruntime' or (engine == 'auto' and installed and not half):
        return _onnxruntime(network, sample)
    return _inductor(network, sample)


def _onnxruntime(network: nn.Module, sample: Tensor) -> Callable[..., Any]:
    import onnxruntime

    with torch.no_grad():
        single = isinstance(network(sample), Tensor)
        # A batch of two, or the exporter would take the one for a constant.
        program: Any = torch.onnx.export(
            network,
            (sample.expand(2, *sample.shape[1:]).clone(),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim('batch')},),
            verbose=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Any:
        outputs = [torch.from_numpy(y) for y in session.run(None, {name: x.contiguous().numpy()})]
        return outputs[0] if single else tuple(outputs)

    return run


def _inductor(network: nn.Module, sample: Tensor) -> Callable[..., Any]:
    fast: Any = torch.compile(network, dynamic=False)
    try:
        # The weights as constants of the program. (As an option of torch.compile it has no effect in torch 2.13.)
        with torch.no_grad(), torch._inductor.config.patch(freezing=True):
            fast(sample)
    except Exception as error:  # whatever the compiler and what it runs may raise
        print_log(f'not compiled, only folded: {type(error).__name__}: {error}', 'current', logging.WARNING)
        torch._dynamo.reset()
        return network
    return fast
