"""What every importer returns, and the one error of all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import Tensor

from ..errors import UserError


class WeightsError(UserError, ValueError):
    """Weights that cannot be read, or do not fit the network; the message says what and why."""


@dataclass
class Imported:
    """Weights in our key layout, before anything is left out.

    Attributes:
        state: The tensors by our keys. A convolution whose norm was folded into it has a ``conv.bias``.
        unknown: Names in the file that have no place in our networks.
        options: Options of :class:`mnv2_backbone.MobileNetV2` that the source implies, other than defaults.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


def listing(names: list[str], most: int = 10) -> str:
    """Names for a message: the first few, and how many more."""
    shown = ', '.join(names[:most])
    return f'{shown} and {len(names) - most} more' if len(names) > most else shown


def need(module: str, package: str, what: str) -> Any:
    """Imports an optional dependency.

    Args:
        module: What to import.
        package: Its name for pip.
        what: What cannot be read without it.

    Raises:
        WeightsError: It is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise WeightsError(
            f'reading {what} needs {package}: pip install {package}, or mnv2_backbone[weights] for all formats'
        ) from error
