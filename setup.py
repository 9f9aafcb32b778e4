"""How the extension modules are compiled; all else about the package is in pyproject.toml."""

from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Bit for bit equality with NumPy allows no contraction to fused multiply-add and no fast-math; not
# setting errno and not trapping are what lets a loop with a square root be vectorized.
UNIX_FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
MSVC_FLAGS = ["/O2", "/fp:precise"]

INCLUDED = sorted(str(path) for path in Path("csrc").glob("*.px[di]"))


class BuildExt(build_ext):
    """build_ext with the flags of the compiler that is found."""

    def build_extensions(self):
        """Add the flags, then build."""
        flags = MSVC_FLAGS if self.compiler.compiler_type == "msvc" else UNIX_FLAGS
        for extension in self.extensions:
            extension.extra_compile_args += flags
        super().build_extensions()


def extension(name):
    """Return the module fastopt.`name`, compiled from csrc/`name`.pyx."""
    return Extension(
        f"fastopt.{name}",
        [f"csrc/{name}.pyx"],
        include_dirs=[np.get_include()],
        depends=INCLUDED,  # else an edit of an included file goes unseen
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    )


setup(
    ext_modules=cythonize(
        [extension(name) for name in ("_kernels_baseline", "_core", "_layers")],
        build_dir="build/cython",
        include_path=["csrc"],
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
        },
    ),
    cmdclass={"build_ext": BuildExt},
)
