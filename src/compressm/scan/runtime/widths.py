"""How many float32 numbers the kernels' vectors hold; known to kernels and to their callers."""

LANES = 32
"""Of a vector: two registers of AVX-512, so that two chains of dependent sums run side by side."""

HALF = 16
"""Of a part: as many parts are summed over their lanes at once."""

OCTET = 8
"""Of the shortest vector: a register of AVX, where fewer than 16 numbers are neighbours."""
