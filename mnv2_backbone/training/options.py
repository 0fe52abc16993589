"""Reading a config and ``--cfg-options``, which are refused if they would do nothing."""

import ast
import copy
import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from ..configs import find_config
from ..errors import UserError
from ..network.checkpoint import read_checkpoint

#: Top-level names that something reads after the config is parsed. Others are helpers inside the file: setting them
#: from outside has no effect.
_READ_LATER = {name for name in inspect.signature(Runner.__init__).parameters if name not in ('self', 'cfg')} | {
    'activation_checkpointing',
    'compile',
    'data_root',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
}


def load_config(path: str, options: Mapping[str, Any] | None = None) -> Config:
    """Reads a config file, or a config of this package by its name, and merges options, see :func:`apply_options`."""
    try:
        file = find_config(path)
    except FileNotFoundError as error:
        raise UserError(str(error)) from error
    try:
        cfg = Config.fromfile(file)
    except (SyntaxError, NameError, KeyError, TypeError, ValueError, OSError, ImportError) as error:
        raise UserError(f'the config {path} cannot be read: {type(error).__name__}: {error}') from error
    return _complete(cfg, path, options)


def stored_config(checkpoint: str, options: Mapping[str, Any] | None = None) -> Config:
    """The config that a checkpoint of ``mnv2 train`` holds; it is read as data, never run as Python."""
    meta = read_checkpoint(checkpoint, mmap=True).get('meta')
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not isinstance(text, str):
        raise UserError(f'{checkpoint} holds no config: name it with --config')
    try:
        tree = _DictCalls().visit(ast.parse(text))
        values = {node.targets[0].id: ast.literal_eval(node.value) for node in tree.body}
    except (SyntaxError, ValueError, AttributeError) as error:
        raise UserError(f'the config in {checkpoint} is not plain data: name it with --config') from error
    return _complete(Config(values), checkpoint, options)


class _DictCalls(ast.NodeTransformer):
    """Writes ``dict(a=1)`` as ``{'a': 1}``, which is a literal."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict' or node.args:
            return node
        return ast.Dict([ast.Constant(pair.arg) for pair in node.keywords], [pair.value for pair in node.keywords])


def _complete(cfg: Config, path: str, options: Mapping[str, Any] | None) -> Config:
    for part in ('model', 'train_dataloader', 'test_dataloader'):
        if part not in cfg:
            raise UserError(f'{path} is not a complete config: it has no {part}')
    apply_options(cfg, options)
    dataset = cfg.test_dataloader.dataset
    if 'test_pipeline' in cfg and 'pipeline' in dataset:  # inferencers of MMSegmentation read it there
        cfg.test_pipeline = copy.deepcopy(dataset.pipeline)
    return cfg


def apply_options(cfg: Config, options: Mapping[str, Any] | None) -> None:
    """Merges ``--cfg-options``, values by dotted key, into a config; elements of lists have numbers.

    ``data_root``, which configs copy into every data set and evaluator while they are read, is replaced in all of these
    places.

    Raises:
        UserError: A key leads to a place that the config does not have or that nothing reads.
    """
    options = dict(options or {})
    parts = cfg._cfg_dict
    for tree in (copy.deepcopy(parts), parts):  # all are checked before the first is applied
        for key in options:
            _find_place(tree, key)
    if 'data_root' in options:
        old, new = cfg.get('data_root'), str(options.pop('data_root'))
        before = repr(cfg)
        for name in list(cfg.keys() if old else ()):
            cfg[name] = cfg[name] if name == 'data_root' else _moved(cfg[name], old, new)
        if repr(cfg) == before and str(old).rstrip('/') != new.rstrip('/'):
            raise UserError(f'--cfg-options data_root: no path of the config lies below its data_root, {old!r}')
        cfg.data_root = new
    try:
        cfg.merge_from_dict(options)
    except (TypeError, KeyError, IndexError) as error:
        raise UserError(f'--cfg-options: {error}') from error


def _find_place(tree: Any, key: str) -> None:
    """Raises unless something reads the key; creates the dicts on the way that mm configs leave out."""
    parts = key.split('.')
    if parts[0] in tree and parts[0] not in _READ_LATER:
        places = [place for place in _places(tree, tree[parts[0]]) if place.split('.')[0] in _READ_LATER]
        if parts[0] in ('max_epochs', 'max_iters'):  # many other numbers may be the same
            places = [place for place in places if place.startswith(('train_cfg.max_', 'param_scheduler.'))]
        places = places[:8]
        hint = f'; set it where it went: {", ".join(places)}' if places else ''
        raise UserError(
            f'--cfg-options {key}: {parts[0]} is only used to write the config, setting it has no effect{hint}'
        )
    if parts[0] not in tree:
        if parts[0] not in _READ_LATER:
            raise UserError(f'--cfg-options {key}: {_missing(parts[0], "", sorted(set(tree) & _READ_LATER))}')
        return
    node: Any = tree
    for depth, part in enumerate(parts[:-1]):
        if isinstance(node, dict) and node.get(part) is None and _is_dict_by_habit(part):
            node[part] = {}
        node = _child(node, part, key, '.'.join(parts[:depth]))
    if not isinstance(node, (Mapping, list, tuple)):
        raise UserError(
            f'--cfg-options {key}: {".".join(parts[:-1])} is {node!r} in the config, it has no parts to set'
        )
    if isinstance(node, (list, tuple)):
        _child(node, parts[-1], key, '.'.join(parts[:-1]))


def _is_dict_by_habit(name: str) -> bool:
    """Whether mm configs leave ``name`` out or None where they could have a dict, such as init_cfg."""
    return name.endswith(('_cfg', '_args')) or name in ('clip_grad', 'metainfo')


def _child(node: Any, part: str, key: str, where: str) -> Any:
    if isinstance(node, (list, tuple)):
        if not part.isdigit() or int(part) >= len(node):
            raise UserError(
                f'--cfg-options {key}: {where} is a list, name an element by a number from 0 to {len(node) - 1}'
            )
        return node[int(part)]
    if not isinstance(node, Mapping) or part not in node:
        names = sorted(node) if isinstance(node, Mapping) else []
        raise UserError(f'--cfg-options {key}: {_missing(part, where, names)}')
    return node[part]


def _missing(part: str, where: str, names: Sequence[str]) -> str:
    full = f'{where}.{part}' if where else part
    close = difflib.get_close_matches(part, names, n=3)
    if close:
        return f'the config has no {full}; did you mean {" or ".join(close)}?'
    return f'the config has no {full}; {where or "it"} has {", ".join(names) or "no parts"}'


def _places(node: Any, value: Any, path: str = '') -> Iterator[str]:
    """Yields the dotted keys that have this value."""
    pairs = node.items() if isinstance(node, Mapping) else enumerate(node)
    for name, child in pairs:
        here = f'{path}.{name}' if path else str(name)
        if type(child) is type(value) and child == value:
            yield here
        elif isinstance(child, (Mapping, list, tuple)):
            yield from _places(child, value, here)


def _moved(node: Any, old: str, new: str) -> Any:
    """Replaces the folder ``old`` by ``new`` at the start of every string in ``node``."""
    if isinstance(node, str):
        base = old.rstrip('/')
        if node == base or node.startswith(base + '/'):
            rest = node[len(base) :].lstrip('/')
            return f'{new.rstrip("/")}/{rest}' if rest or node.endswith('/') else new
        return node
    if isinstance(node, Mapping):
        for name in list(node):
            node[name] = _moved(node[name], old, new)  # type: ignore[index]
        return node
    if isinstance(node, (list, tuple)):
        return type(node)(_moved(item, old, new) for item in node)
    return node
