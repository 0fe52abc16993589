"""The configs that come with the package, by the names under which every config can build on them."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.config import Config

PREFIX = 'mnv2_backbone::'

_PACKAGE = Path(__file__).resolve().parent
#: The folder that holds configs/ and tools/: in a wheel where MIM looks for them, in a checkout beside the package.
HOME = _PACKAGE / '.mim' if (_PACKAGE / '.mim').is_dir() else _PACKAGE.parent


def config_path(name: str) -> str:
    """The path of a config of this package, wherever it is installed, by its name (``ssdlite_mnv2_coco_tf.py``).

    The prefix ``mnv2_backbone::`` may stand before it.

    Raises:
        FileNotFoundError: The package has no such config; the message has the names most like it.
    """
    configs = HOME / 'configs'
    found = {path.relative_to(configs).as_posix(): path for path in sorted(configs.rglob('*.py'))}
    wanted = name.removeprefix(PREFIX)
    if wanted in found:
        return str(found[wanted])
    close = get_close_matches(wanted, found, n=3, cutoff=0.7)
    hint = f'; did you mean {" or ".join(close)}?' if close else ''
    if name.startswith(PREFIX) and not close:
        hint = f'; there are {", ".join(known for known in found if not known.startswith("_base_/"))}'
    raise FileNotFoundError(f'the config {name} does not exist{hint}')


def find_config(name: str) -> str:
    """The path of a config file, or of a config of this package by its name; errors as for :func:`config_path`."""
    return name if Path(name).is_file() else config_path(name)


def leaves(key: str, dataset: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The configs of the data sets inside wrappers (ConcatDataset and the like), and their dotted keys."""
    if isinstance(dataset.get('datasets'), Sequence):
        for number, part in enumerate(dataset['datasets']):
            yield from leaves(f'{key}.datasets.{number}', part)
    elif isinstance(dataset.get('dataset'), Mapping):
        yield from leaves(f'{key}.dataset', dataset['dataset'])
    else:
        yield key, dataset


def type_name(cfg: Mapping[str, Any]) -> str:
    """The name of the class that a config is for, without its scope; mmengine's new configs have the class itself."""
    kind = cfg['type']
    return (kind if isinstance(kind, str) else kind.__name__).rpartition('.')[2]


def let_configs_build_on_ours() -> None:
    """Teaches mmengine what ``_base_ = 'mnv2_backbone::NAME'`` is.

    mmengine's own list of packages does not serve: names need a slash there, no checkout is found, and the types in
    such a base are looked up in our scope, where MMDetection's are not. Versions of mmengine without the method that
    is replaced here stay as they are.
    """
    others = getattr(Config, '_get_cfg_path', None)
    if others is None:
        return

    def get_cfg_path(cfg_path: str, *args: Any, **kwargs: Any) -> Any:
        if cfg_path.startswith(PREFIX):
            return config_path(cfg_path), None  # None: types resolve in the scope of the inheriting config
        try:
            return others(cfg_path, *args, **kwargs)
        except ModuleNotFoundError as error:
            if error.name != 'pkg_resources':
                raise
            hint = f"mmengine needs pkg_resources to find {cfg_path}: pip install 'setuptools<81'"
            raise ModuleNotFoundError(hint, name=error.name) from error

    Config._get_cfg_path = staticmethod(get_cfg_path)
