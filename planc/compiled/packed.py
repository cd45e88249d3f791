"""Groups of arrays that compiled code receives as one pointer.

numba passes a tuple of arrays by value, seven numbers an array: with 60 arrays through 50 functions that was most of what
the compiler had to do, and slow to run. A `Packed` object goes as the address of a table instead, which says where each
array lies and what its shape is, or what a number is. Arrays that compiled code reads out of it are not counted as
references: whoever calls holds the object.
"""

import operator
from dataclasses import fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from numba.core import cgutils, types
from numba.core.datamodel.models import OpaqueModel, StructModel
from numba.core.typing.arraydecl import GetItemBuffer, SetItemBuffer
from numba.core.typing.templates import AttributeTemplate, infer_global
from numba.extending import NativeValue, infer_getattr, lower_getattr_generic, register_model, typeof_impl, unbox
from numba.np.arrayobj import make_array, populate_array
from numba.np.numpy_support import from_dtype

NumbaType = Any
"""A type as numba knows it."""

_numba: Any = types
_WORD: Any = cgutils.intp_t


class Packed:
    """Base of frozen dataclasses of C-contiguous arrays, numbers, other packed objects and tuples of these."""

    @cached_property
    def kind(self) -> NumbaType:
        """The type by which functions are compiled, the same for all objects of one class with arrays alike."""
        return PackedType(type(self).__name__, tuple((name, _type_of(value)) for name, value in self._items()))

    @cached_property
    def table(self) -> npt.NDArray[np.int64]:
        """What compiled code reads: see `_words`. Fields are never replaced, so that it stays true."""
        return np.array([word for _, value in self._items() for word in _words(value)], np.int64)

    @cached_property
    def address(self) -> int:
        """Where `table` lies."""
        return int(self.table.ctypes.data)

    def __getstate__(self) -> dict[str, Any]:
        """Copies have arrays, and so a table, of their own."""
        return dict(self._items())

    def _items(self) -> list[tuple[str, Any]]:
        members: Any = fields(self)  # type: ignore[arg-type]
        return [(member.name, getattr(self, member.name)) for member in members]


def _words(value: Any) -> tuple[int, ...]:
    """The table's words for a field: an array's address and shape, an object's address, or a number's 64 bits."""
    if isinstance(value, np.ndarray):
        if not value.flags.c_contiguous:
            raise TypeError("compiled code reads contiguous arrays only")
        return (value.ctypes.data, *value.shape)
    if isinstance(value, tuple):
        return tuple(word for member in value for word in _words(member))
    if isinstance(value, Packed):
        return (value.address,)
    return (int(np.float64(value).view(np.int64)) if isinstance(value, float) else int(value),)


class Borrowed(types.Array):
    """An array whose owner compiled code does not know."""


class PackedType(types.Opaque):
    """A packed object with these fields, by name and type."""

    def __init__(self, owner: str, members: tuple[tuple[str, NumbaType], ...]) -> None:
        self.members = members
        super().__init__(owner)

    @property
    def key(self) -> tuple[str, tuple[tuple[str, NumbaType], ...]]:
        """What tells two types apart."""
        return self.name, self.members

    def find(self, name: str) -> tuple[int, NumbaType]:
        """The field's first word in the table, and its type."""
        word = 0
        for member, kind in self.members:
            if member == name:
                return word, kind
            word += _width(kind)
        raise AttributeError(name)


def _type_of(value: Any) -> NumbaType:
    if isinstance(value, np.ndarray):
        return Borrowed(from_dtype(value.dtype), value.ndim, "C")
    if isinstance(value, tuple):
        return _numba.UniTuple(_type_of(value[0]), len(value))
    if isinstance(value, Packed):
        return value.kind
    return _numba.float64 if isinstance(value, float) else _numba.int64


def _width(kind: NumbaType) -> int:
    if isinstance(kind, _numba.UniTuple):
        return int(kind.count) * _width(kind.dtype)
    return 1 + int(kind.ndim) if isinstance(kind, types.Array) else 1


@register_model(Borrowed)
class _BorrowedModel(StructModel):  # type: ignore[misc]
    """That of an array, without an owner."""

    def __init__(self, manager: Any, kind: Borrowed) -> None:
        extent = _numba.UniTuple(_numba.intp, kind.ndim)
        members = [
            ("meminfo", _numba.voidptr),
            ("parent", _numba.voidptr),
            ("nitems", _numba.intp),
            ("itemsize", _numba.intp),
            ("data", _numba.CPointer(kind.dtype)),
            ("shape", extent),
            ("strides", extent),
        ]
        super().__init__(manager, kind, members)


@infer_getattr
class _PackedAttribute(AttributeTemplate):  # type: ignore[misc]
    key = PackedType

    def generic_resolve(self, kind: PackedType, name: str) -> NumbaType:
        """The type of the field of that name, None if there is none."""
        return dict(kind.members).get(name)


class _First:
    """Tried before numba's other ways to index, as those for this very target are: it would try a dozen for lists, texts
    and the like first, which was a third of what inferring types took."""

    metadata: ClassVar[dict[str, str]] = {"target": "cpu"}

    def generic(self, args: Any, kws: Any) -> Any:
        """The signature, for arrays of packed objects only."""
        return super().generic(args, kws) if isinstance(args[0], Borrowed) else None  # type: ignore[misc]


@infer_global(operator.getitem)
class _GetElement(_First, GetItemBuffer):  # type: ignore[misc]
    pass


@infer_global(operator.setitem)
class _SetElement(_First, SetItemBuffer):  # type: ignore[misc]
    pass


def _typeof(value: Packed, _context: Any) -> NumbaType:
    return value.kind


def _unbox(_kind: PackedType, value: Any, c: Any) -> NativeValue:
    number = c.pyapi.object_getattr_string(value, "address")
    address = c.pyapi.number_as_ssize_t(number)
    c.pyapi.decref(number)
    failed = cgutils.is_not_null(c.builder, c.pyapi.err_occurred())
    return NativeValue(c.builder.inttoptr(address, cgutils.voidptr_t), is_error=failed)


def _read_field(context: Any, builder: Any, kind: PackedType, value: Any, name: str) -> Any:
    word, member = kind.find(name)
    return _read(context, builder, value, word, member)


register_model(PackedType)(OpaqueModel)
typeof_impl.register(Packed)(_typeof)
unbox(PackedType)(_unbox)
lower_getattr_generic(PackedType)(_read_field)


def _read(context: Any, builder: Any, table: Any, word: int, kind: NumbaType) -> Any:
    """The value of that type at the table's `word`."""
    if isinstance(kind, _numba.UniTuple):
        each = _width(kind.dtype)
        found = [_read(context, builder, table, word + i * each, kind.dtype) for i in range(kind.count)]
        return context.make_tuple(builder, kind, found)
    if isinstance(kind, types.Array):
        return _read_array(context, builder, table, word, kind)
    first = _load(builder, table, word)
    if isinstance(kind, PackedType):
        return builder.inttoptr(first, cgutils.voidptr_t)
    return builder.bitcast(first, context.get_value_type(kind))


def _read_array(context: Any, builder: Any, table: Any, word: int, kind: NumbaType) -> Any:
    shape = [_load(builder, table, word + 1 + axis) for axis in range(kind.ndim)]
    pointer = context.get_data_type(kind.dtype).as_pointer()
    size = context.get_abi_sizeof(pointer.pointee)
    strides = [_WORD(size)]
    for extent in shape[:0:-1]:
        strides.insert(0, builder.mul(strides[0], extent))
    array = make_array(kind)(context, builder)
    data = builder.inttoptr(_load(builder, table, word), pointer)
    populate_array(array, data=data, shape=shape, strides=strides, itemsize=size, meminfo=None)
    return array._getvalue()


def _load(builder: Any, table: Any, word: int) -> Any:
    """A word of a table, which never changes: LLVM may load it once, whatever is written in between."""
    words = builder.bitcast(table, _WORD.as_pointer())
    loaded = builder.load(builder.gep(words, [_WORD(word)]))
    loaded.set_metadata("invariant.load", builder.module.add_metadata([]))
    return loaded
