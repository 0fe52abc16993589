"""What ``pip install`` brings, used as its users use it: from another folder, without the checkout."""

from __future__ import annotations

import argparse
import csv
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from mmengine.config import Config

pytest.importorskip('mmdet', reason='the configs are of MMDetection and MMSegmentation: pip install .[mm]')

import mnv2_backbone
from mnv2_backbone import configs as shipped
from mnv2_backbone.__main__ import COMMANDS
from mnv2_backbone.errors import UserError, setting_up
from mnv2_backbone.training import prepare
from mnv2_backbone.training.options import load_config

ROOT = Path(__file__).parents[1]
MINE = """
_base_ = 'mnv2_backbone::ssdlite_mnv2_coco_tf.py'
model = dict(bbox_head=dict(num_classes=2))
load_from = 'mnv2://ssdlite-coco'
"""


@dataclass(frozen=True)
class Installed:
    """A wheel that was built from a source distribution, and the sources of both."""

    source: Path
    site: Path

    @property
    def mim(self) -> Path:
        """Where MIM looks for tools and configs."""
        return self.site / 'mnv2_backbone/.mim'

    def python(self, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Runs Python with the wheel before whatever else is installed."""
        assert ROOT not in (cwd, *cwd.parents)
        return subprocess.run(
            [sys.executable, *arguments], cwd=cwd, env=dict(os.environ, PYTHONPATH=str(self.site)),
            capture_output=True, text=True,
        )  # fmt: skip


def files(folder: Path, *patterns: str) -> set[str]:
    found = (path for pattern in patterns for path in folder.glob(pattern))
    return {path.relative_to(folder).as_posix() for path in found if path.is_file()}


@pytest.fixture(scope='module')
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp('packaging')
    source, dist, site = folder / 'source', folder / 'dist', folder / 'site'
    made = ('.*', '__pycache__', '*.egg-info', 'build', 'dist', 'data', 'outputs', 'work_dirs')
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*made))
    # What lies around in a checkout that was worked in.
    for left in ('configs/__pycache__/old.pyc', 'tools/__pycache__/old.pyc', 'configs/notes.txt'):
        (source / left).parent.mkdir(exist_ok=True)
        (source / left).touch()
    build = f'from setuptools.build_meta import build_sdist; build_sdist({str(dist)!r})'
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', 'install', '--no-deps', '--no-index']
    for command in (
        [sys.executable, '-c', build],
        [*pip, '--no-build-isolation', '--no-compile', '--no-cache-dir', '--target', str(site)],
    ):
        arguments = [str(path) for path in dist.glob('*.tar.gz')] if 'pip' in command else []
        done = subprocess.run([*command, *arguments], cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return Installed(source, site)


def test_the_wheel_has_what_its_users_need_and_nothing_else(wheel: Installed) -> None:
    configs = files(wheel.source, 'configs/**/*.py') | {'configs/metafile.yml'}
    tools = files(wheel.source, 'tools/**/*.py', 'tools/*.sh')
    tools -= {'tools/demo.py', 'tools/matrix.py', 'tools/results.py'}
    assert {'tools/train.py', 'tools/test.py', 'tools/infer.py', 'tools/dist_train.sh'} <= tools
    assert files(wheel.mim, '**/*') == configs | tools | {'model-index.yml'}
    assert all(os.access(script, os.X_OK) for script in wheel.mim.glob('tools/*.sh'))

    brought = files(wheel.site, 'mnv2_backbone/**/*')
    assert brought - files(wheel.site, 'mnv2_backbone/.mim/**/*') == files(wheel.source, 'mnv2_backbone/**/*.py')
    (info,) = wheel.site.glob('*.dist-info')
    assert {path.name for path in wheel.site.iterdir()} == {'mnv2_backbone', 'mnv2_backbone.pth', 'bin', info.name}
    # MIM reads the first line as the package's name, and pip removes what is recorded.
    assert (info / 'top_level.txt').read_text().split() == ['mnv2_backbone']
    recorded = {row[0] for row in csv.reader((info / 'RECORD').read_text().splitlines())}
    assert brought | {'mnv2_backbone.pth'} <= recorded
    assert not list(wheel.source.rglob('.mim')), 'the source tree was changed'


LOOK_AROUND = """
import sys
from pathlib import Path
from mmengine.config import Config
from mmengine.fileio import load
import mnv2_backbone
from mnv2_backbone.training.options import load_config
from mnv2_backbone.weights.names import WEIGHTS

package = Path(mnv2_backbone.__file__).parent
assert package == Path(sys.argv[1], 'mnv2_backbone'), package
mim = package / '.mim'

# All configs are complete ones, under the names that the package gives them.
names = sorted(path.name for path in mim.glob('configs/*.py'))
for name in names:
    by_name = load_config(f'mnv2_backbone::{name}')
    assert Path(by_name.filename) == mim / 'configs' / name

# A config of another folder builds on them as if it lay beside them: its types have no scope of their own.
mine = load_config('mine.py')
assert mine.model.bbox_head.num_classes == 2 and mine.load_from == 'mnv2://ssdlite-coco'
base = Config.fromfile(mim / 'configs/ssdlite_mnv2_coco_tf.py')
base.merge_from_dict({'model.bbox_head.num_classes': 2, 'load_from': mine.load_from})
assert mine.to_dict() == base.to_dict()

# The index names what there is, and weights with the config they are for.
metafiles = [load(mim / name) for name in load(mim / 'model-index.yml')['Import']]
models = [model for metafile in metafiles for model in metafile['Models']]
collections = {collection['Name'] for metafile in metafiles for collection in metafile['Collections']}
weights = {}
for model in models:
    assert model['In Collection'] in collections
    assert model['Config'] == f'configs/{model["Name"]}.py' and f'{model["Name"]}.py' in names, model
    assert all({'Task', 'Dataset', 'Metrics'} == result.keys() for result in model['Results'])
    if 'Weights' in model:
        weights[model['Weights']] = Path(model['Config']).name
assert len({model['Name'] for model in models}) == len(models) > 0
assert weights == {f'mnv2://{name}': entry.config for name, entry in WEIGHTS.items() if entry.config}
print(len(names), 'configs')
"""


def test_configs_and_index_of_the_wheel_fit_together(wheel: Installed, tmp_path: Path) -> None:
    (tmp_path / 'mine.py').write_text(MINE)
    done = wheel.python('-c', LOOK_AROUND, wheel.site, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == str(len(files(wheel.source, 'configs/*.py')))


def test_tools_of_the_wheel_run_from_any_folder(wheel: Installed, tmp_path: Path) -> None:
    """As far as the data, which is not there: the tools import the package and know its configs by their names."""
    for command in ([wheel.mim / 'tools/train.py'], ['-m', 'mnv2_backbone', 'train']):
        done = wheel.python(*command, 'ssdlite_mnv2_demo.py', cwd=tmp_path)
        assert done.returncode == 2 and 'Traceback' not in done.stderr
        assert 'train_dataloader.dataset.data_root: the folder data/toy does not exist' in done.stderr


class TestTheCommand:
    def mnv2(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).with_name('mnv2'), *arguments], capture_output=True, text=True, cwd='/'
        )

    def test_versions(self) -> None:
        done = self.mnv2('--version')
        assert done.returncode == 0
        for name in (
            f'mnv2_backbone {mnv2_backbone.__version__}',
            'torch ',
            'torchvision ',
            'numpy ',
            'mmengine ',
            'mmcv',
            'mmdet',
            'mmsegmentation ',
            'Python 3.',
        ):
            assert name in done.stdout

    def test_every_script_is_there_and_called_by_its_name(self) -> None:
        for script, _ in COMMANDS.values():
            assert re.search(r'^def main\(|import \w+ as main$', (ROOT / f'tools/{script}.py').read_text(), re.M), (
                script
            )
        for name in ('train', 'convert'):
            done = self.mnv2(name, '--help')
            assert done.returncode == 0 and done.stdout.startswith(f'usage: mnv2 {name} ')
        shown = self.mnv2('--help').stdout
        assert all(f'\n  {name} ' in shown for name in COMMANDS)

    def test_what_is_missing_is_named(self) -> None:
        code = "import sys; sys.modules['mmengine'] = None; import mnv2_backbone.__main__"
        done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
        assert "mnv2_backbone needs mmengine: pip install 'mnv2_backbone[mm]'" in done.stderr.splitlines()[-1]

    def test_a_wrong_command_is_named(self) -> None:
        done = self.mnv2('infr')
        assert done.returncode == 2 and "invalid choice: 'infr' (choose from" in done.stderr

    @pytest.mark.parametrize('line', [
        'infer missing.jpg', 'train missing.py', 'test missing.py x.pth', 'export missing.py x.pth',
        'convert missing.x a.pth',
    ])  # fmt: skip
    def test_a_missing_file_is_named_before_pytorch_is_imported(self, line: str, tmp_path: Path) -> None:
        code = f"""
import sys
from mnv2_backbone.__main__ import main
sys.argv = ['mnv2', *{line.split()!r}]
print(main(), 'torch' in sys.modules)
"""
        done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout == '2 False\n' and done.stderr.count('\n') == 1 and 'missing' in done.stderr


def test_an_mmpretrain_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    """As with transformers 4.54 and newer."""
    module = tmp_path / 'mmpretrain/__init__.py'
    module.parent.mkdir()
    module.write_text("raise TypeError('NoneType takes no arguments')")
    with (
        pytest.raises(UserError, match=r"NoneType .*\(in mmpretrain, .*: pip install 'transformers<4\.54'"),
        setting_up(),
    ):
        runpy.run_path(str(module))


class TestInACheckout:
    def test_a_config_elsewhere_builds_on_ours(self, tmp_path: Path) -> None:
        path = tmp_path / 'mine.py'
        path.write_text(MINE)
        theirs = tmp_path / 'theirs.py'
        theirs.write_text(MINE.replace('mnv2_backbone::', f'{ROOT}/configs/'))
        assert Config.fromfile(path).to_dict() == Config.fromfile(theirs).to_dict()
        assert mnv2_backbone.config_path('ssdlite_mnv2_coco.py') == str(ROOT / 'configs/ssdlite_mnv2_coco.py')

    def test_other_packages_are_found_as_ever(self, tmp_path: Path) -> None:
        path = tmp_path / 'mine.py'
        path.write_text("_base_ = ['mmdet::_base_/default_runtime.py', 'mnv2_backbone::_base_/models/ssdlite_mnv2.py']")
        cfg = Config.fromfile(path)
        assert cfg.default_hooks.timer['_scope_'] == 'mmdet' and '_scope_' not in cfg.model

    def test_a_named_config_works_in_a_folder_of_its_own_name(self) -> None:
        args = argparse.Namespace(
            config='mnv2_backbone::ssdlite_mnv2_demo.py', cfg_options=None, launcher='none', work_dir=None
        )
        assert prepare._prepare(args, (prepare._place,))[0].work_dir == 'work_dirs/ssdlite_mnv2_demo'

    @pytest.mark.parametrize('name, message', [
        ('no/such_file.py', 'the config no/such_file.py does not exist'),
        ('configs/ssdlite_mnv2_coco.py', 'does not exist; did you mean ssdlite_mnv2_coco.py or '),
        ('mnv2_backbone::ssdlite_coco.py', 'does not exist; did you mean ssdlite_mnv2_coco.py'),
        ('mnv2_backbone::x', 'does not exist; there are deeplabv3_mnv2_aspp_voc.py, '),
        ('mnv2_backbone::../setup.py', '../setup.py does not exist'),
    ])  # fmt: skip
    def test_a_wrong_name_is_told(
        self, name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=f'^the config {name}') as error:
            load_config(name)
        assert message in str(error.value) and '\n' not in str(error.value)
        if name.startswith('mnv2_backbone::'):
            Path('mine.py').write_text(f'_base_ = {name!r}')
            with pytest.raises(UserError, match='the config mine.py cannot be read') as error:
                load_config('mine.py')
            assert message in str(error.value) and '\n' not in str(error.value)

    def test_another_mmengine_is_left_alone(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        with monkeypatch.context() as other:
            other.delattr(Config, '_get_cfg_path')
            shipped.let_configs_build_on_ours()
            assert not hasattr(Config, '_get_cfg_path')
        with monkeypatch.context() as other:
            other.setattr(Config, '_get_cfg_path', staticmethod(lambda path, *, file: (path, file)))
            shipped.let_configs_build_on_ours()
            assert Config._get_cfg_path('mmdet::x.py', file='a') == ('mmdet::x.py', 'a')
            assert Config._get_cfg_path('mnv2_backbone::ssdlite_mnv2_coco.py', file='a')[1] is None

    def test_a_missing_pkg_resources_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setitem(sys.modules, 'pkg_resources', None)
        (tmp_path / 'mine.py').write_text("_base_ = 'mmdet::_base_/default_runtime.py'")
        with pytest.raises(UserError, match="needs pkg_resources to find mmdet::.*: pip install 'setuptools<81'"):
            load_config(str(tmp_path / 'mine.py'))
