"""TensorFlow's SSD anchors; source: ``object_detection/anchor_generators/multiple_grid_anchor_generator.py``."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..registry import TASK_UTILS

Size = tuple[int, int]


@TASK_UTILS.register_module()
class TFAnchorGenerator:
    """TensorFlow's SSD anchors (``create_ssd_anchors``), for images of any size.

    Sizes are relative to the shorter side of the image and centres are spread evenly over each map, so the anchors fit
    any input, also one that is not square. (MMDetection's ``SSDAnchorGenerator`` fixes both in pixels, has no 0.1 box
    on the first map and leaves the last maps off centre.)

    Args:
        num_levels: Number of feature maps.
        min_scale, max_scale: Scales of the first and the last map; those between are evenly spaced.
        aspect_ratios: Width over height of the boxes of each map.
        interpolated_ratio: Aspect ratio of one more box at the geometric mean of a map's scale and the next; 0 for
            none.
        reduce_boxes_in_lowest_layer: Gives the first map three boxes instead: a square one of scale 0.1, and 2:1 and
            1:2 ones of ``min_scale``.
        reference_size: Shorter side of the image, in pixels, that the scales refer to; None: the input's own. With the
            size that a detector was trained at, its boxes keep their size in pixels at any other: a larger input then
            finds smaller objects without training.

    Raises:
        ValueError: An option is out of range.

    Examples:
        >>> sizes = [(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]
        >>> sum(len(level) for level in TFAnchorGenerator().grid_priors(sizes, (300, 300)))
        1917
    """

    def __init__(
        self,
        num_levels: int = 6,
        min_scale: float = 0.2,
        max_scale: float = 0.95,
        aspect_ratios: Sequence[float] = (1.0, 2.0, 0.5, 3.0, 0.3333),
        interpolated_ratio: float = 1.0,
        reduce_boxes_in_lowest_layer: bool = True,
        reference_size: int | None = None,
    ) -> None:
        if num_levels < 2:
            raise ValueError(f'num_levels={num_levels!r}: allowed are numbers from 2')
        if not 0 < min_scale < max_scale:
            raise ValueError(f'min_scale={min_scale!r}, max_scale={max_scale!r}: must be above 0 and in this order')
        if reference_size is not None and not reference_size > 0:
            raise ValueError(f'reference_size={reference_size!r}: allowed are None and numbers of pixels above 0')
        self.reference_size = reference_size
        if not aspect_ratios or min(aspect_ratios) <= 0:
            raise ValueError(f'aspect_ratios={aspect_ratios!r}: allowed are numbers above 0, one or more')
        step = (max_scale - min_scale) / (num_levels - 1)
        scales = [min_scale + step * i for i in range(num_levels)] + [1.0]
        self.boxes = []  # (scale, aspect ratio) of each box of each map, in TensorFlow's order
        for i, (scale, following) in enumerate(zip(scales, scales[1:])):
            if i == 0 and reduce_boxes_in_lowest_layer:
                self.boxes.append([(0.1, 1.0), (scale, 2.0), (scale, 0.5)])
                continue
            level = [(scale, ratio) for ratio in aspect_ratios]
            if interpolated_ratio > 0:
                level.append(((scale * following) ** 0.5, interpolated_ratio))
            self.boxes.append(level)

    @property
    def num_levels(self) -> int:
        """Number of feature maps."""
        return len(self.boxes)

    @property
    def num_base_priors(self) -> list[int]:
        """Boxes at each pixel of each map."""
        return [len(level) for level in self.boxes]

    def grid_priors(
        self,
        featmap_sizes: Sequence[Size],
        image_size: Size,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = 'cpu',
    ) -> list[Tensor]:
        """Lays the boxes over maps of sizes (h, w), for an input of (H, W) pixels.

        Returns:
            For each map (h * w * boxes, 4): x1, y1, x2, y2 in pixels; rows first, then columns, then boxes.
        """
        if len(featmap_sizes) != len(self.boxes):
            raise ValueError(f'{len(featmap_sizes)} feature maps for num_levels={len(self.boxes)}: must be equal')
        height, width = image_size
        shorter = self.reference_size or min(image_size)
        levels = []
        for (h, w), boxes in zip(featmap_sizes, self.boxes):
            scale, ratio = torch.tensor(boxes, dtype=dtype, device=device).unbind(1)
            half = shorter / 2 * torch.stack([scale * ratio.sqrt(), scale / ratio.sqrt()], 1)
            x = (torch.arange(w, dtype=dtype, device=device) + 0.5) * (width / w)
            y = (torch.arange(h, dtype=dtype, device=device) + 0.5) * (height / h)
            centre = torch.stack(torch.meshgrid(x, y, indexing='xy'), 2)[:, :, None]
            levels.append(torch.cat([centre - half, centre + half], 3).reshape(-1, 4))
        return levels
