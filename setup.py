"""Ships the recipes and the data cards inside the package; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = {"recipes": ("*.py", "configs/*.yaml", "suites/*.yaml", "accelerate/*.yaml"), "data_cards": ("*.md",)}


class BuildWithRecipes(build_py):
    """Copies what the command `startup-llm` runs; an editable install finds it in the clone."""

    def run(self) -> None:
        """Build the package, then copy."""
        super().run()
        if self.editable_mode:
            return
        for folder, patterns in SHIPPED.items():
            for file in (file for pattern in patterns for file in Path(folder).glob(pattern)):
                place = Path(self.build_lib, "startup_llm", file)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)


setup(cmdclass={"build_py": BuildWithRecipes})
