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

#define VECTOR NAME(vector)
#define ANYWHERE NAME(anywhere)
#define LANES ((Py_ssize_t) (VECTOR_BYTES / sizeof(REAL)))
#define GROUP ((Py_ssize_t) (GROUP_BYTES / sizeof(REAL)))

/* Where vector j of a panel begins; `last` is where its last one does. */
ALWAYS_INLINE Py_ssize_t NAME(column)(int j, int vectors, Py_ssize_t last) {
    return j + 1 < vectors ? j * LANES : last;
}

/* One tile: rows × vectors of c. An element (i, p) of a is at a[i·row + p·column]; row p of the panel
   begins at panel[p·step], and is contiguous if it was copied. */
ALWAYS_INLINE void NAME(tile)(
    int rows, int vectors, Py_ssize_t k, const REAL *a, Py_ssize_t row, Py_ssize_t column,
    const REAL *panel, Py_ssize_t step, int is_copied, REAL *c, Py_ssize_t ldc, Py_ssize_t last,
    int adds
) {
    VECTOR sums[TILE_ROWS][TILE_VECTORS], b[TILE_VECTORS];
    UNROLLED for (int i = 0; i < rows; i++) {
        UNROLLED for (int j = 0; j < vectors; j++) {
            sums[i][j] = (VECTOR) { 0 };
            __builtin_prefetch(c + i * ldc + j * LANES, 1);
        }
    }
    for (Py_ssize_t p = 0; p < k; p++) {
        UNROLLED for (int j = 0; j < vectors; j++) {
            b[j] = *(const ANYWHERE *) (
                panel + p * step + (is_copied ? j * LANES : NAME(column)(j, vectors, last))
            );
        }
        UNROLLED for (int i = 0; i < rows; i++) {
            const VECTOR element = a[i * row + p * column] - (VECTOR) { 0 };
            UNROLLED for (int j = 0; j < vectors; j++) {
                sums[i][j] = MULTIPLY_ADD(element, b[j], sums[i][j]);
            }
        }
    }
    if (last < 0) {  /* the panel is one vector, of which c has LANES + last columns */
        UNROLLED for (int i = 0; i < rows; i++) {
            REAL sum[LANES];  /* not sums itself: it would have to be in memory always */
            *(ANYWHERE *) sum = sums[i][0];
            for (Py_ssize_t j = 0; j < LANES + last; j++) {
                c[i * ldc + j] = adds ? c[i * ldc + j] + sum[j] : sum[j];
            }
        }
        return;
    }
    UNROLLED for (int i = 0; i < rows; i++) {
        if (adds) {  /* all before any is stored: the last two may overlap */
            UNROLLED for (int j = 0; j < vectors; j++) {
                sums[i][j] += *(const ANYWHERE *) (c + i * ldc + NAME(column)(j, vectors, last));
            }
        }
        UNROLLED for (int j = 0; j < vectors; j++) {
            *(ANYWHERE *) (c + i * ldc + NAME(column)(j, vectors, last)) = sums[i][j];
        }
    }
}

/* All rows of c under one panel. In a packed a, tiles follow each other, element (i, p) of one at
   p·TILE_ROWS + i. */
ALWAYS_INLINE void NAME(tiles)(
    int vectors, Py_ssize_t m, Py_ssize_t k, const REAL *a, Py_ssize_t row, Py_ssize_t column,
    int is_packed, const REAL *panel, Py_ssize_t step, int is_copied, REAL *c, Py_ssize_t ldc,
    Py_ssize_t last, int adds
) {
#define TILE(rows) \
    NAME(tile)(rows, vectors, k, a, row, column, panel, step, is_copied, c, ldc, last, adds)
    const Py_ssize_t tile = is_packed ? TILE_ROWS * k : TILE_ROWS * row;
    for (; m >= TILE_ROWS; m -= TILE_ROWS, a += tile, c += TILE_ROWS * ldc) TILE(TILE_ROWS);
    for (; m >= 4; m -= 4, a += 4 * row, c += 4 * ldc) TILE(4);
    for (; m >= 2; m -= 2, a += 2 * row, c += 2 * ldc) TILE(2);
    for (; m > 0; m--, a += row, c += ldc) TILE(1);
#undef TILE
}

/* The same, compiled for each way in which a and the panel may lie, and each width of a panel. */
static void NAME(under_panel)(
    int vectors, Py_ssize_t m, Py_ssize_t k, const REAL *a, Py_ssize_t row, Py_ssize_t column,
    int is_packed, const REAL *panel, Py_ssize_t step, int is_copied, REAL *c, Py_ssize_t ldc,
    Py_ssize_t last, int adds
) {
#define TILES(width, row, column, is_packed, step, is_copied) \
    NAME(tiles)( \
        width, m, k, a, row, column, is_packed, panel, step, is_copied, c, ldc, last, adds \
    )
#define CASE(width) \
    if (vectors == width) { \
        if (is_packed) TILES(width, 1, TILE_ROWS, 1, width * LANES, 1); \
        else if (column == 1 && is_copied) TILES(width, row, 1, 0, width * LANES, 1); \
        else if (is_copied) TILES(width, 1, column, 0, width * LANES, 1); \
        else if (column == 1) TILES(width, row, 1, 0, step, 0); \
        else TILES(width, 1, column, 0, step, 0); \
    }
    CASE(1)
    CASE(2)
#if TILE_VECTORS > 2
    CASE(3)
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

/* Turn LANES rows of GROUP columns, at distances ld, and write them at distances `width`. Rows are
   loaded group by group to where the group ends up but for its order, which zips make. */
ALWAYS_INLINE void NAME(transpose)(const REAL *from, Py_ssize_t ld, REAL *to, Py_ssize_t width) {
    VECTOR rows[GROUP], zipped[GROUP];
    UNROLLED for (int i = 0; i < GROUP; i++) {
        rows[i] = (VECTOR) load_groups(from + i * ld, GROUP * ld * (Py_ssize_t) sizeof(REAL));
    }
    UNROLLED for (int step = 1; step < GROUP; step *= 2) {
        UNROLLED for (int i = 0; i < GROUP / 2; i++) {
            zipped[2 * i] = ZIP_LOW(rows[i], rows[i + GROUP / 2]);
            zipped[2 * i + 1] = ZIP_HIGH(rows[i], rows[i + GROUP / 2]);
        }
        UNROLLED for (int i = 0; i < GROUP; i++) rows[i] = zipped[i];
    }
    UNROLLED for (int i = 0; i < GROUP; i++) *(VECTOR *) (to + i * width) = rows[i];
}

/* Copy a panel of b: k rows of `vectors` vectors, an element (p, j) of b at b[p·row + j·column]. */
ALWAYS_INLINE void NAME(pack_b)(
    Py_ssize_t k, int vectors, Py_ssize_t last, const REAL *b, Py_ssize_t row, Py_ssize_t column,
    REAL *to
) {
    const Py_ssize_t width = vectors * LANES;
    Py_ssize_t p = 0;
    if (last < 0) {
        for (; p < k; p++) {
            for (Py_ssize_t j = 0; j < LANES; j++) {
                to[p * LANES + j] = j < LANES + last ? b[p * row + j * column] : 0;
            }
        }
    } else if (column == 1) {
        for (; p < k; p++) {
            for (int j = 0; j < vectors; j++) {
                *(VECTOR *) (to + p * width + j * LANES)
                    = *(const ANYWHERE *) (b + p * row + NAME(column)(j, vectors, last));
            }
        }
    } else {
        for (int j = 0; j < vectors; j++) {
            const REAL *from = b + NAME(column)(j, vectors, last) * column;
            for (p = 0; p + GROUP <= k; p += GROUP) {
                NAME(transpose)(from + p, column, to + p * width + j * LANES, width);
            }
            for (; p < k; p++) {
                for (Py_ssize_t q = 0; q < LANES; q++) {
                    to[p * width + j * LANES + q] = from[p + q * column];
                }
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
    return (panel + (NAME(panels)(n) < MIN_PANELS_TO_PACK ? 0 : rows * depth))
        * (Py_ssize_t) sizeof(REAL);
}

/* The product; `scratch` as large as product_scratch says. */
static void NAME(product)(
    int transpose_a, int transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const REAL *a,
    Py_ssize_t lda, const REAL *b, Py_ssize_t ldb, REAL *c, Py_ssize_t ldc, void *scratch
) {
    const Py_ssize_t a_row = transpose_a ? 1 : lda, a_column = transpose_a ? lda : 1;
    const Py_ssize_t b_row = transpose_b ? 1 : ldb, b_column = transpose_b ? ldb : 1;
    const Py_ssize_t all_vectors = (n + LANES - 1) / LANES, panels = NAME(panels)(n);
    const Py_ssize_t depths = (k + MAX_DEPTH - 1) / MAX_DEPTH;
    const int is_copied = m > MAX_ROWS_IN_PLACE || b_column != 1 || n < LANES;
    const int is_packed = panels >= MIN_PANELS_TO_PACK && is_copied && a_column != 1;
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
                    vectors, rows, depth, tiles, a_row, a_column, is_packed,
                    is_copied ? panel : from, b_row, is_copied, c + i * ldc + j, ldc, last, q > 0
                );
            }
        }
    }
}

#undef VECTOR
#undef ANYWHERE
#undef LANES
#undef GROUP
