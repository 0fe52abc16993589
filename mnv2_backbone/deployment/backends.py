"""The back ends: one table of what runs a network and writes files, for deploy, export, inference, test and benchmark.

The table can be read, and the metadata of a file, without importing PyTorch or a runtime.
"""

import io
import json
import re
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np

from ..errors import UserError

#: Runs a network: arrays in, arrays out.
Run = Callable[[np.ndarray], list[np.ndarray]]
#: The key of the manifest in each format's metadata.
KEY = 'mnv2_backbone'
PRECISIONS = ('fp32', 'bf16', 'int8')
EXTRA = 'pip install "mnv2_backbone[{}]"'


class Backend:
    """A way to run networks, and the files that it runs. A graph is what :meth:`convert` returns.

    Attributes:
        name, precisions: As an engine of :func:`mnv2_backbone.deploy`, and the precisions in which that computes.
        libraries: What has to be installed for that, beside PyTorch.
        format, suffix, companions: Its name as a file format, and the suffixes of the file and of others beside it.
        files: The libraries to write files of each precision.
        has_nms: Whether its files may have NMS inside.
        raw: Whether it takes a :class:`mnv2_backbone.deployment.raw.RawNetwork`: an image of a fixed size in, nothing
            decoded.
        extra: The extra of this package with its libraries.
    """

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    libraries: ClassVar[tuple[str, ...]] = ()
    format: ClassVar[str] = ''
    suffix: ClassVar[str] = ''
    companions: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[dict[str, tuple[str, ...]]] = {}
    has_nms: ClassVar[bool] = False
    raw: ClassVar[bool] = False
    extra: ClassVar[str] = 'export'

    #: (torch.export.ExportedProgram, names of inputs and outputs) -> graph
    convert: Callable[..., Any]
    #: (graph, images of (1, H, W, 3) each) -> graph in int8
    quantize: Callable[..., Any]
    #: (graph, path, manifest): writes a file
    write: Callable[..., None]
    #: (path) -> the manifest in a file, which is neither loaded nor compiled; None if it has none
    read_manifest: Callable[..., str | None]
    #: (graph or path, precision, threads): loads it; the runtime's default if threads is None
    load: Callable[..., Run]


class OnnxRuntime(Backend):
    """ONNX Runtime, and ``.onnx`` files."""

    name, precisions, libraries = 'onnxruntime', ('fp32',), ('onnx', 'onnxruntime', 'onnxscript')
    format, suffix, has_nms = 'onnx', '.onnx', True
    files = dict.fromkeys(('fp32', 'int8'), libraries)

    def convert(self, program: Any, names: Any = None) -> Any:
        from .graph import to_onnx

        return to_onnx(program, names)

    def quantize(self, graph: Any, images: Sequence[np.ndarray]) -> Any:
        from .quantization import quantize_onnx

        return quantize_onnx(graph, images)

    def write(self, graph: Any, path: Path, manifest: str) -> None:
        import onnx

        onnx.helper.set_model_props(graph, {KEY: manifest})
        path.write_bytes(graph.SerializeToString())

    def read_manifest(self, path: Path) -> str | None:
        import onnx

        found = onnx.load(path, load_external_data=False).metadata_props
        return next((entry.value for entry in found if entry.key == KEY), None)

    def load(self, source: Any, precision: str, threads: int | None) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        # Its threads busy-wait, and would go on after a run and slow down what the program does next.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        content = str(source) if isinstance(source, Path) else source.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
        name = session.get_inputs()[0].name
        return lambda x: session.run(None, {name: x})


class OpenVINO(Backend):
    """OpenVINO, and ``.xml`` files with a ``.bin`` beside them."""

    name, precisions, libraries = 'openvino', ('fp32', 'bf16'), ('onnx', 'onnxscript', 'openvino')
    format, suffix, companions, has_nms = 'openvino', '.xml', ('.bin',), True
    files = {**dict.fromkeys(('fp32', 'bf16'), libraries), 'int8': (*libraries, 'nncf')}

    def convert(self, program: Any, names: Any = None) -> Any:
        import openvino

        from .graph import to_onnx
        from .model_api import add_relative_boxes

        graph = to_onnx(program, names)
        if [output.name for output in graph.graph.output] == ['boxes', 'scores', 'labels']:  # with NMS inside
            add_relative_boxes(graph)
        # not read_model, which leaves out the simplifications that NNCF builds on
        model = openvino.convert_model(io.BytesIO(graph.SerializeToString()))
        model.get_ordered_ops()
        return model

    def quantize(self, graph: Any, images: Sequence[np.ndarray]) -> Any:
        from .quantization import quantize_openvino

        return quantize_openvino(graph, images)

    def write(self, graph: Any, path: Path, manifest: str) -> None:
        import openvino

        from .model_api import model_info

        described = json.loads(manifest)
        if described.get('nms'):
            for name, value in model_info(described['recipe']['classes']).items():
                graph.set_rt_info(value, ['model_info', name])
        graph.set_rt_info(manifest, [KEY])
        openvino.save_model(graph, path, compress_to_fp16=False)

    def read_manifest(self, path: Path) -> str | None:
        found = ElementTree.parse(path).find(f'rt_info/{KEY}')
        return None if found is None else found.get('value')

    def load(self, source: Any, precision: str, threads: int | None) -> Run:
        import openvino

        # By itself OpenVINO computes in bfloat16 wherever the processor can.
        hint = 'bf16' if precision == 'bf16' else 'f32'
        options: dict[str, Any] = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': hint}
        if threads:
            options['INFERENCE_NUM_THREADS'] = threads
        # OpenVINO gives the thread that compiles a signal stack, and frees it in whatever thread drops the model: the
        # next signal, as of a data worker that ends, would then kill the program without a word.
        with ThreadPoolExecutor(1) as short_lived:
            compiled = short_lived.submit(openvino.Core().compile_model, source, 'CPU', options).result()
        busy = Lock()  # one request at a time, whatever thread it comes from

        def run(x: np.ndarray) -> list[np.ndarray]:
            with busy:
                return list(compiled(x).values())[:3]  # the fourth is for OpenVINO's Model API

        return run


class Inductor(Backend):
    """TorchInductor, and ``.pt2`` packages that it compiled. They hold machine code: run files of your own only."""

    name, precisions = 'inductor', ('fp32', 'bf16')
    format, suffix = 'pt2', '.pt2'
    files = {'fp32': (), 'bf16': ()}

    def convert(self, program: Any, names: Any = None) -> Any:
        from .graph import without_own_operators

        return without_own_operators(program)

    def write(self, graph: Any, path: Path, manifest: str) -> None:
        import torch
        import torch._inductor

        options = {'aot_inductor.metadata': {KEY: manifest}}
        try:
            # The weights become constants of the program.
            with torch.no_grad(), torch._inductor.config.patch(freezing=True):
                torch._inductor.aoti_compile_and_package(graph, package_path=str(path), inductor_configs=options)
        except (RuntimeError, OSError) as error:
            raise UserError(f'--format pt2 needs a C++ compiler that works: {error}') from error

    def read_manifest(self, path: Path) -> str | None:
        with zipfile.ZipFile(path) as package:
            texts = [package.read(name) for name in package.namelist() if name.endswith('_metadata.json')]
        return next((found[KEY] for found in map(json.loads, texts) if KEY in found), None)

    def load(self, source: Any, precision: str, threads: int | None) -> Run:
        import torch
        import torch._inductor
        import torchvision  # noqa: F401  # the operators that the package calls

        if threads:
            torch.set_num_threads(threads)
        package: Any = torch._inductor.aoti_load_package(str(source))

        def run(x: np.ndarray) -> list[np.ndarray]:
            with torch.no_grad():
                found = package(torch.from_numpy(x))
            return [y.numpy() for y in (found if isinstance(found, (list, tuple)) else (found,))]

        return run


class LiteRT(Backend):
    """LiteRT, and ``.tflite`` files."""

    name, precisions, extra = 'litert', (), 'tflite'
    format, suffix, has_nms, raw = 'tflite', '.tflite', True, True
    files = {'fp32': ('litert_torch',), 'int8': ('litert_torch', 'ai_edge_quantizer')}

    def convert(self, network: Any, image: Any) -> Any:
        from .litert import convert

        return convert(network, image)

    def quantize(self, graph: Any, images: Sequence[np.ndarray]) -> Any:
        from .litert import quantize

        return quantize(graph, images)

    def write(self, graph: Any, path: Path, manifest: str) -> None:
        from .litert import with_metadata
        from .recipe import Manifest

        path.write_bytes(with_metadata(graph, Manifest.from_json(manifest), KEY))

    def read_manifest(self, path: Path) -> str | None:
        from .litert import read_metadata

        return read_metadata(path.read_bytes(), KEY)

    def load(self, source: Any, precision: str, threads: int | None) -> Run:
        import cv2
        from ai_edge_litert.interpreter import Interpreter

        network = Interpreter(str(source), num_threads=threads)
        network.allocate_tensors()
        (image,) = network.get_input_details()
        outputs = [detail for _, detail in sorted(network.get_signature_runner().get_output_details().items())]
        # What each integer stands for, which takes a fifth of the time of computing it.
        tables = [
            (np.arange(256, dtype=np.float32) - zero) * np.float32(scale) if scale else None
            for scale, zero in (detail['quantization'] for detail in outputs)
        ]

        busy = Lock()  # the interpreter holds one image, whatever thread it comes from

        def run(x: np.ndarray) -> list[np.ndarray]:
            x = np.rint(x) if image['dtype'] == np.uint8 else x
            with busy:
                network.set_tensor(image['index'], x.astype(image['dtype'], copy=False))
                network.invoke()
                raw = [network.get_tensor(detail['index']) for detail in outputs]
            found = []
            for values, table in zip(raw, tables):
                found.append(values if table is None else cv2.LUT(values.reshape(1, -1), table).reshape(values.shape))
            return found

        return run


class Ncnn(Backend):
    """ncnn, and ``.param`` files with a ``.bin`` and, for what ncnn does not know of, a ``.json`` beside them."""

    name, precisions, extra = 'ncnn', (), 'ncnn'
    format, suffix, companions, raw = 'ncnn', '.param', ('.bin', '.json'), True
    files = {'fp32': ('ncnn', 'onnx', 'onnxscript', 'pnnx')}

    def convert(self, network: Any, image: Any) -> Any:
        from .ncnn import convert

        return convert(network, image)

    def write(self, graph: Any, path: Path, manifest: str) -> None:
        param, weights = graph
        path.write_text(param)
        path.with_suffix('.bin').write_bytes(weights)
        path.with_suffix('.json').write_text(manifest)

    def read_manifest(self, path: Path) -> str | None:
        return path.with_suffix('.json').read_text()

    def load(self, source: Any, precision: str, threads: int | None) -> Run:
        import ncnn
        import torch

        network = ncnn.Net()
        network.opt.num_threads = threads or torch.get_num_threads()
        if network.load_param(str(source)) or network.load_model(str(source.with_suffix('.bin'))):
            raise RuntimeError('damaged, or not in its format')
        names = sorted(network.output_names())  # out0, out1

        def run(x: np.ndarray) -> list[np.ndarray]:
            image = np.ascontiguousarray(x[0].transpose(2, 0, 1), np.float32)
            extractor = network.create_extractor()
            extractor.input('in0', ncnn.Mat(image))
            return [np.array(extractor.extract(name)[1])[None] for name in names]

        return run


class Eager(Backend):
    """PyTorch as it is; it takes a network, not a graph."""

    name, precisions = 'eager', ('fp32', 'bf16')


#: The fastest first: in float32 at one thread ONNX Runtime takes three quarters of TorchInductor's time, in bfloat16
#: OpenVINO takes half of it.
BACKENDS: tuple[Backend, ...] = (OnnxRuntime(), OpenVINO(), Inductor(), Eager(), LiteRT(), Ncnn())
#: Those that write files, by the name of the format.
FORMATS = {backend.format: backend for backend in BACKENDS if backend.format}
_BY_SUFFIX = {backend.suffix: backend for backend in FORMATS.values()}


def missing(libraries: Sequence[str]) -> list[str]:
    """Which libraries are not installed."""
    return [library for library in libraries if find_spec(library) is None]


def choose_engine(engine: str, precision: str) -> Backend:
    """The back end to compute with in this process; ``'auto'`` is the first that has the precision and is installed.

    Raises:
        ValueError: There is no such precision; the engine is unknown, cannot compute in it, or lacks a library.
    """
    able = {backend.name: backend for backend in BACKENDS if precision in backend.precisions}
    if not able:
        raise ValueError(f"precision={precision!r}: allowed are 'fp32', 'bf16'")
    if engine == 'auto':
        return next(backend for backend in able.values() if not missing(backend.libraries))
    if engine not in able:
        raise ValueError(f'engine={engine!r}: allowed for {precision} are auto, {", ".join(able)}')
    if lacking := missing(able[engine].libraries):
        way = EXTRA.format('export')
        raise ValueError(
            f'engine={engine!r} needs {", ".join(lacking)}: {way}, or choose another of auto, {", ".join(able)}'
        )
    return able[engine]


def is_exported(name: str) -> bool:
    """Whether a file is an exported one, by its suffix."""
    return Path(name).suffix in _BY_SUFFIX


def open_exported(path: Path) -> tuple[Backend, str]:
    """The back end and the manifest, as text, of an exported file, without loading it."""
    if not is_exported(str(path)):
        raise UserError(f'{path}: exported files end in {", ".join(_BY_SUFFIX)}')
    if not path.is_file():
        raise UserError(f'{path} does not exist')
    backend = _BY_SUFFIX[path.suffix]
    for companion in map(path.with_suffix, backend.companions):
        if not companion.is_file():
            raise UserError(f'{companion} does not exist: it belongs to {path}')
    text = explain(path, backend, lambda: backend.read_manifest(path))
    if not text:
        raise UserError(f'{path} has no classes and sizes in it: it was not written by mnv2 export, which adds them')
    return backend, text


def explain(path: Path, backend: Backend, step: Callable[[], Any]) -> Any:
    """Does a step of loading a file; whatever is raised becomes a :class:`UserError` that names the file."""
    try:
        return step()
    except ImportError as error:
        raise UserError(
            f'{path} needs {error.name or backend.name}: {EXTRA.format(backend.extra)} ({error})'
        ) from error
    except UserError:
        raise
    except Exception as error:  # each runtime has exceptions of its own
        # OpenVINO's begin with the places in its sources
        lines = [
            x for x in str(error).splitlines() if x.strip() and not re.match(r'Exception from|Check .* failed at', x)
        ]
        reason = lines[0] if lines else type(error).__name__
        raise UserError(f'{path} cannot be loaded by {backend.name}: {reason}') from error
