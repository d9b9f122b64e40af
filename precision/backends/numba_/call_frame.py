"""What XLA hands to a foreign function: ``XLA_FFI_CallFrame`` of ``xla/ffi/api/c_api.h``, version 0.3, by address.

Addresses are int64.  A handler answers XLA's question for its version first, then runs; it returns 0, or the address
of an error that XLA's own function made.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import ctypes
from ctypes import c_int32, c_int64, c_uint32, c_void_p
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array

from precision.backends.numba_.inner_functions import inner

VERSION = (0, 3)
DTYPES = {  # XLA_FFI_DataType
    np.dtype(name): code
    for name, code in {
        "bool": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5,
        "uint8": 6, "uint16": 7, "uint32": 8, "uint64": 9, "float32": 11, "float64": 12,
    }.items()
}  # fmt: skip
_METADATA, _ARRAY = 1, 1  # XLA_FFI_Extension_Metadata, XLA_FFI_AttrType_ARRAY
_INVALID_ARGUMENT = 3


class _Struct(ctypes.Structure):
    """Every struct begins with its size and a list of extensions."""

    _fields_ = [("struct_size", c_int64), ("extension_start", c_void_p)]


class _Extension(ctypes.Structure):
    _fields_ = [("struct_size", c_int64), ("type", c_int32), ("next", c_void_p), ("metadata", c_void_p)]


class _Version(_Struct):
    _fields_ = [("major", c_int32), ("minor", c_int32)]


class _Metadata(ctypes.Structure):
    _fields_ = [("struct_size", c_int64), ("version", _Version), ("traits", c_uint32), ("state_type", c_int64)]


class _Buffers(_Struct):
    """XLA_FFI_Args and XLA_FFI_Rets: so many buffers."""

    _fields_ = [("size", c_int64), ("types", c_void_p), ("buffers", c_void_p)]


class _Attributes(_Struct):
    _fields_ = [("size", c_int64), ("types", c_void_p), ("names", c_void_p), ("values", c_void_p)]


class _CallFrame(_Struct):
    _fields_ = [
        ("api", c_void_p),
        ("context", c_void_p),
        ("stage", c_int32),
        ("operands", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
        ("future", c_void_p),
    ]


class _Buffer(_Struct):
    _fields_ = [("dtype", c_int32), ("data", c_void_p), ("rank", c_int64), ("dimensions", c_void_p)]


class _Array(ctypes.Structure):
    _fields_ = [("dtype", c_int32), ("size", c_int64), ("data", c_void_p)]


class _Api(_Struct):
    _fields_ = [("version", _Version), ("internal", c_void_p), ("create_error", c_void_p)]


class _ErrorArguments(_Struct):
    _fields_ = [("message", c_void_p), ("code", c_int32)]


def _make_load(kind: Any, bits: int) -> Any:
    @intrinsic
    def load(_context: Any, address: Any) -> Any:  # noqa: ARG001
        def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            found = builder.load(builder.inttoptr(args[0], ir.IntType(bits).as_pointer()))
            return found if bits == kind.bitwidth else builder.zext(found, ir.IntType(kind.bitwidth))

        return kind(types.int64), build

    return load


_load8, _load32, _load64 = _make_load(types.int64, 8), _make_load(types.int32, 32), _make_load(types.int64, 64)


@intrinsic
def _store(_context: Any, address: Any, value: Any) -> Any:  # noqa: ARG001
    """An int32 or int64 to its address."""

    def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], args[1].type.as_pointer()))
        return _context.get_dummy_value()

    return types.void(types.int64, value), build


@intrinsic
def _create_error(_context: Any, function: Any, message: Any, code: Any) -> Any:  # noqa: ARG001
    """XLA_FFI_Error_Create at that address, given XLA_FFI_Error_Create_Args."""

    def build(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        word, size = ir.IntType(64), ctypes.sizeof(_ErrorArguments)
        block = builder.ptrtoint(builder.alloca(word, size // 8), word)
        fields = {
            _ErrorArguments.struct_size: word(size),
            _ErrorArguments.extension_start: word(0),
            _ErrorArguments.message: args[1],
            _ErrorArguments.code: args[2],
        }
        for field, value in fields.items():
            builder.store(value, builder.inttoptr(builder.add(block, word(field.offset)), value.type.as_pointer()))
        create = builder.inttoptr(args[0], ir.FunctionType(word, [word]).as_pointer())
        return builder.call(create, [block])

    return types.int64(types.int64, types.int64, types.int32), build


@intrinsic(prefer_literal=True)
def text(_context: Any, literal: Any) -> Any:
    """Address of a constant C string, or of several one after another."""
    if not isinstance(literal, types.StringLiteral):
        return None
    value = literal.literal_value

    def build(_context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        # Numba's own constants are named by what they hold, which a zero inside would end
        held = cgutils.global_constant(builder, "text", cgutils.make_bytearray(value.encode() + b"\0"))
        return builder.ptrtoint(held, ir.IntType(64))

    return types.int64(literal), build


@intrinsic
def view(_context: Any, address: Any, shape: Any, dtype: Any) -> Any:  # noqa: ARG001
    """The row-major array at that address: ``numba.carray``, which Numba would compile for each rank and dtype."""
    kind = types.Array(dtype.dtype, len(shape), "C")

    def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _row_major(context, builder, kind, args[0], cgutils.unpack_tuple(builder, args[1]))

    return kind(types.int64, shape, dtype), build


@intrinsic(prefer_literal=True)
def array(_context: Any, buffer: Any, dtype: Any, rank: Any) -> Any:  # noqa: ARG001
    """The array that a buffer of that dtype and rank holds."""
    if not isinstance(rank, types.IntegerLiteral):
        return None
    kind, word = types.Array(dtype.dtype, rank.literal_value, "C"), ir.IntType(64)

    def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        def word_at(address: Any, offset: int) -> Any:
            return builder.load(builder.inttoptr(builder.add(address, word(offset)), word.as_pointer()))

        dimensions = word_at(args[0], _DIMENSIONS)
        sizes = [word_at(dimensions, 8 * axis) for axis in range(kind.ndim)]
        return _row_major(context, builder, kind, word_at(args[0], _DATA), sizes)

    return kind(types.int64, dtype, rank), build


def _row_major(context: Any, builder: Any, kind: Any, address: Any, sizes: list[Any]) -> Any:
    """The array of those sizes at an address, as LLVM has it."""
    found = make_array(kind)(context, builder)
    itemsize = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    strides = [itemsize]
    for size in reversed(sizes[1:]):
        strides.insert(0, builder.mul(size, strides[0]))
    data = builder.inttoptr(address, found.data.type)
    populate_array(found, data=data, shape=sizes, strides=strides, itemsize=itemsize, meminfo=None)
    return found._getvalue()


@intrinsic
def copy(_context: Any, source: Any, target: Any, size: Any) -> Any:  # noqa: ARG001
    """So many bytes from one address to another, which do not overlap."""

    def build(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        start, end = (builder.inttoptr(address, ir.IntType(8).as_pointer()) for address in args[:2])
        cgutils.raw_memcpy(builder, end, start, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), build


_EXTENSIONS = _CallFrame.extension_start.offset
_TYPE, _METADATA_AT = _Extension.type.offset, _Extension.metadata.offset
_MAJOR = _Metadata.version.offset + _Version.major.offset
_MINOR = _Metadata.version.offset + _Version.minor.offset
_TRAITS, _STATE_TYPE = _Metadata.traits.offset, _Metadata.state_type.offset
_OPERANDS, _RESULTS = _CallFrame.operands.offset, _CallFrame.results.offset
_SIZE, _BUFFERS = _Buffers.size.offset, _Buffers.buffers.offset
_ATTRIBUTES = _CallFrame.attributes.offset
_ATTRIBUTE_COUNT = _ATTRIBUTES + _Attributes.size.offset
_ATTRIBUTE_TYPES, _ATTRIBUTE_VALUES = _ATTRIBUTES + _Attributes.types.offset, _ATTRIBUTES + _Attributes.values.offset
_ARRAY_DTYPE, _ARRAY_SIZE, _ARRAY_DATA = _Array.dtype.offset, _Array.size.offset, _Array.data.offset
_DTYPE, _DATA, _RANK, _DIMENSIONS = (
    field.offset for field in (_Buffer.dtype, _Buffer.data, _Buffer.rank, _Buffer.dimensions)
)
_API, _CREATE_ERROR = _CallFrame.api.offset, _Api.create_error.offset
_INT64 = DTYPES[np.dtype(np.int64)]


@inner
def asks_for_version(frame):
    """Whether XLA wants to know what the handler was built for, at registration, instead of running it."""
    extension = _load64(frame + _EXTENSIONS)
    return extension != 0 and _load32(extension + _TYPE) == _METADATA


@inner
def tell_version(frame):
    metadata = _load64(_load64(frame + _EXTENSIONS) + _METADATA_AT)
    _store(metadata + _MAJOR, np.int32(VERSION[0]))
    _store(metadata + _MINOR, np.int32(VERSION[1]))
    _store(metadata + _TRAITS, np.int32(0))
    _store(metadata + _STATE_TYPE, np.int64(0))


@inner
def error(frame, message):
    """An XLA error "invalid argument" with the C string at that address."""
    return _create_error(_load64(_load64(frame + _API) + _CREATE_ERROR), message, np.int32(_INVALID_ARGUMENT))


@inner
def operand(frame, i):
    return _load64(_load64(frame + _OPERANDS + _BUFFERS) + 8 * i)


@inner
def result(frame, i):
    return _load64(_load64(frame + _RESULTS + _BUFFERS) + 8 * i)


@inner
def _buffer(frame, i, operands):
    """Operands, of which there are so many, then results."""
    return operand(frame, i) if i < operands else result(frame, i - operands)


@inner
def _is_array(buffer, dtype, rank):
    return _load32(buffer + _DTYPE) == dtype and _load64(buffer + _RANK) == rank


@inner
def _dimension(buffer, axis):
    return _load64(_load64(buffer + _DIMENSIONS) + 8 * axis)


@inner
def begin(operand, result, size):
    """The operand's bytes into the result, but where XLA gave both one place."""
    source, target = _load64(operand + _DATA), _load64(result + _DATA)
    if source != target:
        copy(source, target, size)


@inner
def _has_words(frame):
    """Whether there is one attribute, an array of int64."""
    if _load64(frame + _ATTRIBUTE_COUNT) != 1 or _load32(_load64(frame + _ATTRIBUTE_TYPES)) != _ARRAY:
        return False
    return _load32(_load64(_load64(frame + _ATTRIBUTE_VALUES)) + _ARRAY_DTYPE) == _INT64


@inner
def misfit(frame, facts):
    """Number of the first check, from 1, that the frame does not pass; 0 where it passes all.

    facts: address of bytes: how many operands, how many results; of each of them dtype and rank, and of each of its
    axes the array and the axis of it that is as long.  Checked in that order, the words after the numbers of arrays.
    """
    operands, results = _load8(facts), _load8(facts + 1)
    if _load64(frame + _OPERANDS + _SIZE) != operands or _load64(frame + _RESULTS + _SIZE) != results:
        return 1
    if not _has_words(frame):
        return 2
    number, facts = 2, facts + 2
    for i in range(operands + results):
        buffer, rank = _buffer(frame, i, operands), _load8(facts + 1)
        number += 1
        if not _is_array(buffer, _load8(facts), rank):
            return number
        for axis in range(rank):
            facts += 2
            number += 1
            like = _buffer(frame, _load8(facts), operands)
            if _dimension(buffer, axis) != _dimension(like, _load8(facts + 1)):
                return number
        facts += 2
    return 0


@inner
def sentence(sentences, number):
    """Address of the C string of that number, from 1, among those that stand one after another."""
    for _ in range(number - 1):
        while _load8(sentences) != 0:
            sentences += 1
        sentences += 1
    return sentences


@inner
def words(frame):
    """Address and number of the attribute's int64."""
    array = _load64(_load64(frame + _ATTRIBUTE_VALUES))
    return _load64(array + _ARRAY_DATA), _load64(array + _ARRAY_SIZE)
