"""Builds the C++ part with CMake, in place: `pip install --no-build-isolation -e .`"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
BUILD = ROOT / "build"


def cmake(*arguments: str) -> None:
    status = subprocess.run(["cmake", *arguments], check=False).returncode
    if status:
        sys.exit(f"cmake {arguments[0]} failed with status {status}: its messages are above")


class CMakeBuild(build_ext):
    """One CMake tree in build/; the libraries land in ortmod/ and are copied from there into a wheel."""

    def run(self) -> None:
        os.environ.setdefault("CCACHE_SLOPPINESS", "pch_defines,time_macros")  # for the precompiled headers
        settings = self._settings()
        stamp = BUILD / "ortmod_settings.txt"
        if not (BUILD / "build.ninja").exists() or not stamp.exists() or stamp.read_text() != "\n".join(settings):
            shutil.rmtree(BUILD / "CMakeFiles", ignore_errors=True)
            (BUILD / "CMakeCache.txt").unlink(missing_ok=True)
            cmake("-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja", *settings[1:])
            stamp.write_text("\n".join(settings))
        cmake("--build", str(BUILD))
        if not self.inplace:
            target = Path(self.build_lib) / "ortmod"
            for library in [*(ROOT / "ortmod").glob("_C*.so"), *(ROOT / "ortmod" / "lib").glob("*.so")]:
                copy = target / library.relative_to(ROOT / "ortmod")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(library, copy)
            shutil.copy2(ROOT / "ortmod" / "_build_info.py", target / "_build_info.py")

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    @staticmethod
    def _settings() -> list[str]:
        """The torch version, then CMake's arguments: when one of them changes, the build tree is made again."""
        try:
            import torch
        except ImportError:
            sys.exit("ortmod is built for the torch you have: install torch, then pip install --no-build-isolation .")
        settings = [torch.__version__, "-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}"]
        if shutil.which("ccache"):
            settings.append("-DCMAKE_CXX_COMPILER_LAUNCHER=ccache")
        return settings + os.environ.get("CMAKE_ARGS", "").split()


setup(ext_modules=[Extension("ortmod._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
