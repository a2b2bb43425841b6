"""Sort AArch64 instruction words into classes.

The tables are those of the Arm Architecture Reference Manual for A-profile (DDI 0487), chapter
"A64 Instruction Set Encoding": the main groups by bits 28:25, then FMLA and FMLS of the groups
"Advanced SIMD three same", "three same (FP16)" and "vector x indexed element".
"""

VECTOR_FMLA = "vector_fmla"
OTHER_SIMD = "other_simd"
LOADS_STORES = "loads_stores"
BRANCHES = "branches"
INTEGER = "integer"
CLASSES = (VECTOR_FMLA, OTHER_SIMD, LOADS_STORES, BRANCHES, INTEGER)

# (mask, value) over a word; the bit that tells FMLS from FMLA is in none of the masks.
_FMLA = (
    (0xBF20FC00, 0x0E20CC00),  # three same, single and double precision
    (0xBF60FC00, 0x0E400C00),  # three same, half precision
    (0xBF80B400, 0x0F801000),  # by element, single and double precision
    (0xBFC0B400, 0x0F001000),  # by element, half precision
)
_BY_GROUP = {
    0b0101: INTEGER,  # data processing, register
    0b1101: INTEGER,
    0b1000: INTEGER,  # data processing, immediate
    0b1001: INTEGER,
    0b1010: BRANCHES,  # branches, exceptions, system instructions
    0b1011: BRANCHES,
    0b0111: OTHER_SIMD,  # scalar floating point and Advanced SIMD
    0b1111: OTHER_SIMD,
    0b0010: OTHER_SIMD,  # SVE
    0b0100: LOADS_STORES,
    0b0110: LOADS_STORES,
    0b1100: LOADS_STORES,
    0b1110: LOADS_STORES,
}


def classify(word: int) -> str:
    """Return the class of an instruction, one of CLASSES.

    Scalar multiply-adds are `other_simd`. What is unallocated counts as `integer`: it does not
    occur in a program that runs.
    """
    if any(word & mask == value for mask, value in _FMLA):
        return VECTOR_FMLA
    return _BY_GROUP.get(word >> 25 & 0b1111, INTEGER)
