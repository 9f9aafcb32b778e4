"""How the extension modules are compiled; all else about the package is in pyproject.toml.

A compiler is given no flag that it was not tried with, and one that can't be kept to exact
arithmetic is an error.
"""

import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# Bit for bit equality with NumPy allows no contraction to fused multiply-add and no fast-math: a
# compiler without these flags, or to which one of the conditions below applies, is refused. Clang's
# -fno-fast-math puts contraction back to its default, so -ffp-contract=off comes after it.
EXACT_FLAGS = {"unix": ["-fno-fast-math", "-ffp-contract=off"], "msvc": ["/fp:precise"]}
INEXACT = {
    "defined(__FAST_MATH__) || defined(_M_FP_FAST)": "it is told to approximate (fast-math)",
    "defined(__ASSOCIATIVE_MATH__)": "it is told to reorder sums and products",
    "defined(__RECIPROCAL_MATH__)": "it is told to multiply by reciprocals instead of dividing",
    "defined(__NO_SIGNED_ZEROS__)": "it is told to ignore the sign of zero",
    "defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__": "it is told that nothing is NaN",
    "FLT_EVAL_METHOD != 0": "it computes in wider registers than the type's (x87)",
    "defined(_MSC_VER) && !defined(__clang__) && _MSC_VER < 1930": (
        "before Visual Studio 2022 it contracts to fused multiply-add whatever it is told"
    ),
}
# Rejected by a compiler that is told to read double constants in single precision: 2^24 + 1 is no
# float. The preprocessor knows no floating-point numbers.
DOUBLE_CONSTANTS = "typedef char probe[(int) 16777217.0 == 16777217 ? 1 : -1];\n"

# The flags by name, for what no macro tells: clang defines none for most of them, and a module that
# gcc links with them makes every process that imports it flush subnormal numbers.
INEXACT_FLAG = re.compile(
    r"""-Ofast | -mdaz-ftz | -fdenormal-fp-math=(?!ieee).* | -ffp-model=(fast|aggressive)
    | -f(fast-math|unsafe-math-optimizations|associative-math|reciprocal-math|finite-math-only
    |no-signed-zeros|single-precision-constant|no-honor-(nans|infinities)|approx-func)""",
    re.VERBOSE,
)
VARIABLES = ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED")  # which setuptools reads flags from

NO_COMPILER = (
    "There is no such program. To install a compiler: apt install gcc python3-dev (Debian, Ubuntu),"
    " xcode-select --install (macOS), Build Tools for Visual Studio 2022 (Windows)"
)

# Not setting errno and not trapping are what lets a loop with a square root be vectorized. A loop
# over arrays that may overlap first asks whether they do, once for each pair of which one is
# written. Beyond 10 questions gcc gives up, silently: four states beside p and g make 15
# (.ci/vectorized).
SPEED_FLAGS = {
    "unix": [
        "-O3", "-fno-math-errno", "-fno-trapping-math",
        "--param=vect-max-version-for-alias-checks=64",
    ],
    "msvc": ["/O2"],
}  # fmt: skip

# The kernels' variants: one source, compiled for one instruction set each, on x86-64 alone.
# csrc/fastopt/_cpu.pyx asks for just these before a variant is imported. Fused multiply-add is for
# csrc/fastopt/kernels/products.h, which names it.
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

# Those that take longest to compile come first, so that no processor waits for them at the end.
MODULES = [
    "_kernels_avx512", "_kernels_avx2", "_kernels_baseline", "_net", "_layers", "_net_inputs",
    "_entries", "_step", "_overlaps", "_plan", "_products", "_pool", "_cpu", "_kernels",
    "_blas_products",
]  # fmt: skip
INCLUDED = sorted(str(path) for end in ("px[di]", "h") for path in Path("csrc").rglob(f"*.{end}"))


class BuildExt(build_ext):
    """build_ext with the flags of the compiler that is found, several modules at a time."""

    def finalize_options(self):
        """Compile as many modules at a time as there are processors, if the user did not say."""
        super().finalize_options()
        if self.parallel is None:
            self.parallel = usable_processors()

    def build_extensions(self):
        """Find out what the compiler takes, add the flags, then build."""
        kind = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
        self.strict = []
        self.refuse_inexact_flags()
        self.check_compiler()
        self.check_exactness()
        if kind == "unix" and self.meets("1", ["-Werror"]):
            self.strict = ["-Werror"]  # clang only warns of flags that it does not know
        common = self.exact_flags(kind)
        common += [flag for flag in SPEED_FLAGS[kind] if self.meets("1", [flag])]
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

    def refuse_inexact_flags(self):
        """Raise an error that names a flag by which compiler or linker is told to approximate."""
        for executable in ("compiler_so", "linker_so"):
            for flag in getattr(self.compiler, executable, None) or ():
                if INEXACT_FLAG.fullmatch(flag):
                    raise CompileError(
                        f"{flag} gives no exact results: take it out of {source_of(flag)}"
                    )

    def check_compiler(self):
        """Raise an error with the compiler's own words if it does not compile."""
        complaint = self.complaint("extern int probe;\n")
        if complaint is None:
            return
        command = getattr(self.compiler, "compiler_so", None) or [str(self.compiler.cc)]
        raise CompileError(
            f"the C compiler fails on an empty program: {shlex.join(command)}\n{complaint}"
            + (f"\n{NO_COMPILER}" if shutil.which(command[0]) is None else "")
        )

    def check_exactness(self):
        """Raise an error if the compiler approximates for a reason that is not among its flags."""
        for condition, reason in INEXACT.items():
            if not self.meets(f"!({condition})"):
                raise CompileError(f"the C compiler gives no exact results: {reason}")
        if self.complaint(DOUBLE_CONSTANTS) is not None:
            raise CompileError(
                "the C compiler gives no exact results: it is told to read constants as floats"
            )

    def exact_flags(self, kind):
        """Return the flags that exactness needs; an error if they can't be had."""
        flags = EXACT_FLAGS[kind]
        for flag in flags:
            if not self.meets("1", [flag]):
                raise CompileError(f"the C compiler lacks {flag}, which exact results need")
        return list(flags)

    def variant_flags(self, kind):
        """Return the flags of each variant that the compiler can build for its target."""
        if not self.meets(X86_64):
            return {}
        variants = {}
        for name, flags in VARIANT_FLAGS.items():
            if self.meets("1", flags[kind]):
                variants[name] = flags[kind]
            else:
                self.warn(f"{name} is left out: the C compiler lacks {' '.join(flags[kind])}")
        return variants

    def meets(self, condition, flags=()):
        """Return whether the compiler takes the flags, and with them meets the condition."""
        source = f"#include <float.h>\n#if !({condition})\n#error no\n#endif\nextern int probe;\n"
        return self.complaint(source, flags) is None

    def complaint(self, source, flags=()):
        """Return what the compiler says if it does not compile the source, else None."""
        with tempfile.TemporaryDirectory() as folder, captured(folder) as printed:
            path = Path(folder, "probe.c")
            path.write_text(source, encoding="ascii")
            try:
                self.compiler.compile(
                    [str(path)], output_dir=folder, extra_postargs=[*self.strict, *flags]
                )
            except CompileError as error:
                return printed.read_text(errors="replace") + str(error)
        return None


@contextmanager
def captured(folder):
    """Send what compilers print to the file in the folder whose path this yields."""
    path = Path(folder, "printed")
    kept = [os.dup(1), os.dup(2)]
    sys.stdout.flush()
    sys.stderr.flush()
    logging.disable(logging.INFO)  # setuptools logs each command
    with path.open("wb") as printed:
        for stream in (1, 2):
            os.dup2(printed.fileno(), stream)
    try:
        yield path
    finally:
        logging.disable(logging.NOTSET)
        for stream, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, stream)
            os.close(copy)


def source_of(flag):
    """Return where a compiler's flag comes from, for the user to find it."""
    found = [name for name in VARIABLES if flag in shlex.split(os.environ.get(name, ""))]
    return " and ".join(found) or "the settings of this Python (python -m sysconfig)"


def usable_processors():
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def last_name(extension):
    """Return the name of a module without its package."""
    return extension.name.rpartition(".")[2]


def extension(name):
    """Return the module fastopt.`name`, compiled from csrc/fastopt/`name`.pyx."""
    return Extension(
        f"fastopt.{name}",
        [f"csrc/fastopt/{name}.pyx"],
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
