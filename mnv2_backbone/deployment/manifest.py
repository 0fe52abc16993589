"""What an exported file says about itself."""

from __future__ import annotations

import json
from dataclasses import dataclass

from .recipe import Recipe

#: The key under which it stands in each format's metadata.
KEY = 'mnv2_backbone'


@dataclass(frozen=True)
class Manifest:
    """The metadata of an exported file.

    Attributes:
        recipe: Task, classes, palette, size, sampling, thresholds.
        precision: ``'fp32'``, ``'bf16'`` or ``'int8'``.
        nms: Whether boxes are thinned out inside.
    """

    recipe: Recipe
    precision: str
    nms: bool

    def to_json(self) -> str:
        """The metadata as text."""
        return json.dumps(dict(recipe=json.loads(self.recipe.to_json()), precision=self.precision, nms=self.nms))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Reads what :meth:`to_json` wrote."""
        values = json.loads(text)
        return cls(Recipe.from_json(json.dumps(values['recipe'])), values['precision'], values['nms'])
