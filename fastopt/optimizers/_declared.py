"""How an optimizer is declared, once, for the compiled class and for its twin.

A declaration names the hyper-parameters with defaults and checks, the states and how they begin,
the rule, and how coefficients follow from hyper-parameters and step. What a step does with them
does not belong here.
"""

from __future__ import annotations

import functools
import inspect
import operator
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from math import isinf
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from numpy.typing import NDArray

from fastopt._checks import count

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Callable[[type], type]:
        return lambda cls: cls


__all__ = [
    "Coefficients", "Declared", "Number", "OptionalNumber", "State", "alias_of", "hyper",
    "internal", "is_schedule", "option", "scalar", "state",
]  # fmt: skip

if TYPE_CHECKING:

    class Number:
        """The type of a hyper-parameter: set to a number or a schedule, read as a number."""

        def __get__(self, optimizer: Any, cls: Any = None) -> float: ...

        def __set__(self, optimizer: Any, value: float | Callable[[int], float]) -> None: ...

    class OptionalNumber:
        """The same of one that may be None."""

        def __get__(self, optimizer: Any, cls: Any = None) -> float | None: ...

        def __set__(self, optimizer: Any, value: float | Callable[[int], float] | None) -> None: ...

else:
    Number = OptionalNumber = float

Coefficients = tuple[float, ...]
State = dict[Any, NDArray[Any]]

# What other libraries call it, and what it is here: the first that the optimizer has
_UPDATE = "update(params, grads)"
_ALIASES = {
    "learning_rate": ["lr"],
    "betas": ["beta1 and beta2"],
    "beta_1": ["beta1"],
    "beta_2": ["beta2"],
    "rho": ["decay_rate"],
    "alpha": ["decay_rate", "lr"],
    "mu": ["momentum"],
    "epsilon": ["eps"],
    "momentum": ["the class Momentum"],
    "nesterov": ["the class Nesterov"],
    "step": [_UPDATE],
    "apply_gradients": [_UPDATE],
    "zero_grad": [f"nothing to do: {_UPDATE} is given the gradients, and keeps none"],
    "param_groups": ["groups"],
    "clipvalue": ["clip_value"],
    "clipnorm": ["clip_norm"],
    "global_clipnorm": ["clip_global_norm"],
    "max_norm": ["clip_global_norm"],
    "use_ema": ["ema"],
    "ema_momentum": ["ema"],
    "gradient_accumulation_steps": ["accumulate"],
    "decoupled_weight_decay": ["decoupled"],
}

_SHARED = """\
Other Parameters
----------------
weight_decay : float or schedule
    λ, finite and ≥ 0: the gradient g of a parameter p becomes g + λ·p.
decoupled : bool
    Instead, p becomes (1 - lr·λ)·p before the rule, and its gradient stays as it is.
low, high : float or schedule
    Bounds to which the parameters are brought back after each step.
clip_value : float or schedule, optional
    Bound of each entry of the gradients, from both sides; > 0.
clip_norm : float or schedule, optional
    Bound of the Euclidean norm of each gradient; > 0.
clip_global_norm : float or schedule, optional
    Bound of the norm of all gradients together; > 0, and not with clip_norm.
maximize : bool
    Ascend.
nonfinite : {"propagate", "skip", "raise"}
    What NaN and infinity in a gradient do: as in NumPy; no step, which `skipped` counts; a
    FloatingPointError.
accumulate : int
    Calls of `update` that make a step, on the mean of their gradients.
ema : float or schedule, optional
    Share of the parameters' moving averages that is kept in a step, in [0, 1); see `averaged`.
groups : mapping of patterns to mappings of settings by name
    What some parameters have of their own, such as ``{"b*": {"weight_decay": 0}}``; ``lr_scale``
    and ``frozen``, too. A pattern is a string, with wildcards or without, a tuple of strings, or a
    callable that is given the key.

Raises
------
TypeError
    A hyper-parameter or an option is set, here or later, to something that is neither of its type
    nor a schedule, a callable that is given the number of steps completed; an unknown keyword.
ValueError
    One is set, here or later, to a number out of its range. What a schedule returns is checked in
    the step, and at the latest there, whether options contradict one another."""


_METHODS = ["update", "averaged", "current", "reset", "state_dict", "load_state_dict"]


def is_schedule(value: Any) -> bool:
    """Tell whether a setting is a callable of the number of steps completed; a class is none."""
    return callable(value) and not isinstance(value, type)


class _Hyper(NamedTuple):
    """A number, or an option of every optimizer."""

    default: Any
    check: Callable[[str, Any], Any]
    may_vary: bool = True  # it may be a schedule
    in_groups: bool = True  # a group may have one of its own


class _State(NamedTuple):
    begins: float | str


class _Scalar(NamedTuple):
    begins: float


class _Internal(NamedTuple):
    default: Any
    check: Callable[[str, Any], Any] | None
    in_each_step: bool


class _Option(_Hyper):
    """One that is given by keyword alone."""


def hyper(check: Callable[[str, Any], float], *, default: float) -> Any:
    """Declare a hyper-parameter: an argument of the class, and an attribute checked when set."""
    return _Hyper(default, check)


def option(
    check: Callable[[str, Any], Any], *, default: Any, kw_only: Literal[True],
    may_vary: bool = True, in_groups: bool = True,
) -> Any:  # fmt: skip
    """Declare an option, or another default of one that all have."""
    return _Option(default, check, may_vary, in_groups)


def state(begins: float | str = 0.0, *, init: Literal[False] = False) -> Any:
    """Declare a state: a dict of arrays by key, in the order of the rule's operands.

    It begins as a number, as a hyper-parameter that is named, or as "p", a copy of the parameter.
    """
    return _State(begins)


def scalar(begins: float, *, init: Literal[False] = False) -> Any:
    """Declare a number of the optimizer that each step moves on, by `_next_scalars`."""
    return _Scalar(begins)


class _Elsewhere:
    """An attribute that is not there, and says what it is called here.

    A ``__getattr__`` would do for all names, but makes reading any attribute ten times as slow. An
    instance that has an attribute of that name is asked itself.
    """

    def __init__(self, name: str, alias: str) -> None:
        self._name = name
        self.__doc__ = f"Not here: {alias}."

    def __get__(self, optimizer: Declared | None, cls: type[Declared]) -> Any:
        raise AttributeError(_unknown(cls, self._name, "has no", "it has", cls._names()))


def internal(
    default: Any = None, *, check: Callable[[str, Any], Any] | None = None,
    in_each_step: bool = False, init: Literal[False] = False,
) -> Any:  # fmt: skip
    """Declare an attribute of the class's own, which is no argument; say if each step reads it."""
    return _Internal(default, check, in_each_step)


class _Kept:
    """An attribute that few steps read, kept in a dict of the instance's.

    CPython shares the names of instances' attributes up to some 30 of them, and reads each of more
    three times as slowly.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, optimizer: Any, cls: Any) -> Any:
        return self if optimizer is None else optimizer._kept[self._name]

    def __set__(self, optimizer: Any, value: Any) -> None:
        optimizer._kept[self._name] = value


_KINDS = {
    _Hyper: "_hypers", _Option: "_options", _State: "_states", _Scalar: "_scalars",
    _Internal: "_internals",
}  # fmt: skip


@dataclass_transform(field_specifiers=(hyper, option, state, scalar, internal))
class Declared:
    """Base of declarations: attributes that are checked whenever they are set.

    Checking in ``__setattr__`` leaves reading them as cheap as any attribute, which a step on a
    small array would otherwise feel.
    """

    _rule_name = ""
    """Name of the rule in csrc/fastopt/kernels/rules.pxi, which names coefficients and operands."""

    _kept: dict[str, Any]

    _hypers: ClassVar[dict[str, _Hyper]] = {}
    _options: ClassVar[dict[str, _Option]] = {}
    _settings: ClassVar[dict[str, _Hyper]] = {}
    """Hyper-parameters and options."""
    _states: ClassVar[dict[str, _State]] = {}
    _scalars: ClassVar[dict[str, _Scalar]] = {}
    _internals: ClassVar[dict[str, _Internal]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for kind, name in _KINDS.items():
            own = {key: value for key, value in vars(cls).items() if type(value) is kind}
            inherited = (vars(base).get(name, {}) for base in reversed(cls.__mro__[1:]))
            setattr(cls, name, functools.reduce(operator.or_, [*inherited, own]))
            for key, declared in own.items():
                if kind is _Option or not getattr(declared, "in_each_step", True):
                    setattr(cls, key, _Kept(key))
                else:  # an attribute of the class, too, would make the instance's slower
                    delattr(cls, key)
        cls._settings = {**cls._hypers, **cls._options}
        for name in _ALIASES:
            if name not in cls._names() and (alias := alias_of(cls, name)):
                setattr(cls, name, _Elsewhere(name, alias))
        if cls.__init__ is Declared.__init__ or hasattr(cls.__init__, "is_declared"):
            cls.__init__ = _initializer(cls)  # type: ignore[method-assign]
        if cls.__doc__:
            cls.__doc__ = re.sub(
                r"( *)\{shared\}", lambda found: textwrap.indent(_SHARED, found[1]), cls.__doc__
            )  # as deep as its placeholder stands, which depends on the interpreter

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._prepare()
        values = {name: declared.default for name, declared in self._settings.items()}
        values.update(_bound(type(self), args, kwargs))
        for name, value in values.items():
            setattr(self, name, value)
        self._begin()
        self._made()

    def _made(self) -> None:
        """Look at all settings together, once they are made."""

    def _prepare(self) -> None:
        """Set the attributes that are no arguments."""
        self._put("_kept", {})
        for name, each in self._internals.items():
            self._put(name, each.default)

    def _begin(self) -> None:
        """Set what changes with the steps to what it is before the first one."""
        for name in self._states:
            setattr(self, name, {})
        for name, number in self._scalars.items():
            setattr(self, name, number.begins)

    def _coefficients(self, t: float) -> Coefficients:
        """Return the rule's coefficients for step t, counted from 1.

        `self` may be what holds a group's numbers: read hyper-parameters and scalars alone.
        """
        raise NotImplementedError

    _is_constant = False
    """Whether the coefficients stay the same until a hyper-parameter is set."""

    def _next_scalars(self, t: int) -> Mapping[str, float]:
        """Return what the scalars are after step t."""
        return {}

    def _beginning_of(self, name: str, key: Any) -> float | None:
        """Return the number that a state of a key begins as; None for a copy of the parameter."""
        begins = self._states[name].begins
        if begins == "p":
            return None
        return float(getattr(self, begins) if isinstance(begins, str) else begins)

    if not TYPE_CHECKING:  # a checker would take any name to exist

        def __setattr__(self, name: str, value: Any) -> None:
            declared = self._settings.get(name) or self._internals.get(name)
            if declared is not None and declared.check is not None:
                value = self._checked(name, declared, value)
            elif name == "iter":
                value = count(name, value)
            elif not self._may_have(name):
                if name in _METHODS:
                    raise AttributeError(f"{name} of {type(self).__name__} can't be set")
                raise AttributeError(_unknown(type(self), name, "has no", "it has", self._names()))
            object.__setattr__(self, name, value)
            self._was_set(name)

    def _checked(self, name: str, declared: Any, value: Any) -> Any:
        """Return a setting as it is kept; a schedule's numbers are checked in their steps."""
        may_vary = isinstance(declared, _Hyper) and declared.may_vary
        return value if may_vary and is_schedule(value) else declared.check(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": {**self._kept}}

    def _put(self, name: str, value: Any) -> None:
        """Set an attribute as it is; reading stays fast where nobody asks for ``__dict__``."""
        object.__setattr__(self, name, value)

    def _was_set(self, name: str) -> None:
        """Follow a change of an attribute."""

    @classmethod
    def _names(cls) -> list[str]:
        public = [name for name in cls._internals if not name.startswith("_")]
        names = [*cls._settings, *cls._states, *cls._scalars, *public, "iter", *_METHODS]
        return [*dict.fromkeys(names)]

    def _may_have(self, name: str) -> bool:
        """Tell whether the name is not a typo; a user's own class may have any."""
        is_own_class = type(self).__module__.partition(".")[0] == "fastopt"
        known = name in self._states or name in self._scalars or name in self._internals
        return known or name.startswith("_") or not is_own_class

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in _ALIASES or hasattr(self, name)]

    def __repr__(self) -> str:
        values = {name: getattr(self, name) for name in self._settings}
        changed = (
            f"{name}={_shown(value)}"
            for name, value in values.items()
            if value != self._settings[name].default
        )
        return f"{type(self).__name__}({', '.join(changed)})"


def _initializer(cls: type[Declared]) -> Callable[..., None]:
    """Return an ``__init__`` that shows hyper-parameters and options as its arguments."""

    def __init__(self: Declared, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        Declared.__init__(self, *args, **kwargs)

    by_place = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("self", by_place)]
    for name, declared in cls._settings.items():
        kind = by_place if name in cls._hypers else inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=declared.default))
    shown = inspect.Signature(parameters, return_annotation=None)
    vars(__init__).update(__signature__=shown, is_declared=True)
    return __init__


def _bound(cls: type[Declared], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return arguments by name; a TypeError says what a newcomer may have meant."""
    names = list(cls._hypers)
    is_text = args and isinstance(args[0], (str, bytes))
    if args and isinstance(args[0], Iterable) and getattr(args[0], "ndim", not is_text):
        raise TypeError(
            f"{cls.__name__} is not given the parameters: update(params, grads) is; "
            f"it takes {', '.join(cls._settings)}"
        )
    if len(args) > len(names):
        raise TypeError(
            f"{cls.__name__} takes {', '.join(names)} by place, and by keyword "
            f"{', '.join(cls._options)}; got {len(args)} positional arguments"
        )
    values = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in cls._settings:
            known = [*cls._settings]
            raise TypeError(_unknown(cls, name, "got an unknown keyword", "it takes", known))
        if name in values:
            raise TypeError(f"{cls.__name__} got {name!r} twice, by place and by name")
        values[name] = value
    return values


def _shown(value: Any) -> str:
    """Return the text of a setting from which Python makes it again."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_shown(each)}' for key, each in value.items())}}}"
    return f"float('{value}')" if isinstance(value, float) and isinf(value) else repr(value)


def alias_of(cls: type[Declared], name: str) -> str:
    """Return what a name of another library is called here, or nothing."""
    for alias in _ALIASES.get(name, []):
        words = alias.split(" and ")
        if all(word in cls._names() or not word.isidentifier() for word in words):
            return alias
    return ""


def _unknown(cls: type[Declared], name: str, got: str, has: str, names: list[str]) -> str:
    """Return what to say of an unknown name: what it is called here, and what there is."""
    alias = alias_of(cls, name)
    hint = f" (here: {alias})" if alias else ""
    return f"{cls.__name__} {got} {name!r}{hint}; {has} {', '.join(names)}"
