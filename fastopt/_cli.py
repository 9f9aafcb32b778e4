"""The command line: arguments in, the experiments run, a table and files out.

Whatever can fail is checked before training starts. What the experiments compute and how the
pictures look stands in `experiments` and `plotting`.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import stat
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn, TextIO

import fastopt
import fastopt.optimizers
from fastopt._checks import non_negative
from fastopt._files import replacing
from fastopt._interrupts import ctrl_c_noted
from fastopt._progress import loss_bar
from fastopt.experiments import (
    FINAL_STEPS,
    OPTIMIZERS,
    Comparison,
    compare_optimizers,
    trajectory,
    valley_optimizers,
)
from fastopt.plotting import FORMATS, plot_losses, plot_trajectories, require_matplotlib, save

__all__ = ["main"]

_CHOICES: list[str] = vars(fastopt.optimizers)["__all__"]
_INTERRUPTED = 130  # as a shell reports a program that Ctrl-C ended
_MOST = 2**31 - 1


class _RunError(Exception):
    """What went wrong though the arguments were right, told in one line."""


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong with the arguments in one line; the usage is there for --help."""

    def error(self, message: str) -> NoReturn:
        _tell(self.prog, f"error: {message}")
        self.exit(2)


class _Chosen(argparse.Action):
    """Stores a value and, under the name `chose_…`, that it was asked for."""

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, values)
        setattr(namespace, f"chose_{self.dest}", True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, by default those of the process.

    Returns
    -------
    int
        0; 1 after an error that is no argument's fault; 130 after Ctrl-C, also where `compare` has
        kept what was trained until then. Where matplotlib is missing, `compare` prints its table
        and returns 0, unless a picture was asked for by --output. What is printed to a standard
        stream that is not there is lost, and no error.

    Raises
    ------
    SystemExit
        With status 2 for a bad argument, and with 0 after --help and --version.
    """
    parser = _parser()
    prog = parser.prog
    try:
        args = _parsed(parser, argv)
        if args.command is None:
            parser.print_help()
            return 0
        prog = f"{parser.prog} {args.command}"
        status: int = args.run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # as after `| head`; the flush at exit shall not complain of it either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        _tell(prog, "interrupted")
        return _INTERRUPTED
    except (_RunError, OSError, MemoryError) as error:
        _tell(prog, f"error: {str(error) or type(error).__name__}")
        return 1
    return status


def _parsed(parser: _Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments, and check those that must fit others."""
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        message = f"unrecognized arguments: {' '.join(unknown)}"
        if args.command == "compare" and not unknown[0].startswith("-"):
            message += "; the items of a list are separated by commas, as in --hidden 50,30"
        getattr(args, "error", parser.error)(message)  # the command's error, not the program's
    if args.command in ("compare", "trajectories"):
        if args.history and _is_same_file(args.history, args.output):
            args.error(f"--history {args.history} and --output {args.output} are one file")
        args.lr = _rates_by_name(args)
    return args


def _is_same_file(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve() or (a.exists() and b.exists() and a.samefile(b))


def _rates_by_name(args: argparse.Namespace) -> dict[str, float]:
    """Return the learning rates of --lr by optimizer; one that is named precedes that for all."""
    rates: dict[str | None, float] = {}
    for name, rate in args.lr:
        if name in rates:
            args.error(f"argument --lr: {name or 'the rate for all'} is given twice")
        if name not in (None, *args.optimizers):
            names = ", ".join(args.optimizers)
            args.error(f"argument --lr: {name} is not among the optimizers, {names}")
        rates[name] = rate
    return {
        name: rates[key]
        for name in args.optimizers
        for key in (name if name in rates else None,)
        if key in rates
    }


def _tell(prog: str, message: str) -> None:
    """Write one line to standard error."""
    _write(sys.stderr, f"{prog}: {' '.join(message.split())}\n")


def _write(stream: TextIO | None, text: str) -> None:
    """Write to a standard stream, if there is one; what its encoding lacks is escaped."""
    if stream is None or stream.closed:
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _parser() -> _Parser:
    parser = _Parser(
        prog="fastopt",
        description="Compare the optimizers of fastopt, in pictures and numbers.",
        allow_abbrev=False,
    )
    version = f"%(prog)s {fastopt.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    _add_compare(commands)
    _add_trajectories(commands)
    info = commands.add_parser("info", help="versions, kernels, threads, BLAS, compiler")
    info.set_defaults(run=_info, error=info.error)
    return parser


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="train a net on MNIST with each optimizer: a table and the loss curves",
        description="Train a net on MNIST with each optimizer, all from the same weights and on "
        "the same batches; print a table and draw the loss curves.",
        allow_abbrev=False,
    )
    default = "(default: %(default)s)"
    add = parser.add_argument
    add(
        "--iterations",
        type=_positive,
        default=2000,
        metavar="N",
        help=f"steps of each optimizer {default}",
    )
    add(
        "--batch-size",
        type=_positive,
        default=128,
        metavar="N",
        help=f"images in a step, drawn with replacement {default}",
    )
    add(
        "--hidden",
        type=_sizes,
        default="100,100,100,100",
        metavar="N,N,...",
        help=f'units of each hidden layer, "" for no such layer {default}',
    )
    add(
        "--mnist",
        type=_source,
        default="sample",
        metavar="SOURCE",
        help="sample (6,000 images that come with fastopt), full (60,000, downloaded once) or a "
        f"folder with the four files {default}",
    )
    add("--dtype", choices=("float32", "float64"), default="float32", help=f"of the nets {default}")
    add(
        "--keep-subnormals",
        action="store_true",
        help="compute with the numbers nearest to zero as NumPy does; by default a step takes them "
        "for zero, where the processor can, because they are slow",
    )
    add("--seed", type=_seed, default=0, metavar="N", help=f"of weights and batches {default}")
    _add_common(parser, "fastopt-compare.png")
    parser.set_defaults(run=_compare, error=parser.error)


def _add_trajectories(commands: Any) -> None:
    parser = commands.add_parser(
        "trajectories",
        help="draw the path of each optimizer down a two-variable valley",
        description="Draw the path of each optimizer down the valley f(x, y) = x^2/20 + y^2.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--steps",
        type=_positive,
        default=30,
        metavar="N",
        help="of each path (default: %(default)s)",
    )
    _add_common(parser, "fastopt-trajectories.png")
    parser.set_defaults(run=_trajectories, error=parser.error)


def _add_common(parser: argparse.ArgumentParser, output: str) -> None:
    add = parser.add_argument
    add(
        "--optimizers",
        type=_optimizer_names,
        default=",".join(OPTIMIZERS),
        metavar="NAME,...",
        help=f"of {', '.join(_CHOICES)} (default: %(default)s)",
    )
    add(
        "--lr",
        type=_learning_rates,
        action="extend",
        default=[],
        metavar="[NAME=]NUMBER,...",
        help="learning rate of all optimizers, as in 0.05, or of those named, as in SGD=0.1; may "
        "be given several times",
    )
    add(
        "--output",
        action=_Chosen,
        type=_picture,
        default=output,
        metavar="FILE",
        help=f"the picture, as {', '.join(FORMATS)} (default: %(default)s)",
    )
    add("--history", type=_csv_file, metavar="FILE.csv", help="write the numbers of every step")
    add("--reference", action="store_true", help="run the NumPy twins, not the compiled classes")
    parser.set_defaults(chose_output=False)


def _positive(text: str) -> int:
    return _whole_number(text, least=1)


def _seed(text: str) -> int:
    return _whole_number(text, least=0)


def _whole_number(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= _MOST:
        raise argparse.ArgumentTypeError(
            f"want a whole number from {least} to {_MOST}, got {text!r}"
        )
    return number


def _sizes(text: str) -> list[int]:
    return [_positive(size) for size in text.split(",")] if text else []


def _optimizer_names(text: str) -> list[str]:
    names = [_optimizer_name(part) for part in text.split(",")]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise argparse.ArgumentTypeError(f"{name} is listed twice")
    return names


def _optimizer_name(text: str) -> str:
    known = {name.lower(): name for name in _CHOICES}
    name = text.strip().lower()
    if name not in known:
        choices = ", ".join(_CHOICES)
        raise argparse.ArgumentTypeError(f"no optimizer {name!r}, choose from {choices}")
    return known[name]


def _learning_rates(text: str) -> list[tuple[str | None, float]]:
    """Return the pairs of name and rate in NAME=NUMBER,…; a rate for all has no name."""
    pairs = []
    for part in text.split(","):
        name, sign, number = part.rpartition("=")
        pairs.append((_optimizer_name(name) if sign else None, _learning_rate(number)))
    return pairs


def _learning_rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"want a number or NAME=NUMBER, as in 0.05 or SGD=0.1, got {text!r}"
        ) from None
    try:
        return non_negative("lr", number)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _source(text: str) -> str:
    if text not in {"sample", "full"} and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"want sample, full or an existing folder, got {text!r}")
    return text


def _picture(text: str) -> Path:
    return _writable(text, FORMATS)


def _csv_file(text: str) -> Path:
    return _writable(text, ("csv",))


def _writable(text: str, suffixes: Sequence[str]) -> Path:
    """Accept a file that can be written later, as far as that can be known now."""
    path = Path(text)
    if path.suffix[1:].lower() not in suffixes:
        raise argparse.ArgumentTypeError(f"{text!r} must end in .{', .'.join(suffixes)}")
    try:
        with suppress(FileNotFoundError):  # not path.exists(), which hides other errors
            if not stat.S_ISREG(path.stat().st_mode):
                raise argparse.ArgumentTypeError(f"{text!r} is there and no file")
        with tempfile.TemporaryDirectory(dir=path.resolve().parent):
            pass
    except OSError as error:
        raise argparse.ArgumentTypeError(f"can't write {text!r}: {error.strerror}") from error
    return path


def _info(args: argparse.Namespace) -> int:
    fastopt.show_config()
    return 0


def _compare(args: argparse.Namespace) -> int:
    why_no_picture = _matplotlib_is_missing()
    if why_no_picture and args.chose_output:
        raise _RunError(why_no_picture)
    data = _load_mnist(args.mnist)
    with loss_bar(args.iterations) as progress, ctrl_c_noted() as is_interrupted:
        comparison = compare_optimizers(
            data,
            args.optimizers,
            classes=_classes(args),
            hidden_size_list=args.hidden,
            iterations=args.iterations,
            batch_size=args.batch_size,
            dtype=args.dtype,
            seed=args.seed,
            learning_rates=args.lr,
            flush_subnormals=not args.keep_subnormals,
            progress=progress,
            stop=is_interrupted,
        )
    images, pixels = data[0][0].shape
    losses = {name: training.losses for name, training in comparison.trainings.items()}
    steps = min(map(len, losses.values()))
    if steps < args.iterations:
        wanted = _count(args.iterations, "step")
        _tell("fastopt compare", f"interrupted after {steps:,} of {wanted}")
    try:
        if args.history:
            _write_history(args.history, losses, first_step=1)
        if not why_no_picture:
            save(plot_losses(losses, _title(args, images)), args.output)
    finally:  # a full disk doesn't cost the table, nor does a reader who has left cost the files
        footer = _footer(args, pixels, steps, comparison.seconds)
        _write(sys.stdout, f"{_table(comparison)}\n{footer}\n")
    if why_no_picture:
        _tell("fastopt compare", why_no_picture)
    _print_files(args, picture=not why_no_picture)
    return 0 if steps == args.iterations else _INTERRUPTED


def _title(args: argparse.Namespace, images: int) -> str:
    digits = _count(images, "MNIST image")
    lines = [f"Training loss on {digits}, batches of {args.batch_size:,}"]
    if args.lr:
        lines += textwrap.wrap(_rates(args), 60)
    if args.reference:
        lines.append("(NumPy twins)")
    return "\n".join(lines)


def _rates(args: argparse.Namespace) -> str:
    """Say which learning rates were asked for."""
    if len(args.lr) == len(args.optimizers) and len(set(args.lr.values())) == 1:
        return f"lr = {args.lr[args.optimizers[0]]:g}"
    rates = ", ".join(f"{name} {rate:g}" for name, rate in args.lr.items())
    others = "" if len(args.lr) == len(args.optimizers) else ", others by default"
    return f"lr: {rates}{others}"


def _footer(args: argparse.Namespace, pixels: int, steps: int, seconds: float) -> str:
    taken, batch = _count(steps, "step"), _count(args.batch_size, "image")
    net = "-".join(map(str, [pixels, *args.hidden, 10]))
    twins = ", NumPy twins" if args.reference else ""
    last = min(steps, FINAL_STEPS)
    final = f"mean of the last {last} steps" if last > 1 else "of the one step"
    return (
        f"{taken} of {batch}, net {net}, {args.dtype}{twins}: {seconds:.1f} s\n"
        f"final loss: {final}; ms per step: gradient and update, median"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _trajectories(args: argparse.Namespace) -> int:
    if why_no_picture := _matplotlib_is_missing():
        raise _RunError(why_no_picture)
    optimizers = valley_optimizers(_classes(args), args.optimizers, args.lr)
    paths = {name: trajectory(opt, steps=args.steps) for name, opt in optimizers.items()}
    if args.history:
        columns = {
            f"{name}_{axis}": path[:, i].tolist()
            for name, path in paths.items()
            for i, axis in enumerate("xy")
        }
        _write_history(args.history, columns, first_step=0)
    learning_rates = {name: optimizer.lr for name, optimizer in optimizers.items()}
    defaults = [name for name, opt in optimizers.items() if opt.lr == type(opt)().lr]
    save(plot_trajectories(paths, learning_rates, defaults), args.output)
    _print_files(args)
    return 0


def _matplotlib_is_missing() -> str:
    """Return what to install for a picture, or nothing."""
    try:
        require_matplotlib()
    except ImportError as error:
        return str(error)
    return ""


def _load_mnist(source: str) -> Any:
    from fastopt.datasets import load_mnist

    try:
        return load_mnist(source=source)
    except (OSError, ValueError) as error:
        raise _RunError(_for_the_command_line(str(error))) from error


def _for_the_command_line(message: str) -> str:
    """Put the lines of load_mnist's message into one, and name the option for its parameter."""
    line = "; ".join(map(str.strip, message.splitlines())).replace(":; ", ": ")
    return line.replace("load_mnist(source=FOLDER)", "--mnist FOLDER")


def _classes(args: argparse.Namespace) -> ModuleType:
    return fastopt.reference if args.reference else fastopt


def _table(comparison: Comparison) -> str:
    rows = [("optimizer", "lr", "final loss", "test accuracy", "ms per step")]
    for name, training in comparison.trainings.items():
        loss, accuracy = f"{training.final_loss:#.3g}", f"{training.test_accuracy:.4f}"
        rows.append((name, f"{training.lr:g}", loss, accuracy, f"{training.ms_per_step:.3f}"))
    first, *others = ([len(cell) for cell in column] for column in zip(*rows, strict=True))
    return "\n".join(
        "  ".join([row[0].ljust(max(first)), *map(str.rjust, row[1:], map(max, others))])
        for row in rows
    )


def _write_history(path: Path, columns: Mapping[str, Sequence[float]], first_step: int) -> None:
    with replacing(path) as file:
        text = io.TextIOWrapper(file, newline="", encoding="utf-8")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["step", *columns])
        rows = zip(*columns.values(), strict=True)
        writer.writerows([step, *row] for step, row in enumerate(rows, first_step))
        text.detach()  # after which the file is still open


def _print_files(args: argparse.Namespace, picture: bool = True) -> None:
    if args.history:
        _write(sys.stdout, f"history: {args.history}\n")
    if picture:
        _write(sys.stdout, f"picture: {args.output}\n")
