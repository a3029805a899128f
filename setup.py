"""Builds the Python package: the shared library comes from cargo, or from the file that OPTC_LIBRARY names."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:
    from wheel.bdist_wheel import bdist_wheel

ROOT = Path(__file__).resolve().parent
NAME = {"darwin": "liboptc_python.dylib", "win32": "optc_python.dll"}.get(sys.platform, "liboptc_python.so")


def version() -> str:
    """That of the workspace."""
    text = (ROOT / "Cargo.toml").read_text()
    return re.search(r'^\[workspace\.package\]\nversion = "([^"]+)"', text, re.MULTILINE).group(1)


def library() -> Path:
    """The shared library, built if none is given."""
    given = os.environ.get("OPTC_LIBRARY")
    if given:
        return Path(given)
    try:
        subprocess.run(["cargo", "build", "--release", "--locked", "-p", "optc-python"], cwd=ROOT, check=True)
    except FileNotFoundError:
        raise SystemExit("cargo is needed to build optc (https://rustup.rs); or name a library that is built already in OPTC_LIBRARY") from None
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return (target if target.is_absolute() else ROOT / target) / "release" / NAME


class Build(build_py):
    """Puts the library beside the modules."""

    def run(self) -> None:
        super().run()
        folder = Path(self.build_lib) / "optc"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library(), folder / NAME)
        # Most of it are tables for debuggers.
        strip = shutil.which("strip")
        if strip and sys.platform == "linux":
            subprocess.run([strip, "--strip-debug", str(folder / NAME)], check=False)


class Native(Distribution):
    """A package that is made for one platform."""

    def has_ext_modules(self) -> bool:
        return True


class Wheel(bdist_wheel):
    """A wheel for any Python 3 of the platform: the library knows nothing of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(version=version(), distclass=Native, cmdclass={"build_py": Build, "bdist_wheel": Wheel})
