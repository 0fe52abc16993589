"""From a config and weights to a file that runs without them."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, whole_file
from .backends import EXTRA, FORMATS, PRECISIONS, Backend, missing

if TYPE_CHECKING:
    from mmengine.config import Config

    from .recipe import Manifest, Recipe


@dataclass(frozen=True)
class ExportOptions:
    """What to export; can be checked without importing PyTorch.

    ``calib`` is a folder of images to calibrate ``'int8'`` with, ``nms`` whether NMS is inside the file, ``size`` the
    (height, width) that images are resized to, by default that of the config's test pipeline.

    Raises:
        UserError: The options do not go together, or a library is missing.
    """

    format: str
    precision: str = 'fp32'
    calib: Path | None = None
    nms: bool = False
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for option, value, allowed in (('format', self.format, FORMATS), ('precision', self.precision, PRECISIONS)):
            if value not in allowed:
                raise UserError(f'--{option} {value}: allowed are {", ".join(allowed)}')
        if self.precision not in self.backend.files:
            able = [name for name, backend in FORMATS.items() if self.precision in backend.files]
            where = f'not available in {self.format} files, only in {" and ".join(able)}'
            raise UserError(f'--precision {self.precision}: {where}')
        if lacking := missing(self.backend.files[self.precision]):
            raise UserError(f'--format {self.format} needs {", ".join(lacking)}: {EXTRA.format(self.backend.extra)}')
        if self.nms and not self.backend.has_nms:
            having = ', '.join(name for name, backend in FORMATS.items() if backend.has_nms)
            raise UserError(f'--nms: only {having} files have NMS inside; for {self.format} it runs outside')
        if self.precision == 'int8' and self.calib is None:
            raise UserError('--precision int8 needs --calib FOLDER: about 100 images like those it will be used on')
        if self.precision != 'int8' and self.calib is not None:
            raise UserError(f'--calib is for --precision int8, not for {self.precision}')
        if self.size and min(self.size) < 32:
            raise UserError(f'--input-size {self.size[0]} {self.size[1]}: allowed are numbers from 32')

    @property
    def backend(self) -> Backend:
        """What writes the file."""
        return FORMATS[self.format]


def export(cfg: 'Config', weights: str, options: ExportOptions, out: Path) -> 'Manifest':
    """Writes a detector or segmenter as one file, from images to boxes and scores or label maps; returns its metadata.

    The file (for OpenVINO and ncnn with those beside it) appears when it is complete and has been loaded and run.
    ``weights`` is a checkpoint's path or an ``mnv2://`` name.

    Raises:
        UserError: Something that the user can change: a config that cannot be deployed, weights that do not fit ...
    """
    import numpy as np
    import torch

    from .graph import traced
    from .network import in_bfloat16, load_trained
    from .predictor import Predictor
    from .quantization import CalibrationImages
    from .raw import RunRaw
    from .recipe import Manifest

    backend = options.backend
    if out.suffix != backend.suffix:
        raise UserError(f'--out {out}: {options.format} files end in {backend.suffix}')
    _recipe(cfg, options)  # checked before any work
    if not out.exists() and (taken := [x for x in map(out.with_suffix, backend.companions) if x.exists()]):
        raise UserError(f'--out {out}: {taken[0]}, which belongs to another file, would be replaced; take another name')
    images: Sequence[Any] = CalibrationImages(options.calib) if options.calib else []
    with ExitStack() as drafts:
        place = drafts.enter_context(whole_file(out))
        for suffix in backend.companions:
            drafts.enter_context(whole_file(out.with_suffix(suffix)))
        model, meta = load_trained(cfg, weights)
        manifest = Manifest(_recipe(cfg, options, meta), options.precision, options.nms)
        try:
            network, whole = (_raw if backend.raw else _whole)(model, manifest)
        except ValueError as error:
            raise UserError(str(error)) from error
        if backend.name == 'inductor' and options.precision == 'bf16':
            in_bfloat16(network)
        try:
            if backend.raw:
                manifest = replace(manifest, decoding=whole.decoding)
                graph = backend.convert(whole.eval(), torch.zeros(1, *whole.size, 3))
                images = [RunRaw(manifest).prepare(image[0]) for image in images]
            else:
                names = dict(input_names=list(whole.inputs), output_names=list(whole.outputs))
                sample = torch.zeros(2, 300, 420, 3, dtype=torch.uint8)  # free in the number and the size of the images
                graph = backend.convert(traced(whole, sample, (0, 1, 2)), names)
            if options.precision == 'int8':
                graph = backend.quantize(graph, images)
            backend.write(graph, place, manifest.to_json())
            Predictor.from_file(place)([np.zeros((64, 64, 3), np.uint8)])
        except (RuntimeError, UserError) as error:
            raise UserError(f'{out} cannot be written: {str(error).strip()}') from error
    return manifest


def _recipe(cfg: 'Config', options: ExportOptions, meta: Any = None) -> 'Recipe':
    from .recipe import Recipe

    try:
        recipe = Recipe.from_config(cfg, meta)
    except ValueError as error:
        raise UserError(str(error)) from error
    if options.size:
        recipe = replace(recipe, size=options.size)
        if recipe.task == 'segment':  # nor is it padded to another size
            recipe = replace(recipe, test_cfg={**recipe.test_cfg, 'size': options.size})
    if recipe.task == 'segment' and options.nms:
        raise UserError('--nms is for detectors, the config has a segmenter')
    if options.nms:
        check_nms(recipe.test_cfg, options)
    if recipe.task == 'detect' and recipe.size is None:
        raise UserError('--input-size H W is needed: the test pipeline does not resize to a fixed size')
    return recipe


def check_nms(test_cfg: Mapping[str, Any], options: ExportOptions) -> None:
    """Raises :class:`UserError` if no file of this format can have the NMS of a head's ``test_cfg`` inside."""
    able = dict(type=('nms',), class_agnostic=(False,) if options.backend.raw else (False, True))
    refused = {
        f'nms.{name}': value
        for name, value in test_cfg['nms'].items()
        if name not in ('iou_threshold', 'split_thr') and value not in able.get(name, ())
    }
    if options.backend.raw and (smallest := test_cfg.get('min_bbox_size', -1)) > 0:
        refused['min_bbox_size'] = smallest
    if options.backend.raw and 0 < (limit := test_cfg.get('nms_pre', -1)) < test_cfg['max_per_img']:
        refused['nms_pre'] = limit
    if refused:
        name, value = next(iter(refused.items()))
        raise UserError(f'--nms: no {options.format} file has test_cfg.{name}={value!r} inside; leave --nms out')


def _whole(model: Any, manifest: 'Manifest') -> tuple[Any, Any]:
    """The network, and the whole that is written, with resizing, decoding and NMS."""
    from .graph import WholeDetector, WholeSegmenter
    from .network import Detector, Segmenter

    recipe = manifest.recipe
    if recipe.task == 'detect':
        assert recipe.size is not None
        detector = Detector(model, recipe.size)
        return detector, WholeDetector(detector, recipe, manifest.nms)
    segmenter = Segmenter(model, recipe.test_cfg.get('size'))
    return segmenter, WholeSegmenter(segmenter, recipe)


def _raw(model: Any, manifest: 'Manifest') -> tuple[Any, Any]:
    """The network, and the raw one that is written."""
    from .network import Detector, Segmenter
    from .raw import RawNetwork

    recipe = manifest.recipe
    size = recipe.size or recipe.test_cfg.get('size')
    if size is None:
        raise UserError('--input-size H W is needed: this format has a fixed size, the config has none')
    if recipe.task == 'detect':
        return (detector := Detector(model, size)), RawNetwork(detector, tuple(size))
    segmenter = Segmenter(model, size)
    if any(have < least for have, least in zip(size, recipe.test_cfg.get('size') or size)):
        raise UserError(
            f'images are resized to {tuple(size)}, then padded to {tuple(recipe.test_cfg["size"])}, which this format '
            'does not do: set the size in data_preprocessor.test_cfg to the same'
        )
    return segmenter, RawNetwork(segmenter, tuple(size))
