"""How many float32 numbers the kernels' vectors hold; known to kernels and to their callers."""

LANES = 32
"""Of a vector: two registers of AVX-512, so that two chains of dependent sums run side by side."""

DOUBLE = 64
"""Of a double vector, where so many neighbours share the numbers that they are multiplied with."""

HALF = 16
"""Of a part: as many parts are summed over their lanes at once."""

OCTET = 8
"""Of the shortest vector: a register of AVX, where fewer than 16 numbers are neighbours."""

AHEAD = 512
"""Numbers by which a loop over memory asks for what it needs next: processors look ahead by themselves, but
only to the end of a page of 4 KB, and several arrays at once leave that behind."""
