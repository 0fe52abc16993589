"""From a config and weights to a file that runs without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config

from ..errors import UserError
from ..files import whole_file
from .exported import Exported
from .formats import Whole, write_onnx, write_openvino, write_pt2
from .manifest import Manifest
from .network import Detector, Segmenter, Size, in_bfloat16
from .quantize import find_pictures, read_pictures
from .recipe import Recipe, as_palette
from .trained import load_trained
from .whole import WholeDetector, WholeSegmenter

#: Writes a network and its metadata to a path; pictures to quantize it with come last, if it is to be.
Writer = Callable[[Whole, Path, Manifest, Sequence[np.ndarray]], None]


@dataclass(frozen=True)
class Format:
    """A kind of exported file.

    Attributes:
        suffix: Of its name.
        libraries: What has to be installed to write each precision it has.
        write: Writes it.
        companion: Suffix of a second file that belongs to it, if there is one.
    """

    suffix: str
    libraries: dict[str, tuple[str, ...]]
    write: Writer
    companion: str = ''


_ONNX = ('onnx', 'onnxscript', 'onnxruntime')
_OPENVINO = ('onnx', 'onnxscript', 'openvino')
FORMATS = {
    'onnx': Format('.onnx', {'fp32': _ONNX, 'int8': _ONNX}, write_onnx),
    'openvino': Format(
        '.xml', {'fp32': _OPENVINO, 'bf16': _OPENVINO, 'int8': (*_OPENVINO, 'nncf')}, write_openvino, companion='.bin'
    ),
    'pt2': Format('.pt2', {'fp32': (), 'bf16': ()}, write_pt2),
}
PRECISIONS = ('fp32', 'bf16', 'int8')


@dataclass(frozen=True)
class Wish:
    """What to export.

    Attributes:
        format: One of :data:`FORMATS`.
        precision: One of :data:`PRECISIONS`.
        calib: Pictures to quantize with: a folder. For ``'int8'`` only.
        nms: Whether boxes are thinned out inside the file.
        size: (height, width) that pictures are resized to; by default what the config's test pipeline says.

    Raises:
        UserError: The options do not go together, or a library is missing.
    """

    format: str
    precision: str = 'fp32'
    calib: Path | None = None
    nms: bool = False
    size: Size | None = None

    def __post_init__(self) -> None:
        for option, value, allowed in (('format', self.format, FORMATS), ('precision', self.precision, PRECISIONS)):
            if value not in allowed:
                raise UserError(f'--{option} {value}: allowed are {", ".join(allowed)}')
        libraries = FORMATS[self.format].libraries
        if self.precision not in libraries:
            having = [name for name, format in FORMATS.items() if self.precision in format.libraries]
            raise UserError(f'--precision {self.precision}: {self.format} has none, {" and ".join(having)} have')
        missing = [name for name in libraries[self.precision] if find_spec(name) is None]
        if missing:
            raise UserError(f'--format {self.format} needs {", ".join(missing)}: pip install "mnv2_backbone[export]"')
        if self.nms and self.format == 'pt2':
            raise UserError('--nms: onnx and openvino have it; a pt2 file is thinned out after it ran')
        if self.precision == 'int8' and self.calib is None:
            raise UserError('--precision int8 needs --calib FOLDER: a hundred pictures like those it will see')
        if self.precision != 'int8' and self.calib is not None:
            raise UserError(f'--calib is for --precision int8, not for {self.precision}')
        if self.size and min(self.size) < 32:
            raise UserError(f'--input-size {self.size[0]} {self.size[1]}: allowed are numbers from 32')


def export(cfg: Config, weights: str, wish: Wish, out: Path) -> Manifest:
    """Writes a detector or segmenter as one file, from pictures to boxes and scores or label maps.

    Args:
        cfg: The config.
        weights: A checkpoint's path or ``mnv2://`` name.
        wish: What to write.
        out: The file (OpenVINO: and its ``.bin`` beside it). It appears when it is complete and loads.

    Returns:
        The metadata that is in the file.

    Raises:
        UserError: Something the user can change; nothing was written.
    """
    format = FORMATS[wish.format]
    if out.suffix != format.suffix:
        raise UserError(f'--out {out}: {wish.format} files end in {format.suffix}')
    recipe = _recipe(cfg, wish)
    pictures = read_pictures(find_pictures(wish.calib)) if wish.calib else []
    with ExitStack() as drafts:
        place = drafts.enter_context(whole_file(out))
        if format.companion:
            drafts.enter_context(whole_file(out.with_suffix(format.companion)))
        model, meta = load_trained(cfg, weights)
        classes = tuple(meta['classes'])
        recipe = replace(recipe, classes=classes, palette=as_palette(meta.get('palette'), len(classes)))
        manifest = Manifest(recipe, wish.precision, wish.nms)
        network = _whole(model, recipe, wish)
        try:
            format.write(network, place, manifest, pictures)
            Exported(place)([np.zeros((64, 64, 3), np.uint8)])
        except (RuntimeError, UserError) as error:
            raise UserError(f'{out} cannot be written: {str(error).strip()}') from error
    return manifest


def _recipe(cfg: Config, wish: Wish) -> Recipe:
    try:
        recipe = Recipe.from_config(cfg)
    except ValueError as error:
        raise UserError(str(error)) from error
    if wish.size:
        recipe = replace(recipe, size=wish.size)
    if recipe.task == 'segment' and wish.nms:
        raise UserError('--nms is for detectors, the config has a segmenter')
    if recipe.task == 'detect' and recipe.size is None:
        raise UserError('--input-size H W is needed: the test pipeline does not resize to a fixed size')
    return recipe


def _whole(model: torch.nn.Module, recipe: Recipe, wish: Wish) -> Whole:
    network: Detector | Segmenter
    if recipe.task == 'detect':
        assert recipe.size is not None
        network = Detector(model, recipe.size)
        whole: Whole = WholeDetector(network, recipe, wish.nms)
    else:
        network = Segmenter(model, recipe.size)
        whole = WholeSegmenter(network, recipe)
    if wish.format == 'pt2' and wish.precision == 'bf16':
        in_bfloat16(network)
    return whole
