"""How the extension modules are compiled; all else about the package is in pyproject.toml.

A compiler is given no flag that it was not tried with, and one that can't be kept to exact
arithmetic is an error.
"""

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# Bit for bit equality with NumPy allows no contraction to fused multiply-add and no fast-math: a
# compiler without this flag, or to which one of these conditions applies even so, is refused.
EXACT_FLAGS = {"unix": ["-ffp-contract=off"], "msvc": ["/fp:precise"]}
INEXACT = {
    "defined(__FAST_MATH__) || defined(_M_FP_FAST)": "it is told to approximate (fast-math)",
    "FLT_EVAL_METHOD != 0": "it computes in wider registers than the type's (x87)",
    "defined(_MSC_VER) && !defined(__clang__) && _MSC_VER < 1930": (
        "before Visual Studio 2022 it contracts to fused multiply-add whatever it is told"
    ),
}

# Not setting errno and not trapping are what lets a loop with a square root be vectorized.
SPEED_FLAGS = {"unix": ["-O3", "-fno-math-errno", "-fno-trapping-math"], "msvc": ["/O2"]}

# The kernels' variants: one source, compiled for one instruction set each, on x86-64 alone.
# csrc/_cpu.pyx asks for just these before a variant is imported. Fused multiply-add is for
# csrc/products.h, which names it.
VARIANT_FLAGS = {
    "_kernels_avx2": {"unix": ["-mavx2", "-mfma"], "msvc": ["/arch:AVX2"]},
    "_kernels_avx512": {
        "unix": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
        "msvc": ["/arch:AVX512"],
    },
}
X86_64 = "defined(__x86_64__) || defined(_M_X64)"

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

MODULES = [
    "_cpu", "_pool", "_kernels_baseline", "_core", "_blas_products", "_layers", *VARIANT_FLAGS
]  # fmt: skip
INCLUDED = sorted(str(path) for end in ("px[di]", "h") for path in Path("csrc").glob(f"*.{end}"))


class BuildExt(build_ext):
    """build_ext with the flags of the compiler that is found."""

    def build_extensions(self):
        """Find out what the compiler takes, add the flags, then build."""
        kind = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
        self.strict = []
        if not self.compiles("1"):
            raise CompileError("no working C compiler: it fails on an empty program")
        if kind == "unix" and self.compiles("1", ["-Werror"]):
            self.strict = ["-Werror"]  # clang only warns of flags that it does not know
        common = self.exact_flags(kind)
        common += [flag for flag in SPEED_FLAGS[kind] if self.compiles("1", [flag])]
        variants = self.variant_flags(kind)
        self.extensions = [
            extension
            for extension in self.extensions
            if (name := last_name(extension)) in variants or name not in VARIANT_FLAGS
        ]
        for extension in self.extensions:
            extension.extra_compile_args += common + variants.get(last_name(extension), [])
            extension.extra_compile_args += (DEBUG_FLAGS[kind] if DEBUG else []) + SANITIZE
            extension.extra_link_args += SANITIZE
        super().build_extensions()

    def exact_flags(self, kind):
        """Return the flags that exactness needs; an error if they can't be had or don't do."""
        flags = EXACT_FLAGS[kind]
        for flag in flags:
            if not self.compiles("1", [flag]):
                raise CompileError(f"the C compiler lacks {flag}, which exact results need")
        for condition, reason in INEXACT.items():
            if not self.compiles(f"!({condition})", flags):
                raise CompileError(f"the C compiler gives no exact results: {reason}")
        return flags

    def variant_flags(self, kind):
        """Return the flags of each variant that the compiler can build for its target."""
        if not self.compiles(X86_64):
            return {}
        variants = {}
        for name, flags in VARIANT_FLAGS.items():
            if self.compiles("1", flags[kind]):
                variants[name] = flags[kind]
            else:
                self.warn(f"{name} is left out: the C compiler lacks {' '.join(flags[kind])}")
        return variants

    def compiles(self, condition, flags=()):
        """Tell whether the compiler takes the flags, and with them meets the condition."""
        source = f"#include <float.h>\n#if !({condition})\n#error no\n#endif\nextern int probe;\n"
        with tempfile.TemporaryDirectory() as folder, muted():
            path = Path(folder, "probe.c")
            path.write_text(source, encoding="ascii")
            try:
                self.compiler.compile(
                    [str(path)], output_dir=folder, extra_postargs=[*self.strict, *flags]
                )
            except CompileError:
                return False
        return True


@contextmanager
def muted():
    """Send what compilers print to nowhere: a flag refused is no news."""
    kept = [os.dup(1), os.dup(2)]
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (a device)
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    try:
        yield
    finally:
        for stream, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, stream)
            os.close(copy)


def last_name(extension):
    """Return the name of a module without its package."""
    return extension.name.rpartition(".")[2]


def extension(name):
    """Return the module fastopt.`name`, compiled from csrc/`name`.pyx."""
    return Extension(
        f"fastopt.{name}",
        [f"csrc/{name}.pyx"],
        include_dirs=[np.get_include(), "csrc"],
        depends=INCLUDED,  # else an edit of an included file goes unseen
        define_macros=[
            ("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION"),
            ("NDEBUG", None),
            *([("FASTOPT_VARIANT", None)] if name in VARIANT_FLAGS else []),
        ],
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
            "freethreading_compatible": True,
        },
    ),
    cmdclass={"build_ext": BuildExt},
)
