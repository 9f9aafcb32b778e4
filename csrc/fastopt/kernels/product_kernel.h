/* c := op(a)·op(b) for row-major matrices of one dtype, REAL: op(a) m × k, op(b) k × n, c m × n; op
   transposes where its flag is set; ld* are the lengths of stored rows. Included by products.h, which
   defines REAL, NAME and some operations, once for each dtype. Threads and shapes of nets do not belong
   here.

   As Goto and van de Geijn (2008) cut it: a panel of b, some vectors wide and at most MAX_DEPTH deep,
   is copied to where it lies contiguous; a tile of c, TILE_ROWS rows of it by the panel's width,
   is summed up in registers, element by element of a, each multiplied with a row of the panel. a is
   read where it lies, or, where its columns do so and many panels want them, from a copy in the order
   of the tiles. b is read where it lies, too, where its rows do so and few tiles want them.

   Every element of c is the sum over k in order, a fused multiply-add each, begun anew every
   MAX_DEPTH or fewer elements; so the bits depend neither on where in c it stands, nor on how c is
   cut into calls, nor on the instruction set.

   The last vector of a panel ends where the row ends, and may overlap the one before it, which is in
   the same panel (the last panel has two vectors at least if c has): both then compute the same. Only
   a c that is narrower than one vector is padded. */

typedef REAL NAME(vector) __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef REAL NAME(anywhere)
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef REAL NAME(pair) __attribute__((vector_size(2 * GROUP_BYTES), may_alias));
typedef REAL NAME(half) __attribute__((vector_size(VECTOR_BYTES / 2), may_alias));
typedef REAL NAME(half_anywhere)
    __attribute__((vector_size(VECTOR_BYTES / 2), aligned(sizeof(REAL)), may_alias));

#define VECTOR NAME(vector)
#define ANYWHERE NAME(anywhere)
#define PAIR NAME(pair)
#define HALF NAME(half)
#define HALF_ANYWHERE NAME(half_anywhere)
#define LANES ((Py_ssize_t) (VECTOR_BYTES / sizeof(REAL)))
#define GROUP ((Py_ssize_t) (GROUP_BYTES / sizeof(REAL)))

/* Where vector j of a panel begins; `last` is where its last one does. */
ALWAYS_INLINE Py_ssize_t NAME(column)(int j, int vectors, Py_ssize_t last) {
    return j + 1 < vectors ? j * LANES : last;
}

/* One tile: rows × vectors of c. An element (i, p) of a is at a[i·row + p·column]; row p of the panel
   begins at panel[p·step], and its last vector `from` further on. Of the last vector only the upper
   half is computed if it is `halved`. */
ALWAYS_INLINE void NAME(tile)(
    int rows, int vectors, int halved, Py_ssize_t k, const REAL *a, Py_ssize_t row,
    Py_ssize_t column, const REAL *panel, Py_ssize_t step, Py_ssize_t from, REAL *c, Py_ssize_t ldc,
    Py_ssize_t last, int adds
) {
    const int whole = vectors - halved;
    VECTOR sums[TILE_ROWS][TILE_VECTORS], b[TILE_VECTORS];
    HALF half_sums[TILE_ROWS], half_b;
    UNROLLED for (int i = 0; i < rows; i++) {
        UNROLLED for (int j = 0; j < whole; j++) sums[i][j] = (VECTOR) { 0 };
        half_sums[i] = (HALF) { 0 };
        UNROLLED for (int j = 0; j < vectors; j++) __builtin_prefetch(c + i * ldc + j * LANES, 1);
    }
    for (Py_ssize_t p = 0; p < k; p++, panel += step, a += column) {
        UNROLLED for (int j = 0; j < whole; j++) {
            b[j] = *(const ANYWHERE *) (panel + NAME(column)(j, vectors, from));
        }
        if (halved) half_b = *(const HALF_ANYWHERE *) (panel + from + LANES / 2);
        UNROLLED for (int i = 0; i < rows; i++) {
            const VECTOR element = a[i * row] - (VECTOR) { 0 };
            UNROLLED for (int j = 0; j < whole; j++) {
                sums[i][j] = MULTIPLY_ADD(element, b[j], sums[i][j]);
            }
            if (halved) {
                half_sums[i] = HALF_MULTIPLY_ADD(LOWER_HALF(element), half_b, half_sums[i]);
            }
        }
    }
    UNROLLED for (int i = 0; i < rows; i++, c += ldc) {
        if (adds) {  /* all before any is stored: the last two may overlap */
            UNROLLED for (int j = 0; j < whole; j++) {
                sums[i][j] += *(const ANYWHERE *) (c + NAME(column)(j, vectors, last));
            }
            if (halved) half_sums[i] += *(const HALF_ANYWHERE *) (c + last + LANES / 2);
        }
        UNROLLED for (int j = 0; j < whole; j++) {
            *(ANYWHERE *) (c + NAME(column)(j, vectors, last)) = sums[i][j];
        }
        if (halved) *(HALF_ANYWHERE *) (c + last + LANES / 2) = half_sums[i];
    }
}

/* All rows of c under one panel. In a packed a, tiles follow each other, element (i, p) of one at
   p·TILE_ROWS + i. */
ALWAYS_INLINE void NAME(tiles)(
    int vectors, int halved, Py_ssize_t m, Py_ssize_t k, const REAL *a, Py_ssize_t row, Py_ssize_t column,
    Py_ssize_t next, const REAL *panel, Py_ssize_t step, Py_ssize_t from, REAL *c, Py_ssize_t ldc,
    Py_ssize_t last, int adds
) {
#define TILE(rows) \
    NAME(tile)(rows, vectors, halved, k, a, row, column, panel, step, from, c, ldc, last, adds)
    for (; m >= TILE_ROWS; m -= TILE_ROWS, a += next, c += TILE_ROWS * ldc) TILE(TILE_ROWS);
    for (; m >= 4; m -= 4, a += 4 * row, c += 4 * ldc) TILE(4);
    for (; m >= 2; m -= 2, a += 2 * row, c += 2 * ldc) TILE(2);
    for (; m > 0; m--, a += row, c += ldc) TILE(1);
#undef TILE
}

/* The same, compiled for both ways in which a may lie, and each width of a panel. */
static void NAME(under_panel)(
    int vectors, Py_ssize_t m, Py_ssize_t k, const REAL *a, Py_ssize_t row, Py_ssize_t column,
    Py_ssize_t next, const REAL *panel, Py_ssize_t step, Py_ssize_t from, REAL *c, Py_ssize_t ldc,
    Py_ssize_t last, int adds
) {
    const int halved = vectors > 1 && (vectors - 1) * LANES - last >= LANES / 2;
#define TILES(width, halved, row, column) \
    NAME(tiles)(width, halved, m, k, a, row, column, next, panel, step, from, c, ldc, last, adds)
#define CASE(width, is_halved) \
    if (vectors == width && halved == is_halved) { \
        if (column == 1) TILES(width, is_halved, row, 1); \
        else TILES(width, is_halved, 1, column); \
    }
    CASE(1, 0)
    CASE(2, 0)
    CASE(2, 1)
#if TILE_VECTORS > 2
    CASE(3, 0)
    CASE(3, 1)
#endif
#undef CASE
#undef TILES
}

/* Copy rows of a in the order of the tiles. */
static void NAME(pack_a)(
    Py_ssize_t m, Py_ssize_t k, const REAL *a, Py_ssize_t row, Py_ssize_t column, REAL *to
) {
    Py_ssize_t i, p, q;
    for (i = 0; i + TILE_ROWS <= m; i += TILE_ROWS, a += TILE_ROWS * row) {
        if (row == 1) {
            for (p = 0; p < k; p++, to += TILE_ROWS) {
                memcpy(to, a + p * column, TILE_ROWS * sizeof(REAL));
            }
        } else {
            for (p = 0; p < k; p++, to += TILE_ROWS) {
                UNROLLED for (q = 0; q < TILE_ROWS; q++) to[q] = a[q * row + p * column];
            }
        }
    }
    for (p = 0; p < k; p++, to += TILE_ROWS) {
        for (q = 0; q < m - i; q++) to[q] = a[q * row + p * column];
    }
}

/* Turn 2·GROUP rows of GROUP columns, at distances ld, and write them at distances `width`. They are
   loaded by groups, two to a vector, which zips put in order. Wider vectors take longer to fill. */
ALWAYS_INLINE void NAME(transpose)(const REAL *from, Py_ssize_t ld, REAL *to, Py_ssize_t width) {
    PAIR rows[GROUP], zipped[GROUP];
    UNROLLED for (int i = 0; i < GROUP; i++) {
        rows[i] = (PAIR) load_groups(from + i * ld, from + (i + GROUP) * ld);
    }
    UNROLLED for (int step = 1; step < GROUP; step *= 2) {
        UNROLLED for (int i = 0; i < GROUP / 2; i++) {
            zipped[2 * i] = ZIP_LOW(rows[i], rows[i + GROUP / 2]);
            zipped[2 * i + 1] = ZIP_HIGH(rows[i], rows[i + GROUP / 2]);
        }
        UNROLLED for (int i = 0; i < GROUP; i++) rows[i] = zipped[i];
    }
    UNROLLED for (int i = 0; i < GROUP; i++) *(PAIR *) (to + i * width) = rows[i];
}

/* Copy a panel of b: k rows of `vectors` vectors, an element (p, j) of b at b[p·row + j·column]. */
static __attribute__((noinline)) void NAME(pack_b)(
    Py_ssize_t k, int vectors, Py_ssize_t last, const REAL *b, Py_ssize_t row, Py_ssize_t column,
    REAL *to
) {
    const Py_ssize_t width = vectors * LANES;
    Py_ssize_t p = 0;
    if (last < 0) {
        for (; p < k; p++, to += LANES) {
            *(VECTOR *) to = (VECTOR) { 0 };
            for (Py_ssize_t j = 0; j < LANES + last; j++) to[j] = b[p * row + j * column];
        }
    } else if (column == 1) {
        for (; p < k; p++) {
            for (int j = 0; j < vectors; j++) {
                *(VECTOR *) (to + p * width + j * LANES)
                    = *(const ANYWHERE *) (b + p * row + NAME(column)(j, vectors, last));
            }
        }
    } else {
        for (Py_ssize_t j = 0; j < width; j += 2 * GROUP, to += 2 * GROUP) {
            const REAL *from = b + (j < width - LANES ? j : j - width + LANES + last) * column;
            for (p = 0; p + GROUP <= k; p += GROUP) {
                NAME(transpose)(from + p, column, to + p * width, width);
            }
            for (; p < k; p++) {
                for (Py_ssize_t q = 0; q < 2 * GROUP; q++) to[p * width + q] = from[p + q * column];
            }
        }
    }
}

/* Write a c that lies turned, n rows for its columns at distances ld, where it belongs. */
static __attribute__((noinline)) void NAME(turn)(
    Py_ssize_t n, const REAL *turned, Py_ssize_t ld, Py_ssize_t width, REAL *c, Py_ssize_t ldc
) {
    VECTOR block[LANES];
    for (Py_ssize_t i = 0; i < width; i += LANES) {
        const REAL *row = (const REAL *) block;
        for (Py_ssize_t q = 0; q < LANES; q += GROUP) {
            for (Py_ssize_t j = 0; j < n; j += 2 * GROUP) {
                NAME(transpose)(turned + j * ld + i + q, ld, (REAL *) (block + q) + j, LANES);
            }
        }
        for (Py_ssize_t q = 0; q < LANES && i + q < width; q++, row += LANES, c += ldc) {
            if (n >= LANES / 2) {
                *(HALF_ANYWHERE *) c = *(const HALF_ANYWHERE *) row;
                *(HALF_ANYWHERE *) (c + n - LANES / 2)
                    = *(const HALF_ANYWHERE *) (row + n - LANES / 2);
            } else {
                for (Py_ssize_t j = 0; j < n; j++) c[j] = row[j];
            }
        }
    }
}

ALWAYS_INLINE Py_ssize_t NAME(panels)(Py_ssize_t n) {
    const Py_ssize_t vectors = (n + LANES - 1) / LANES;
    return (vectors + TILE_VECTORS - 1) / TILE_VECTORS;
}

/* Bytes of scratch memory, aligned to VECTOR_BYTES, that a product takes. */
static Py_ssize_t NAME(product_scratch)(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k) {
    const Py_ssize_t depth = k < MAX_DEPTH ? k : MAX_DEPTH;
    const Py_ssize_t rows = (m < MAX_PACKED_ROWS ? m : MAX_PACKED_ROWS) + TILE_ROWS;
    const Py_ssize_t panel = depth * TILE_VECTORS * LANES;
    return (panel + (NAME(panels)(n) < MIN_PANELS_TO_PACK ? 0 : rows * depth)
        + (n < LANES ? TILE_VECTORS * LANES * LANES : 0)) * (Py_ssize_t) sizeof(REAL);
}

/* A product narrower than a vector */
static void NAME(narrow_product)(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const REAL *a, Py_ssize_t a_row, Py_ssize_t a_column,
    const REAL *b, Py_ssize_t b_row, Py_ssize_t b_column, REAL *c, Py_ssize_t ldc, void *scratch
) {
    const Py_ssize_t all_vectors = (m + LANES - 1) / LANES, panels = NAME(panels)(m);
    const Py_ssize_t depths = (k + MAX_DEPTH - 1) / MAX_DEPTH;
    REAL *turned = scratch, *panel = turned + LANES * TILE_VECTORS * LANES;
    for (Py_ssize_t r = 0; r < panels; r++) {
        const Py_ssize_t begin = all_vectors * r / panels, i = begin * LANES;
        const int vectors = (int) (all_vectors * (r + 1) / panels - begin);
        const Py_ssize_t width = m - i < vectors * LANES ? m - i : vectors * LANES;
        const Py_ssize_t last = width - LANES;
        for (Py_ssize_t q = 0; q < depths; q++) {
            const Py_ssize_t p = k * q / depths, depth = k * (q + 1) / depths - p;
            const int is_copied = a_row != 1 || m < LANES;
            const REAL *from = a + i * a_row + p * a_column;
            if (is_copied) NAME(pack_b)(depth, vectors, last, from, a_column, a_row, panel);
            NAME(under_panel)(
                vectors, n, depth, b + p * b_row, b_column, b_row, TILE_ROWS * b_column,
                is_copied ? panel : from, is_copied ? vectors * LANES : a_column,
                is_copied ? (vectors - 1) * LANES : last, turned, vectors * LANES,
                last < 0 ? 0 : last, q > 0
            );
        }
        NAME(turn)(n, turned, vectors * LANES, width, c + i * ldc, ldc);
    }
}

/* The product; `scratch` as large as product_scratch says. */
static void NAME(product)(
    int transpose_a, int transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const REAL *a,
    Py_ssize_t lda, const REAL *b, Py_ssize_t ldb, REAL *c, Py_ssize_t ldc, void *scratch
) {
    const Py_ssize_t a_row = transpose_a ? 1 : lda, a_column = transpose_a ? lda : 1;
    const Py_ssize_t b_row = transpose_b ? 1 : ldb, b_column = transpose_b ? ldb : 1;
    if (n < LANES) {
        NAME(narrow_product)(m, n, k, a, a_row, a_column, b, b_row, b_column, c, ldc, scratch);
        return;
    }
    const Py_ssize_t all_vectors = (n + LANES - 1) / LANES, panels = NAME(panels)(n);
    const Py_ssize_t depths = (k + MAX_DEPTH - 1) / MAX_DEPTH;
    const int is_copied = (m > MAX_ROWS_IN_PLACE && ldb * (Py_ssize_t) sizeof(REAL) > MAX_ROW_BYTES_IN_PLACE) || b_column != 1;
    const int is_packed = panels >= MIN_PANELS_TO_PACK && a_column != 1;
    REAL *panel = scratch, *packed = panel + (k < MAX_DEPTH ? k : MAX_DEPTH) * TILE_VECTORS * LANES;
    Py_ssize_t rows;
    for (Py_ssize_t q = 0; q < depths; q++) {
        const Py_ssize_t p = k * q / depths, depth = k * (q + 1) / depths - p;
        for (Py_ssize_t i = 0; i < m; i += rows) {
            rows = is_packed && m - i > MAX_PACKED_ROWS ? MAX_PACKED_ROWS : m - i;
            const REAL *tiles = a + i * a_row + p * a_column;
            if (is_packed) {
                NAME(pack_a)(rows, depth, tiles, a_row, a_column, packed);
                tiles = packed;
            }
            for (Py_ssize_t r = 0; r < panels; r++) {
                const Py_ssize_t begin = all_vectors * r / panels, j = begin * LANES;
                const int vectors = (int) (all_vectors * (r + 1) / panels - begin);
                const Py_ssize_t width = n - j < vectors * LANES ? n - j : vectors * LANES;
                const Py_ssize_t last = width - LANES;
                const REAL *from = b + p * b_row + j * b_column;
                if (is_copied) NAME(pack_b)(depth, vectors, last, from, b_row, b_column, panel);
                NAME(under_panel)(
                    vectors, rows, depth, tiles, is_packed ? 1 : a_row, is_packed ? TILE_ROWS : a_column,
                    TILE_ROWS * (is_packed ? depth : a_row),
                    is_copied ? panel : from, is_copied ? vectors * LANES : b_row,
                    is_copied ? (vectors - 1) * LANES : last, c + i * ldc + j, ldc, last, q > 0
                );
            }
        }
    }
}

#undef VECTOR
#undef ANYWHERE
#undef PAIR
#undef HALF
#undef HALF_ANYWHERE
#undef LANES
#undef GROUP
