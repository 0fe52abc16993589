"""Ways to run a network fast within a Python process."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch._inductor.config
from mmengine.logging import print_log
from torch import Tensor, nn

from .network import in_bfloat16
from .runtimes import onnxruntime_options, openvino_options
from .trace import traced

#: By precision the engines that compute in it, the fastest first: in float32 at one thread ONNX Runtime takes three
#: quarters of TorchInductor's time, in bfloat16 OpenVINO takes half of it.
ENGINES = {'fp32': ('onnxruntime', 'openvino', 'inductor', 'eager'), 'bf16': ('openvino', 'inductor', 'eager')}
#: What has to be installed for them, beside PyTorch.
LIBRARIES = {'onnxruntime': ('onnx', 'onnxruntime', 'onnxscript'), 'openvino': ('openvino',)}


def missing(engine: str) -> list[str]:
    """The libraries an engine needs that are not installed."""
    return [library for library in LIBRARIES.get(engine, ()) if find_spec(library) is None]


def choose_engine(engine: str, precision: str) -> str:
    """The engine to use.

    Args:
        engine: One of :data:`ENGINES`, or ``'auto'`` for the first of them whose libraries are installed.
        precision: ``'fp32'`` or ``'bf16'``.

    Raises:
        ValueError: There is no such precision; the engine is unknown, cannot compute in it, or lacks a library.
    """
    if precision not in ENGINES:
        raise ValueError(f'precision={precision!r}: allowed are {", ".join(map(repr, ENGINES))}')
    known = ENGINES[precision]
    if engine == 'auto':
        return next(name for name in known if not missing(name))
    if engine not in known:
        raise ValueError(f'engine={engine!r}: allowed for {precision} are auto, {", ".join(known)}')
    if missing(engine):
        raise ValueError(
            f'engine={engine!r} needs {", ".join(missing(engine))}: pip install "mnv2_backbone[export]", '
            f'or choose another of auto, {", ".join(known)}'
        )
    return engine


def run_with(engine: str, network: nn.Module, sample: Tensor, precision: str = 'fp32') -> Callable[..., Any]:
    """Prepares a network for inputs of one size.

    Args:
        engine: As for :func:`choose_engine`.
        network: In float32, from one tensor to a tensor or a tuple; its parameters must stay as they are from now on.
        sample: An input. Others may have another batch size.
        precision: ``'fp32'`` or ``'bf16'``.

    Returns:
        What is called like the network.

    Raises:
        ValueError: As from :func:`choose_engine`.
    """
    engine = choose_engine(engine, precision)
    if engine == 'onnxruntime':
        return _onnxruntime(network, sample)
    if engine == 'openvino':
        return _openvino(network, sample, precision)
    if precision == 'bf16':
        network = in_bfloat16(copy.deepcopy(network))
    return network if engine == 'eager' else _inductor(network, sample)


def _of_any_batch(network: nn.Module, sample: Tensor) -> torch.export.ExportedProgram:
    return traced(network, sample.expand(2, *sample.shape[1:]).clone(), free=[0])


def _on_tensors(run: Callable[[np.ndarray], Sequence[np.ndarray]], sample: Tensor, single: bool) -> Callable[..., Any]:
    """A function of tensors from one of arrays; ``single``: it returns one tensor, not a tuple."""

    def run_on_tensors(x: Tensor) -> Any:
        outputs = [torch.from_numpy(y) for y in run(x.to(sample.dtype).contiguous().numpy())]
        return outputs[0] if single else tuple(outputs)

    return run_on_tensors


def _gives_one_tensor(network: nn.Module, sample: Tensor) -> bool:
    with torch.no_grad():
        return isinstance(network(sample), Tensor)


def _onnxruntime(network: nn.Module, sample: Tensor) -> Callable[..., Any]:
    import onnxruntime

    program: Any = torch.onnx.export(_of_any_batch(network, sample), (), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(),
        onnxruntime_options(torch.get_num_threads()),
        providers=['CPUExecutionProvider'],
    )
    name = session.get_inputs()[0].name
    return _on_tensors(lambda x: session.run(None, {name: x}), sample, _gives_one_tensor(network, sample))


def _openvino(network: nn.Module, sample: Tensor, precision: str) -> Callable[..., Any]:
    import openvino

    model = openvino.convert_model(_of_any_batch(network, sample))
    compiled = openvino.Core().compile_model(model, 'CPU', openvino_options(precision, torch.get_num_threads()))
    return _on_tensors(lambda x: list(compiled(x).values()), sample, _gives_one_tensor(network, sample))


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
