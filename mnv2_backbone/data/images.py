"""Loading images of which some may be damaged."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from ..errors import UserError, one_line
from ..registry import HOOKS, TRANSFORMS

#: How a JPEG and a PNG file begins, and what must stand near its end, or it was cut off.
_ENDINGS = {b'\xff\xd8': b'\xff\xd9', b'\x89PNG': b'IEND'}

#: After this many unreadable images without a good one between them, the folder is wrong, not single files.
_MAX_IN_A_ROW = 100


_Result = TypeVar('_Result')


class UnreadableImageError(UserError):
    """An image file that cannot be read or decoded; the message names it."""


def wrong_size(image: object, found: Sequence[float], meant: Sequence[float]) -> str:
    """The message for an image whose annotation is for another size; both are (height, width)."""
    return (
        f'{image} is {found[1]}x{found[0]} once decoded, as its EXIF orientation says if it has one; '
        f'the annotation is for {meant[1]:g}x{meant[0]:g}'
    )


def decoded_size(path: Path) -> tuple[int, int] | None:
    """(height, width) of an image as OpenCV decodes it, from its header; None if it cannot be read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            tags = Image.Exif()
            tags.load(image.info.get('exif') or b'')  # not getexif(), which looks into XMP too, as OpenCV does not
            return (width, height) if tags.get(0x0112, 1) >= 5 else (height, width)
    except Exception:  # whatever a decoder raises at damaged input
        return None


def has_16_bits(path: Path) -> bool:
    """Whether a PNG or TIFF file has 16 bits a channel; OpenCV keeps the upper 8 of them."""
    if path.suffix.lower() == '.png':
        with path.open('rb') as file:
            return file.read(25)[24:] == b'\x10'
    if path.suffix.lower() not in ('.tif', '.tiff'):
        return False
    with Image.open(path) as image:
        return image.mode[0] in 'IF'


def is_whole(path: Path) -> bool:
    """Whether an image file was not cut off and, if it is no JPEG or PNG file, OpenCV decodes it."""
    try:
        data = path.read_bytes()
        _check_complete(data)
        return data.startswith(tuple(_ENDINGS)) or mmcv.imfrombytes(data) is not None
    except Exception:  # whatever a decoder raises at damaged input
        return False


def _check_complete(data: bytes) -> None:
    """Raises if an image was cut off; OpenCV decodes it without an error, and fills the rest with grey."""
    for beginning, ending in _ENDINGS.items():
        if data.startswith(beginning) and ending not in data[-64:]:
            # Some cameras append notes of their own after the image: only a full decode shows it.
            with Image.open(io.BytesIO(data)) as image:
                image.load()


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that notices damaged files and names them.

    Args:
        skip_corrupt: What to do with a file that cannot be read or decoded, or that was cut off. False: raise. True:
            return None, so that the data set draws another sample, and write the name to ``skipped_log`` if it is set.
        **kwargs: As for :class:`mmcv.transforms.LoadImageFromFile`, without ``ignore_empty``.
    """

    def __init__(self, skip_corrupt: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.skip_corrupt = skip_corrupt
        #: The file that skipped names are appended to; :class:`SkippedImagesHook` sets it.
        self.skipped_log: Path | None = None
        self._in_a_row = 0

    def _open(self, path: str) -> bytes:
        data: bytes = fileio.get(path, backend_args=self.backend_args)
        if not data:
            raise ValueError('the file is empty')
        _check_complete(data)
        return data

    def _decode(self, data: bytes, flag: str | int) -> np.ndarray:
        image: np.ndarray | None = mmcv.imfrombytes(data, flag=flag, backend=self.imdecode_backend)
        if image is None:
            raise ValueError('not an image that can be decoded')
        return image

    def _compare(self, results: dict, size: tuple[int, ...]) -> bool:
        """Raises if the annotation of an image is for another size than the decoded one's, (height, width)."""
        meant = (results.get('height', size[0]), results.get('width', size[1]))
        if meant != tuple(size):
            raise ValueError(wrong_size('it', size, meant))
        return True

    def _guard(self, path: str, step: Callable[..., _Result], *args: Any) -> _Result | None:
        """Does one step of reading a file; None for a damaged one with ``skip_corrupt``, an error without."""
        try:
            return step(*args)
        except Exception as error:  # whatever a decoder raises at damaged input
            if not self.skip_corrupt:
                raise UnreadableImageError(f'cannot read the image {path}: {one_line(error)}') from error
            self._skip(path, error)
            return None

    def transform(self, results: dict) -> dict | None:
        """Reads ``results['img_path']``; returns None for a damaged file with ``skip_corrupt``.

        Sets ``img`` (H, W, 3; BGR, 0 to 255), ``img_shape`` and ``ori_shape`` (H, W).

        Raises:
            UnreadableImageError: A damaged file without ``skip_corrupt``, or 100 of them in a row.
        """
        path = results['img_path']
        data = self._guard(path, self._open, path)
        image = None if data is None else self._guard(path, self._decode, data, self.color_type)
        if image is None or not self._guard(path, self._compare, results, image.shape[:2]):
            return None
        self._in_a_row = 0
        results['img'] = image.astype(np.float32) if self.to_float32 else image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _skip(self, path: str, error: Exception) -> None:
        self._in_a_row += 1
        if self._in_a_row >= _MAX_IN_A_ROW:
            raise UnreadableImageError(
                f'{_MAX_IN_A_ROW} images in a row could not be read, the last is {path}: {error}; '
                'check the folder of images'
            ) from error
        if self.skipped_log is not None:
            # One short write in append mode does not mix with those of other workers.
            file = os.open(self.skipped_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(file, f'{path}: {one_line(error)}\n'.encode(errors='backslashreplace'))
            finally:
                os.close(file)

    def __repr__(self) -> str:
        return super().__repr__()[:-1] + f', skip_corrupt={self.skip_corrupt})'


@HOOKS.register_module()
class SkippedImagesHook(Hook):
    """Reports each image that :class:`LoadImage` skipped, once, and counts them at the end of training.

    The workers of all ranks write the names to ``WORK_DIR/skipped_images.txt``.
    """

    def __init__(self) -> None:
        self._log = Path()
        self._size = 0
        self._seen: set[str] = set()

    def before_train(self, runner: Runner) -> None:
        """Sets the file to which the loaders write what they skip."""
        self._log = Path(runner.work_dir, 'skipped_images.txt')
        if runner.rank == 0 and self._log.exists():
            if runner.iter == 0:
                self._log.unlink()  # of an earlier run in the same folder
            else:
                self._seen.update(self._log.read_text().splitlines())
        for dataset in base_datasets(runner.train_dataloader.dataset):
            for transform in dataset.pipeline.transforms:
                if isinstance(transform, LoadImage):
                    transform.skipped_log = self._log

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Sequence[dict] | None = None, outputs: dict | None = None
    ) -> None:
        """Reports what was skipped since the last iteration."""
        if runner.rank != 0 or not self._log.exists() or self._log.stat().st_size == self._size:
            return
        self._size = self._log.stat().st_size
        for name in self._log.read_text().splitlines():
            if name not in self._seen:
                self._seen.add(name)
                runner.logger.warning(f'skipped an image: {name}')

    def after_train(self, runner: Runner) -> None:
        """Reports the number of skipped images."""
        self.after_train_iter(runner, 0)
        if self._seen:
            runner.logger.warning(
                f'{len(self._seen)} image(s) were skipped in training; they are listed in {self._log}'
            )


def wrappers(dataset: Any) -> Iterator[Any]:
    """Yields every data set in the tree of a built one, wrappers and itself included, in a fixed order."""
    yield dataset
    for part in _parts(dataset):
        yield from wrappers(part)


def base_datasets(dataset: Any) -> Iterator[Any]:
    """Yields those with a pipeline: inside ConcatDataset, RepeatDataset, MultiImageMixDataset, mmengine's slices ..."""
    return (part for part in wrappers(dataset) if not _parts(part))


def _parts(dataset: Any) -> list[Any]:
    held = vars(dataset)
    return held.get('datasets') or [held[name] for name in ('_dataset', 'dataset') if held.get(name) is not None]
