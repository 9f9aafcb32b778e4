"""MNIST as arrays: which files make up the set, where a source is found, what the caller gets.

The file format is `_idx`'s, the download `_download`'s.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastopt.datasets._idx import read_idx, unusable

_SAMPLE = Path(__file__).with_name("mnist_sample.npz")
_TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_IMAGE = (28, 28)
_CLASSES = 10
_CHOICES = (
    "source is 'sample', 'full' (a download), or a folder with the four files "
    f"{', '.join(_TRAIN + _TEST)}, each as it is or with .gz"
)

_Pair = tuple[NDArray[Any], NDArray[Any]]  # images and labels
_RawPair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def load_mnist(
    normalize: bool = True,
    flatten: bool = True,
    one_hot_label: bool = False,
    *,
    source: str | os.PathLike[str] = "sample",
) -> tuple[_Pair, _Pair]:
    """Load the MNIST database of handwritten digits, or a sample of it.

    Parameters
    ----------
    normalize : bool
        Images as float32 in 0..1 (the grey value / 255) if true, else as uint8 in 0..255.
    flatten : bool
        Images as rows of shape (N, 784) if true, else of shape (N, 1, 28, 28).
    one_hot_label : bool
        Labels as float32 rows (N, 10), zero but for a 1 at the digit, if true; else the digits
        themselves, uint8 of shape (N,).
    source : str or os.PathLike
        Where the images come from; never from elsewhere than asked for:

        ``"sample"``
            6,000 + 1,000 images that come with the package: every tenth of both sets, beginning
            with the first.
        ``"full"``
            All 60,000 + 10,000, downloaded (12 MB) at the first call into the user's cache folder
            and taken from there later, with their SHA-256 checked each time. The folder is
            ``$FASTOPT_CACHE/mnist`` if that variable is set, else ``fastopt/mnist`` in
            ``$XDG_CACHE_HOME`` or ``~/.cache`` on Linux, ``~/Library/Caches`` on macOS and
            ``%LOCALAPPDATA%`` on Windows.
        a folder
            With the files ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
            ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``, each as it is (which comes
            first) or with ``.gz``. Their content is checked, but may be another set of this form,
            such as Fashion-MNIST. A folder called "full" is ``"./full"``.

    Returns
    -------
    (x_train, t_train), (x_test, t_test)
        Images and labels to train and to test with: new C-contiguous arrays, the caller's own.

    Raises
    ------
    FileNotFoundError
        `source` is no existing folder, or one of the four files is not in it.
    ValueError
        A file is damaged or doesn't hold what it should; the text names it and what was found.
    OSError
        The download failed (ConnectionError, with the reason for each address), or its cache
        folder or a file can't be read or written.
    TypeError
        `source` is neither a string nor a path, or a flag is no bool.

    Notes
    -----
    The MNIST database was made by Yann LeCun, Corinna Cortes and Christopher J.C. Burges and is
    licensed CC BY-SA 3.0 (https://creativecommons.org/licenses/by-sa/3.0/), and so is the sample:
    see ``LICENSE-MNIST.md`` beside this module.

    Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document
    recognition", Proceedings of the IEEE 86(11), 1998.

    Examples
    --------
    >>> from fastopt.datasets import load_mnist
    >>> (x_train, t_train), (x_test, t_test) = load_mnist()
    >>> x_train.shape, x_train.dtype, t_train.shape, t_train.dtype
    ((6000, 784), dtype('float32'), (6000,), dtype('uint8'))
    >>> (x_train, _), _ = load_mnist(normalize=False, flatten=False)
    >>> x_train.shape, x_train.dtype
    ((6000, 1, 28, 28), dtype('uint8'))
    """
    _check_flags(normalize=normalize, flatten=flatten, one_hot_label=one_hot_label)
    train, test = (
        (_images(x, normalize, flatten), _labels(t, one_hot_label)) for x, t in _raw(source)
    )
    return train, test


def _check_flags(**flags: object) -> None:
    """Refuse what would count as true, above all a source that was given without its name."""
    for name, flag in flags.items():
        if not isinstance(flag, bool | np.bool_):
            raise TypeError(
                f"{name}={flag!r} is a {type(flag).__name__}, not a bool; "
                "the data set is chosen with source="
            )


def _raw(source: str | os.PathLike[str]) -> tuple[_RawPair, _RawPair]:
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source={source!r} is a {type(source).__name__}; {_CHOICES}")
    if source == "sample":
        return _read_sample()
    if source == "full":
        # Imported here: urllib takes 40 ms to import, and few callers download.
        from fastopt.datasets._download import fetch_mnist

        folder = fetch_mnist()
        # Only these have been checked: the cache may also hold a file without .gz.
        train, test = ([folder / f"{name}.gz" for name in names] for names in (_TRAIN, _TEST))
    else:
        folder = _existing_folder(source)
        train, test = ([_find(folder, name) for name in names] for names in (_TRAIN, _TEST))
    return _read_pair(*train), _read_pair(*test)


def _read_sample() -> tuple[_RawPair, _RawPair]:
    with np.load(_SAMPLE, allow_pickle=False) as sample:
        return (sample["x_train"], sample["t_train"]), (sample["x_test"], sample["t_test"])


def _existing_folder(source: str | os.PathLike[str]) -> Path:
    folder = Path(source)
    # Path("") is the current folder, which an empty string hardly ever means.
    if source == "" or not folder.is_dir():
        raise FileNotFoundError(f"source={os.fspath(source)!r} is no existing folder; {_CHOICES}")
    return folder


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"neither {name} nor {name}.gz is in the folder {folder}; put it there, "
        f"or choose another source: {_CHOICES}"
    )


def _read_pair(image_path: Path, label_path: Path) -> _RawPair:
    images, labels = read_idx(image_path, _IMAGE), read_idx(label_path, ())
    if len(images) != len(labels):
        raise ValueError(
            f"{image_path} holds {len(images):,} images but {label_path} {len(labels):,} labels; "
            "replace them with two files that belong together"
        )
    if labels.max() >= _CLASSES:
        row = int(np.argmax(labels >= _CLASSES))
        raise unusable(
            label_path, f"its label {row} is {labels[row]}, not a digit 0 to {_CLASSES - 1}"
        )
    return images, labels


def _images(raw: NDArray[np.uint8], normalize: bool, flatten: bool) -> NDArray[Any]:
    shaped = raw.reshape((len(raw), -1) if flatten else (len(raw), 1, *_IMAGE))
    if not normalize:
        return shaped.copy()
    images = shaped.astype(np.float32)
    images /= 255
    return images


def _labels(raw: NDArray[np.uint8], one_hot: bool) -> NDArray[Any]:
    if not one_hot:
        return raw.copy()
    rows = np.zeros((len(raw), _CLASSES), np.float32)
    rows[np.arange(len(raw)), raw] = 1
    return rows
