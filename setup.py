"""How the extension modules are compiled; all else about the package is in pyproject.toml."""

import os
import sysconfig
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Bit for bit equality with NumPy allows no contraction to fused multiply-add and no fast-math; not
# setting errno and not trapping are what lets a loop with a square root be vectorized.
FLAGS = {
    "unix": ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"],
    "msvc": ["/O2", "/fp:precise"],
}

# The kernels' variants: one source, compiled for one instruction set each. csrc/_cpu.pyx asks for
# just these before a variant is imported.
VARIANT_FLAGS = {
    "_kernels_avx2": {"unix": ["-mavx2"], "msvc": ["/arch:AVX2"]},
    "_kernels_avx512": {
        "unix": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"],
        "msvc": ["/arch:AVX512"],
    },
}

# For .ci/sanitize, which builds in a copy of the sources and an environment of its own.
# FASTOPT_DEBUG=1: Cython's checks and the core's assertions. FASTOPT_SANITIZE: a sanitizer of gcc
# and clang, with or without them.
DEBUG = os.environ.get("FASTOPT_DEBUG", "0") != "0"
DEBUG_FLAGS = {"unix": ["-O1", "-g", "-fno-omit-frame-pointer"], "msvc": ["/Od", "/Zi"]}
SANITIZERS = {
    "address": ["-fsanitize=address"],
    "undefined": ["-fsanitize=undefined,float-cast-overflow", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
SANITIZE = SANITIZERS[os.environ["FASTOPT_SANITIZE"]] if "FASTOPT_SANITIZE" in os.environ else []

IS_X86_64 = sysconfig.get_platform().endswith(("x86_64", "amd64"))

MODULES = ["_cpu", "_pool", "_kernels_baseline", "_core", "_layers"]
if IS_X86_64:
    MODULES += VARIANT_FLAGS
INCLUDED = sorted(str(path) for path in Path("csrc").glob("*.px[di]"))


class BuildExt(build_ext):
    """build_ext with the flags of the compiler that is found."""

    def build_extensions(self):
        """Add the flags, then build."""
        compiler = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
        for extension in self.extensions:
            name = extension.name.rpartition(".")[2]
            extension.extra_compile_args += FLAGS[compiler]
            extension.extra_compile_args += VARIANT_FLAGS.get(name, {}).get(compiler, [])
            extension.extra_compile_args += (DEBUG_FLAGS[compiler] if DEBUG else []) + SANITIZE
            extension.extra_link_args += SANITIZE
        super().build_extensions()


def extension(name):
    """Return the module fastopt.`name`, compiled from csrc/`name`.pyx."""
    return Extension(
        f"fastopt.{name}",
        [f"csrc/{name}.pyx"],
        include_dirs=[np.get_include()],
        depends=INCLUDED,  # else an edit of an included file goes unseen
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"), ("NDEBUG", None)],
        undef_macros=["NDEBUG"] if DEBUG else [],
    )


setup(
    ext_modules=cythonize(
        [extension(name) for name in MODULES],
        build_dir="build/cython-debug" if DEBUG else "build/cython",
        include_path=["csrc"],
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": DEBUG,
            "nonecheck": DEBUG,
        },
    ),
    cmdclass={"build_ext": BuildExt},
)
