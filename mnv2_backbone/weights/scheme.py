"""Loaders for mmengine's checkpoints: ``mnv2://NAME``, and its own files."""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

PREFIX = 'mnv2://'
_MODULE = 'mmengine.runner.checkpoint'


def load_from_mnv2(filename: str, map_location: Any = None, logger: Any = 'current') -> dict[str, Any]:
    """Loads named weights, fetching them first if they are not on this machine; errors as for ``fetch.obtain``."""
    import torch

    from .fetch import obtain

    path = obtain(filename.removeprefix(PREFIX))
    checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    return checkpoint


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """mmengine's own loader of local files, which may hold what mmengine saves beside the weights."""
    from mmengine.runner.checkpoint import load_from_local as load

    from ..network.checkpoint import mmengine_types

    with mmengine_types():
        return load(filename, map_location)


class _WhenImported(MetaPathFinder):
    """Registers the loaders right after mmengine's module of checkpoints is imported, which imports PyTorch."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                register_with_mmengine()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register_with_mmengine() -> None:
    """Registers both loaders: now if mmengine's are imported already, otherwise as soon as they are.

    mmengine keeps its loaders in a module whose import takes seconds, because it imports PyTorch.
    """
    if _MODULE not in sys.modules:
        sys.meta_path.insert(0, _WhenImported())
        return
    register = sys.modules[_MODULE].CheckpointLoader.register_scheme
    register(prefixes=PREFIX, loader=load_from_mnv2, force=True)
    register(prefixes='', loader=load_from_local, force=True)
