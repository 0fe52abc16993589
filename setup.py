"""What setup.cfg cannot say: configs, tools and the index of models in the wheel, and a line that Python starts with.

The files go where MIM looks for them. The line offers ``mnv2_backbone/operators.py`` for ``mmcv._ext``, see
``mnv2_backbone/finder.py``; it imports nothing of the package until that module is asked for.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
#: These make the environment, the demo and the tables of a checkout, and write into it.
CHECKOUT_ONLY = ('demo.py', 'matrix.py', 'results.py')
STARTUP = (
    "import sys, types; sys.meta_path.append(types.SimpleNamespace(find_spec=lambda name, *_: name == 'mmcv._ext' and "
    "__import__('mnv2_backbone.finder', fromlist=['find_spec']).find_spec(name) or None))\n"
)


class BuildWithMim(build_py):
    """Adds them to what is built; the source tree stays as it is."""

    def run(self) -> None:
        """Builds the package."""
        super().run()
        folder = self.get_finalized_command('install').install_lib if self.editable_mode else self.build_lib
        self.mkpath(folder)
        Path(folder, 'mnv2_backbone.pth').write_text(STARTUP)
        if self.editable_mode:  # a checkout has configs and tools beside the package
            return
        mim = Path(self.build_lib, 'mnv2_backbone', '.mim')
        shutil.rmtree(mim, ignore_errors=True)  # what an earlier build left
        configs = (path for path in ROOT.glob('configs/**/*') if path.suffix in ('.py', '.yml'))
        tools = (path for path in ROOT.glob('tools/**/*') if path.suffix in ('.py', '.sh'))
        for path in (ROOT / 'model-index.yml', *configs, *tools):
            if path.name not in CHECKOUT_ONLY:
                target = mim / path.relative_to(ROOT)
                self.mkpath(str(target.parent))
                self.copy_file(str(path), str(target))


setup(cmdclass={'build_py': BuildWithMim})
