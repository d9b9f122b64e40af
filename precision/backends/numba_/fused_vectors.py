"""One tile of a truncated fused dot product as vector code: ``ROWS`` x 32 outputs walk k together.

Each lane is one output.  A block of products runs twice: once for the largest exponent, on int16, then for the terms,
each scaled to a multiple of 2^(E - F), truncated by the conversion to int32, and added:

    E = max(e_a + e_b, e_s, floor)          t = trunc(s_a s_b 2^(e_a + e_b - E + F))          S = sum of t

    narrow   operands are plain float32 values; t = trunc((a b) 2^(F - E)), as neither product nor factor leaves
             float32's normal range
    wide     operands are significands; the factor 2^(e_a + e_b - E + F) is built from int16 exponents, and a term
             40 or more binades below E - F counts as 0
    long     as wide, S kept in int64, for blocks whose terms overflow int32

Float operations here are exact, or have results of which only "below 1" matters, on operands that are zero or
normal: rounding mode, flush-to-zero and denormals-are-zero do not change a bit.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

ROWS = 4  # 8 sums, 8 factors, operands and spare ones fill the 32 vector registers
LANES = 16
VECTORS = 2
COLUMNS = LANES * VECTORS
STEP = 4  # products a pass of the inner loops; blocks are padded to a multiple of it with zeros
ZERO_EXPONENT = -15000  # of a zero term: below all others, and so is a sum of two, still an int16
SETTINGS = 11

_SIGN, _SIGNIFICAND = 0x80000000, 0x7FFFFF
_FAR = 127 - 40  # exponent field of the smallest factor: |s_a s_b| < 4, times 2^-40, truncates to 0

_I16, _I32, _I64, _F32 = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_SHORTS = ir.VectorType(_I16, COLUMNS)
_ALIGN = 2  # bytes, of the arrays: not that of a vector
_WORDS, _LONGS, _FLOATS = (ir.VectorType(kind, LANES) for kind in (_I32, _I64, _F32))


def _constant(kind, value):
    """The same integer in every lane."""
    modulus = 1 << kind.element.width
    return ir.Constant(kind, [value % modulus] * kind.count)


class _Lanes:
    """Vector operations that LLVM names at length."""

    def __init__(self, builder) -> None:
        self.builder = builder

    def splat(self, scalar, kind):
        lane = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count)
        return self.builder.shuffle_vector(lane, ir.Constant(kind, ir.Undefined), zeros)

    def call(self, name, *operands):
        module, kind = self.builder.module, operands[0].type
        full = f"llvm.{name}.v{kind.count}i{kind.element.width}"
        function = module.globals.get(full) or ir.Function(
            module, ir.FunctionType(kind, [x.type for x in operands]), full
        )
        return self.builder.call(function, operands)

    def maximum(self, x, y):
        return self.call("smax", x, y)

    def leading_zeros(self, x):
        return self.call("ctlz", x, ir.Constant(ir.IntType(1), 0))

    def select_word(self, condition, x, otherwise=0):
        """x where the condition holds."""
        return self.builder.select(condition, x, _constant(x.type, otherwise))

    def part(self, shorts, half):
        lanes = ir.Constant(ir.VectorType(_I32, LANES), [LANES * half + i for i in range(LANES)])
        return self.builder.shuffle_vector(shorts, ir.Constant(_SHORTS, ir.Undefined), lanes)

    def join(self, low, high):
        lanes = ir.Constant(ir.VectorType(_I32, COLUMNS), list(range(COLUMNS)))
        return self.builder.shuffle_vector(low, high, lanes)

    def is_zero(self, x):
        return self.builder.icmp_signed("==", x, _constant(x.type, 0))

    def slots(self, count, kind):
        return [cgutils.alloca_once(self.builder, kind) for _ in range(count)]


class _Tile:
    """Code of a tile; ``operands``: pointers; ``settings``: the scalars of ``settings_of``, in its order."""

    def __init__(self, builder, operands, settings, wide, long) -> None:
        self.builder, self.lanes, self.wide, self.long = builder, _Lanes(builder), wide, long
        self.a, self.a_exponents, self.b, self.b_exponents, self.sums, self.bad = operands
        self.blocks, self.length, self.group = settings[:3]
        bits, lowest, self.precision, nearest, least, *fields = (
            self.lanes.splat(builder.trunc(x, _I32), _WORDS) for x in settings[3:]
        )
        self.bits, self.lowest, self.nearest, self.least = bits, lowest, nearest, least
        self.grid, self.first_field, self.span = fields
        self.s = self.lanes.slots(ROWS * VECTORS, _FLOATS)
        self.wrong = self.lanes.slots(ROWS * VECTORS, _WORDS)
        self.terms = self.lanes.slots(ROWS * VECTORS, _WORDS)
        self.totals = self.lanes.slots(ROWS * VECTORS, _LONGS) if long else []
        self.largest = self.lanes.slots(ROWS, _SHORTS)

    def build(self) -> None:
        builder = self.builder
        for i in range(ROWS * VECTORS):
            s = self._load(self.sums, ir.Constant(_I64, i), _FLOATS)
            word = builder.bitcast(s, _WORDS)
            builder.store(s, self.s[i])
            builder.store(self._outside(self._field(word), self._magnitude(word)), self.wrong[i])
        with cgutils.for_range(builder, self.blocks) as block:
            self._block(builder.mul(block.index, self.length))
        for i in range(ROWS * VECTORS):
            self._store(builder.load(self.s[i]), self.sums, i, _FLOATS)
            self._store(builder.load(self.wrong[i]), self.bad, i, _WORDS)

    # Memory

    def _load(self, pointer, index, kind):
        at = self.builder.gep(self.builder.bitcast(pointer, kind.as_pointer()), [index])
        return self.builder.load(at, align=_ALIGN)

    def _store(self, value, pointer, index, kind) -> None:
        at = self.builder.gep(self.builder.bitcast(pointer, kind.as_pointer()), [ir.Constant(_I64, index)])
        self.builder.store(value, at, align=_ALIGN)

    def _each_product(self, start, stop, body) -> None:
        """body(k) for k in order, ``STEP`` a pass."""
        with cgutils.for_range_slice(self.builder, start, stop, ir.Constant(_I64, STEP), _I64) as (k, _):
            for i in range(STEP):
                body(self.builder.add(k, ir.Constant(_I64, i)))

    def _row_value(self, pointer, k, row, kind):
        at = self.builder.add(self.builder.mul(k, ir.Constant(_I64, ROWS)), ir.Constant(_I64, row))
        return self._load(pointer, at, kind)

    def _pair_exponents(self, k, b_exponents, row):
        """e_a + e_b of a row's 32 lanes; e_a is stored twice in a word, so that one load fills a register."""
        word = self._row_value(self.a_exponents, k, row, _I32)
        pairs = ir.VectorType(_I32, COLUMNS // 2)
        return self.builder.add(self.builder.bitcast(self.lanes.splat(word, pairs), _SHORTS), b_exponents)

    # A block

    def _block(self, start) -> None:
        stop = self.builder.add(start, self.length)
        self._largest_exponents(start, stop)
        exponents = [self._common_exponent(i) for i in range(ROWS * VECTORS)]
        factors = self._factors(exponents)
        if self.long:
            self._long_sums(start, stop, factors)
        else:
            self._sums(start, stop, factors)
        for i, exponent in enumerate(exponents):
            self._finish(i, exponent)

    def _largest_exponents(self, start, stop) -> None:
        builder = self.builder
        for slot in self.largest:
            builder.store(_constant(_SHORTS, -32768), slot)

        def body(k) -> None:
            b_exponents = self._load(self.b_exponents, k, _SHORTS)
            for row, slot in enumerate(self.largest):
                e = self._pair_exponents(k, b_exponents, row)
                builder.store(self.lanes.maximum(builder.load(slot), e), slot)

        self._each_product(start, stop, body)

    def _common_exponent(self, i):
        """E: of the products, of s, and not below the floor."""
        builder, lanes = self.builder, self.lanes
        word = builder.bitcast(builder.load(self.s[i]), _WORDS)
        e = builder.sub(self._field(word), _constant(_WORDS, 127))
        e = lanes.maximum(e, self.least)
        e = builder.select(lanes.is_zero(self._magnitude(word)), _constant(_WORDS, ZERO_EXPONENT), e)
        products = lanes.part(builder.load(self.largest[i // VECTORS]), i % VECTORS)
        return lanes.maximum(lanes.maximum(e, self.lowest), builder.sext(products, _WORDS))

    def _factors(self, exponents):
        """narrow: 2^(F - E) as floats, one a vector; wide: exponent fields of 2^(F - E), int16, one a row."""
        builder = self.builder
        top = builder.add(self.bits, _constant(_WORDS, 127))
        fields = [builder.sub(top, e) for e in exponents]
        if not self.wide:
            return [builder.bitcast(builder.shl(field, _constant(_WORDS, 23)), _FLOATS) for field in fields]
        shorts = [builder.trunc(field, ir.VectorType(_I16, LANES)) for field in fields]
        return [self.lanes.join(shorts[VECTORS * r], shorts[VECTORS * r + 1]) for r in range(ROWS)]

    def _sums(self, start, stop, factors) -> None:
        builder = self.builder
        for slot in self.terms:
            builder.store(_constant(_WORDS, 0), slot)

        def body(k) -> None:
            first = builder.mul(k, ir.Constant(_I64, VECTORS))
            b = [self._load(self.b, builder.add(first, ir.Constant(_I64, v)), _FLOATS) for v in range(VECTORS)]
            b_exponents = self._load(self.b_exponents, k, _SHORTS) if self.wide else None
            for row in range(ROWS):
                a = self.lanes.splat(self._row_value(self.a, k, row, _F32), _FLOATS)
                scales = self._row_factors(k, b_exponents, row, factors)
                for v in range(VECTORS):
                    slot = self.terms[VECTORS * row + v]
                    scaled = builder.fmul(builder.fmul(a, b[v]), scales[v])
                    builder.store(builder.add(builder.load(slot), builder.fptosi(scaled, _WORDS)), slot)

        self._each_product(start, stop, body)

    def _row_factors(self, k, b_exponents, row, factors):
        if not self.wide:
            return factors[VECTORS * row : VECTORS * (row + 1)]
        builder = self.builder
        field = builder.add(self._pair_exponents(k, b_exponents, row), factors[row])
        field = self.lanes.maximum(field, _constant(_SHORTS, _FAR))
        words = [builder.zext(self.lanes.part(field, v), _WORDS) for v in range(VECTORS)]
        return [builder.bitcast(builder.shl(word, _constant(_WORDS, 23)), _FLOATS) for word in words]

    def _long_sums(self, start, stop, factors) -> None:
        """Groups of products that fit in int32, added in int64."""
        builder = self.builder
        for slot in self.totals:
            builder.store(_constant(_LONGS, 0), slot)
        with cgutils.for_range_slice(builder, start, stop, self.group, _I64) as (first, _):
            end = builder.add(first, self.group)
            self._sums(first, builder.select(builder.icmp_signed("<", end, stop), end, stop), factors)
            for terms, total in zip(self.terms, self.totals, strict=True):
                wider = builder.sext(builder.load(terms), _LONGS)
                builder.store(builder.add(builder.load(total), wider), total)

    # The sum, back to its format

    def _finish(self, i, exponent) -> None:
        """s = round(S 2^(E - F)), and whether it left the range in which that holds."""
        builder, lanes = self.builder, self.lanes
        q = builder.sub(exponent, self.bits)
        start = self._start_term(i, q)
        if self.long:
            u, negative, q = self._long_magnitude(builder.load(self.totals[i]), start, q)
        else:
            u, negative = self._magnitude_of_sum(builder.load(self.terms[i]), start)
        u, wrong = self._rounded(u, q)
        # S: 0 s eeeeeeee mmm: the exponent of the float that holds the integer u, moved by q
        word = builder.bitcast(builder.uitofp(u, _FLOATS), _WORDS)
        field = builder.add(builder.lshr(word, _constant(_WORDS, 23)), q)
        wrong = builder.or_(wrong, self._outside(field, u))
        word = builder.add(word, builder.shl(q, _constant(_WORDS, 23)))
        word = builder.or_(word, builder.and_(negative, _constant(_WORDS, _SIGN)))
        word = builder.select(lanes.is_zero(u), _constant(_WORDS, 0), word)  # +0, of negative sums too
        builder.store(builder.bitcast(word, _FLOATS), self.s[i])
        builder.store(builder.or_(builder.load(self.wrong[i]), wrong), self.wrong[i])

    def _start_term(self, i, q):
        """trunc(s 2^-q): s with its exponent field moved."""
        builder, lanes = self.builder, self.lanes
        word = builder.bitcast(builder.load(self.s[i]), _WORDS)
        field = lanes.maximum(builder.sub(self._field(word), q), _constant(_WORDS, _FAR))
        moved = builder.or_(
            builder.and_(word, _constant(_WORDS, _SIGN | _SIGNIFICAND)), builder.shl(field, _constant(_WORDS, 23))
        )
        term = builder.fptosi(builder.bitcast(moved, _FLOATS), _WORDS)
        return builder.select(lanes.is_zero(self._magnitude(word)), _constant(_WORDS, 0), term)

    def _magnitude_of_sum(self, terms, start):
        """|terms + start| as uint32, and all ones where the sum is negative.

        Each fits in int32 and their sum in 32 bits and a sign: where int32 wraps, the sign bit is the wrong one.
        """
        builder = self.builder
        total = builder.add(terms, start)
        wrapped = builder.and_(builder.xor(terms, total), builder.xor(start, total))
        negative = builder.ashr(builder.xor(total, wrapped), _constant(_WORDS, 31))
        return builder.sub(builder.xor(total, negative), negative), negative

    def _long_magnitude(self, total, start, q):
        """The leading 32 bits of |total + start|, a bit lost below them kept in the last, and q moved alike."""
        builder, lanes = self.builder, self.lanes
        total = builder.add(total, builder.sext(start, _LONGS))
        negative = builder.ashr(total, _constant(_LONGS, 63))
        u = builder.sub(builder.xor(total, negative), negative)
        count = lanes.maximum(builder.sub(_constant(_LONGS, 32), lanes.leading_zeros(u)), _constant(_LONGS, 0))
        kept = builder.lshr(u, count)
        lost = builder.icmp_signed("!=", builder.shl(kept, count), u)
        word = builder.or_(builder.trunc(kept, _WORDS), builder.zext(lost, _WORDS))
        return word, builder.trunc(negative, _WORDS), builder.add(q, builder.trunc(count, _WORDS))

    def _rounded(self, u, q):
        """u to the sum's precision, not below its smallest quantum; and where more than 31 bits would go."""
        builder, lanes = self.builder, self.lanes
        one = _constant(_WORDS, 1)
        length = builder.sub(_constant(_WORDS, 32), lanes.leading_zeros(u))
        count = lanes.maximum(builder.sub(length, self.precision), builder.sub(self.grid, q))
        count = lanes.maximum(count, _constant(_WORDS, 0))
        far = builder.and_(
            builder.icmp_signed(">", count, _constant(_WORDS, 31)), builder.icmp_signed("!=", u, _constant(_WORDS, 0))
        )
        count = builder.and_(count, _constant(_WORDS, 31))
        # u: kkkkkkkk kdddd, d dropped: mask 0000 1111; to nearest adds 0111, and 1 more where the last k is 1
        mask = builder.sub(builder.shl(one, count), one)
        odd = builder.and_(builder.and_(builder.lshr(u, count), mask), one)
        add = builder.and_(builder.add(builder.lshr(mask, one), odd), self.nearest)
        return builder.and_(builder.add(u, add), builder.not_(mask)), builder.sext(far, _WORDS)

    def _field(self, word):
        shifted = self.builder.lshr(word, _constant(_WORDS, 23))
        return self.builder.and_(shifted, _constant(_WORDS, 255))

    def _magnitude(self, word):
        return self.builder.and_(word, _constant(_WORDS, _SIGN - 1))

    def _outside(self, field, magnitude):
        """All ones where the value is not zero and its exponent field is not one of the sum's."""
        builder = self.builder
        beyond = builder.icmp_unsigned(">", builder.sub(field, self.first_field), self.span)
        there = builder.icmp_signed("!=", magnitude, _constant(_WORDS, 0))
        return builder.sext(builder.and_(beyond, there), _WORDS)


def _make_tile(wide, long):
    @intrinsic
    def tile(_context, a, a_exponents, b, b_exponents, sums, bad, settings):
        """sums (ROWS, 32) float32 through all blocks; ``bad`` (ROWS, 32) int32: not 0 where a sum does not hold."""
        operands = (a, a_exponents, b, b_exponents, sums, bad)

        def build(context, builder, signature, args):
            builder.function.attributes.add("noinline")  # one copy, however many callers
            arrays = [
                context.make_array(kind)(context, builder, value)
                for kind, value in zip(signature.args, args, strict=True)
            ]
            words = [builder.load(builder.gep(arrays[-1].data, [ir.Constant(_I64, i)])) for i in range(SETTINGS)]
            _Tile(builder, [x.data for x in arrays[:-1]], words, wide, long).build()
            return context.get_dummy_value()

        return types.void(*operands, settings), build

    return tile


narrow_tile = _make_tile(wide=False, long=False)
wide_tile = _make_tile(wide=True, long=False)
long_tile = _make_tile(wide=True, long=True)
