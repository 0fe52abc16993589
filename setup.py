"""Puts configs, tools and the index of models into the wheel, in the folder where MIM looks for them.

Everything else about the package stands in setup.cfg.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
#: These make the environment, the demo and the tables of a checkout, and write into it.
CHECKOUT_ONLY = ('build_mmcv.py', 'demo.py', 'results.py')


class BuildWithMim(build_py):
    """Copies them to ``mnv2_backbone/.mim`` of what is built; the source tree stays as it is."""

    def run(self) -> None:
        """Builds the package."""
        super().run()
        if self.editable_mode:  # a checkout has them beside the package
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
