"""The runtimes that run exported files, behind one function: arrays in, arrays out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .manifest import KEY, Manifest


class Runtime(ABC):
    """An exported file, loaded.

    Attributes:
        manifest: What the file says about itself.
    """

    manifest: Manifest

    @abstractmethod
    def __call__(self, pictures: np.ndarray) -> list[np.ndarray]:
        """Runs the file.

        Args:
            pictures: (N, H, W, 3), BGR, bytes.

        Returns:
            The outputs that :mod:`mnv2_backbone.deployment.whole` describes.
        """


def onnxruntime_options(threads: int | None) -> Any:
    """What ONNX Runtime runs a model with, an ``onnxruntime.SessionOptions``.

    Args:
        threads: Of the processor; ONNX Runtime's default where None.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # Its threads wait busily for work, and without this go on after a run, beside what the program does next.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    return options


class OnnxRuntime(Runtime):
    """An ``.onnx`` file in ONNX Runtime."""

    def __init__(self, path: Path, threads: int | None) -> None:
        import onnxruntime

        options = onnxruntime_options(threads)
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        self.manifest = _manifest(path, self.session.get_modelmeta().custom_metadata_map.get(KEY))

    def __call__(self, pictures: np.ndarray) -> list[np.ndarray]:  # noqa: D102 - above
        outputs: list[np.ndarray] = self.session.run(None, {'pictures': pictures})
        return outputs


def openvino_options(precision: str, threads: int | None) -> dict[str, Any]:
    """What OpenVINO compiles a model for the CPU with.

    Args:
        precision: Of what is not in whole numbers: ``'bf16'``, or anything else for float32.
        threads: Of the processor; OpenVINO's default where None.
    """
    # By itself OpenVINO computes in bfloat16 wherever the processor can.
    hint = 'bf16' if precision == 'bf16' else 'f32'
    options: dict[str, Any] = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': hint}
    return {**options, 'INFERENCE_NUM_THREADS': threads} if threads else options


class OpenVINO(Runtime):
    """An ``.xml`` file, its ``.bin`` beside it, in OpenVINO.

    Args:
        path: The file.
        threads: Of the processor.
    """

    def __init__(self, path: Path, threads: int | None) -> None:
        import openvino

        if not path.with_suffix('.bin').is_file():
            raise UserError(f'{path.with_suffix(".bin")} does not exist: the weights that belong to {path}')
        core = openvino.Core()
        self.model = core.read_model(path)
        text = self.model.get_rt_info([KEY]).astype(str) if self.model.has_rt_info([KEY]) else None
        self.manifest = _manifest(path, text)
        self.compiled = core.compile_model(self.model, 'CPU', openvino_options(self.manifest.precision, threads))

    def __call__(self, pictures: np.ndarray) -> list[np.ndarray]:  # noqa: D102 - above
        found = self.compiled(pictures)
        return [found[i] for i in range(len(self.compiled.outputs))]


class Inductor(Runtime):
    """A ``.pt2`` package that TorchInductor compiled. It holds machine code: run files of your own only."""

    def __init__(self, path: Path, threads: int | None) -> None:
        import torch
        import torchvision  # noqa: F401  # the operators that the package calls

        if threads:
            torch.set_num_threads(threads)
        self.package = torch._inductor.aoti_load_package(str(path))
        self.manifest = _manifest(path, self.package.loader.get_metadata().get(KEY))

    def __call__(self, pictures: np.ndarray) -> list[np.ndarray]:  # noqa: D102 - above
        import torch

        with torch.no_grad():
            return [output.numpy() for output in self.package(torch.from_numpy(pictures))]


#: By the suffix of the file: what loads it for so many threads, and the library it needs.
RUNTIMES: dict[str, tuple[Callable[[Path, int | None], Runtime], str]] = {
    '.onnx': (OnnxRuntime, 'onnxruntime'),
    '.xml': (OpenVINO, 'openvino'),
    '.pt2': (Inductor, 'torch'),
}


def is_exported(name: str) -> bool:
    """Whether a file is an exported one, by its suffix."""
    return Path(name).suffix in RUNTIMES


def load_runtime(path: Path, threads: int | None = None) -> Runtime:
    """Loads an exported file.

    Args:
        path: The file; its suffix tells the runtime.
        threads: How many threads compute; the runtime's default where None.

    Raises:
        UserError: The file is missing, damaged, not exported by this package, or its runtime is not installed.
    """
    if not is_exported(str(path)):
        raise UserError(f'{path}: exported files end in {", ".join(RUNTIMES)}')
    if not path.is_file():
        raise UserError(f'{path} does not exist')
    kind, library = RUNTIMES[path.suffix]
    try:
        return kind(path, threads)
    except ImportError as error:
        raise UserError(f'{path} needs {library}: pip install "mnv2_backbone[export]" ({error})') from error
    except UserError:
        raise
    except Exception as error:  # each runtime has exceptions of its own
        raise UserError(f'{path} cannot be loaded by {library}: {_first_line(error)}') from error


def _manifest(path: Path, text: str | None) -> Manifest:
    if not text:
        raise UserError(
            f'{path} says nothing about classes and sizes: it was not written by tools/export.py, which puts them in'
        )
    return Manifest.from_json(text)


def _first_line(error: BaseException) -> str:
    lines: Sequence[str] = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
