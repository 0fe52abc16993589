"""The finder, a module as Python's import system wants it, that has :mod:`operators` for ``mmcv._ext``.

It is asked after all others, so that a compiled mmcv stays in use. An installed package starts with Python, by the line
that setup.py writes, and is found whatever is imported first.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any


def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
    """Where to load ``mmcv._ext`` from; None for all other modules."""
    return spec_from_file_location(name, Path(__file__).with_name('operators.py')) if name == 'mmcv._ext' else None


def offer_operators() -> None:
    """Puts this finder behind all others."""
    module = sys.modules[__name__]
    if module not in sys.meta_path:
        sys.meta_path.append(module)
