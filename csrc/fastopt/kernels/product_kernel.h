/* c := op(a)·op(b) for row-major matrices of one dtype, REAL: op(a) m × k, op(b) k × n, c m × n; op
   transposes where its flag is set; ld* are the lengths of stored rows. Included by products.h,
   which defines REAL, NAME and some operations, once for each dtype. Threads and shapes of nets do
   not belong here.

   As Goto and van de Geijn (2008) cut it: a panel of b, some vectors wide and at most MAX_DEPTH
   deep, is kept near; a tile of c, TILE_ROWS rows of it by the panel's width, is summed up in
   registers, element by element of a, each multiplied with a row of the panel. Panels are copied to
   where they lie contiguous, and tiles of a to where they follow each other, if that pays; else
   both are read where they lie.

   Every element of c is the sum over k in order, a fused multiply-add each, begun anew every
   MAX_DEPTH or fewer elements; so the bits depend neither on where in c it stands, nor on how c is
   cut into calls, nor on the instruction set.

   The last vector of a panel ends where the row ends, and may overlap the one before it, which is
   in the same panel (the last panel has two vectors at least if c has): both then compute the same.
   Of one that overlaps by half or more, the upper half is enough, which is half the work where wide
   vectors are computed in two halves. A c that is narrower than a vector is computed turned, its
   rows in the lanes, and turned back. */

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

/* One tile: rows × vectors of c. An element (i, p) of a is at a[i·row + p·column]; row p of the
   panel begins at panel[p·step], and its last vector `from` further on. Of the last vector only the
   upper half is computed if it is `halved`. The panel is copied on the way if the tile `copies`. */
ALWAYS_INLINE void NAME(tile)(
    int rows, int vectors, int halved, Py_ssize_t k, const REAL *a, Py_ssize_t row,
    Py_ssize_t column, const REAL *panel, Py_ssize_t step, Py_ssize_t from, int copies, REAL *copy,
    REAL *c, Py_ssize_t ldc, Py_ssize_t last, int adds
) {
    const int whole = vectors - halved;
    VECTOR sums[TILE_ROWS][TILE_VECTORS], b[TILE_VECTORS];
    HALF half_sums[TILE_ROWS], half_b;
    UNROLLED for (int i = 0; i < rows; i++) {
        UNROLLED for (int j = 0; j < whole; j++) sums[i][j] = (VECTOR) { 0 };
        half_sums[i] = (HALF) { 0 };
    }
    if (k >= MIN_DEPTH_TO_FETCH) {
        UNROLLED for (int i = 0; i < rows; i++) {
            UNROLLED for (int j = 0; j < vectors; j++) {
                __builtin_prefetch(c + i * ldc + j * LANES, 1);
            }
        }
    }
    for (Py_ssize_t p = 0; p < k; p++, panel += step, a += column) {
        UNROLLED for (int j = 0; j < whole; j++) {
            b[j] = *(const ANYWHERE *) (panel + NAME(column)(j, vectors, from));
        }
        if (halved) half_b = *(const HALF_ANYWHERE *) (panel + from + LANES / 2);
        if (copies) {
            UNROLLED for (int j = 0; j < whole; j++) *(VECTOR *) (copy + j * LANES) = b[j];
            if (halved) *(HALF *) (copy + whole * LANES + LANES / 2) = half_b;
            copy += vectors * LANES;
        }
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

/* Rows of b that will be wanted next, which the tiles before them fetch, some each */
typedef struct {
    const REAL *rows;
    Py_ssize_t n, width, ld, at_once;
} NAME(ahead);

ALWAYS_INLINE void NAME(fetch)(const NAME(ahead) *ahead, Py_ssize_t tile) {
    const Py_ssize_t end = (tile + 1) * ahead->at_once;
    for (Py_ssize_t i = tile * ahead->at_once; i < end && i < ahead->n; i++) {
        const char *row = (const char *) (ahead->rows + i * ahead->ld);
        const char *row_end = (const char *) (ahead->rows + i * ahead->ld + ahead->width);
        for (; row < row_end; row += 64) __builtin_prefetch(row, 0, 2);  /* past the first cache */
        __builtin_prefetch(row_end - 1, 0, 2);
    }
}

/* A panel of b: `width` columns from `first` on, so many vectors. The last vector begins at `last`
   in c, counted from the first column, and `from` in the panel's rows, which lie `step` apart. If
   there is a `copy`, the first tile copies the panel to it, and the others read that. */
typedef struct {
    int vectors;
    Py_ssize_t first, width, last, step, from;
    const REAL *at;
    REAL *copy;
} NAME(panel);

/* All rows of c under one panel. Tiles of a lie `next` apart; in a packed a they follow each other,
   element (i, p) of one at p·TILE_ROWS + i. */
ALWAYS_INLINE void NAME(tiles)(
    int vectors, int halved, Py_ssize_t m, Py_ssize_t k, const REAL *a, Py_ssize_t row,
    Py_ssize_t column, Py_ssize_t next, const NAME(panel) *panel, const NAME(ahead) *ahead, REAL *c,
    Py_ssize_t ldc, int adds
) {
    const REAL *at = panel->at;
    Py_ssize_t step = panel->step, from = panel->from, i = 0;
#define TILE(rows, copies) \
    NAME(tile)( \
        rows, vectors, halved, k, a, row, column, at, step, from, copies, panel->copy, c, ldc, \
        panel->last, adds \
    )
    if (panel->copy) {  /* m is TILE_ROWS or more */
        TILE(TILE_ROWS, 1);
        at = panel->copy;
        step = vectors * LANES;
        from = step - LANES;
        m -= TILE_ROWS, i++, a += next, c += TILE_ROWS * ldc;
    }
    for (; m >= TILE_ROWS; m -= TILE_ROWS, i++, a += next, c += TILE_ROWS * ldc) {
        if (ahead->n) NAME(fetch)(ahead, i);
        TILE(TILE_ROWS, 0);
    }
    for (; m >= 4; m -= 4, a += 4 * row, c += 4 * ldc) TILE(4, 0);
    for (; m >= 2; m -= 2, a += 2 * row, c += 2 * ldc) TILE(2, 0);
    for (; m > 0; m--, a += row, c += ldc) TILE(1, 0);
#undef TILE
}

/* The same, compiled for both ways in which a may lie, and each width of a panel. */
static void NAME(under_panel)(
    Py_ssize_t m, Py_ssize_t k, const REAL *a, Py_ssize_t row, Py_ssize_t column, Py_ssize_t next,
    const NAME(panel) *panel, const NAME(ahead) *ahead, REAL *c, Py_ssize_t ldc, int adds
) {
    const int vectors = panel->vectors;
    const int halved = vectors > 1 && (vectors - 1) * LANES - panel->last >= LANES / 2;
#define TILES(width, halved, row, column) \
    NAME(tiles)(width, halved, m, k, a, row, column, next, panel, ahead, c, ldc, adds)
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

/* Turn 2·GROUP rows of GROUP columns, at distances ld, and write them at distances `width`. They
   are loaded by groups, two to a vector, which zips put in order. Wider vectors gain nothing. */
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

/* Copy a panel of b that is transposed or narrower than a vector, k rows of whole vectors; element
   (p, j) of it is at b[p·row + j·column]. Not inlined: it needs the registers for itself. */
static NOT_INLINE void NAME(pack_b)(
    Py_ssize_t k, const NAME(panel) *panel, const REAL *b, Py_ssize_t row, Py_ssize_t column,
    REAL *to
) {
    const Py_ssize_t width = panel->vectors * LANES, overlap = width - panel->width;
    Py_ssize_t p = 0;
    if (panel->width < LANES) {
        for (; p < k; p++, to += LANES) {
            *(VECTOR *) to = (VECTOR) { 0 };
            for (Py_ssize_t j = 0; j < panel->width; j++) to[j] = b[p * row + j * column];
        }
    } else {
        for (Py_ssize_t j = 0; j < width; j += 2 * GROUP, to += 2 * GROUP) {
            const REAL *from = b + (j < width - LANES ? j : j - overlap) * column;
            for (p = 0; p + GROUP <= k; p += GROUP) {
                NAME(transpose)(from + p, column, to + p * width, width);
            }
            for (; p < k; p++) {
                for (Py_ssize_t q = 0; q < 2 * GROUP; q++) to[p * width + q] = from[p + q * column];
            }
        }
    }
}

/* How many panels n columns are cut into, and one of them. */
ALWAYS_INLINE Py_ssize_t NAME(panels)(Py_ssize_t n) {
    const Py_ssize_t vectors = (n + LANES - 1) / LANES;
    return (vectors + TILE_VECTORS - 1) / TILE_VECTORS;
}

ALWAYS_INLINE NAME(panel) NAME(cut_panel)(Py_ssize_t n, Py_ssize_t r) {
    const Py_ssize_t vectors = (n + LANES - 1) / LANES, panels = NAME(panels)(n);
    const Py_ssize_t begin = vectors * r / panels, end = vectors * (r + 1) / panels;
    NAME(panel) panel = { .vectors = (int) (end - begin), .first = begin * LANES };
    panel.width = (n < end * LANES ? n : end * LANES) - panel.first;
    panel.last = panel.width < LANES ? 0 : panel.width - LANES;
    return panel;
}

/* Find the rows of a panel of b, in place or in a copy. */
ALWAYS_INLINE void NAME(place_panel)(
    NAME(panel) *panel, Py_ssize_t k, const REAL *b, Py_ssize_t row, Py_ssize_t column, REAL *copy
) {
    b += panel->first * column;
    if (copy && (column != 1 || panel->width < LANES)) {
        NAME(pack_b)(k, panel, b, row, column, copy);
        panel->at = copy;
        panel->step = panel->vectors * LANES;
        panel->from = panel->step - LANES;
    } else {
        panel->at = b;
        panel->step = row;
        panel->from = panel->last;
        panel->copy = copy;
    }
}

/* Write rows of c, n wide, that lie turned, one in each of `width` columns. */
static NOT_INLINE void NAME(turn)(
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

/* Bytes of scratch memory, aligned to VECTOR_BYTES, that a product takes. */
static Py_ssize_t NAME(product_scratch)(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k) {
    const Py_ssize_t depth = k < MAX_DEPTH ? k : MAX_DEPTH;
    const Py_ssize_t rows = (m < MAX_PACKED_ROWS ? m : MAX_PACKED_ROWS) + TILE_ROWS;
    const Py_ssize_t turned = n < LANES ? LANES * TILE_VECTORS * LANES : 0;
    const Py_ssize_t packed = NAME(panels)(n) < MIN_PANELS_TO_PACK ? 0 : rows * depth;
    return (depth * TILE_VECTORS * LANES + turned + packed) * (Py_ssize_t) sizeof(REAL);
}

/* The product for a c narrower than a vector: turned, some vectors of rows at a time. */
static void NAME(narrow_product)(
    Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const REAL *a, Py_ssize_t a_row, Py_ssize_t a_column,
    const REAL *b, Py_ssize_t b_row, Py_ssize_t b_column, REAL *c, Py_ssize_t ldc, REAL *scratch
) {
    const Py_ssize_t panels = NAME(panels)(m), depths = (k + MAX_DEPTH - 1) / MAX_DEPTH;
    const NAME(ahead) nothing = { 0 };
    REAL *turned = scratch, *copy = scratch + LANES * TILE_VECTORS * LANES;
    if (a_row == 1 && m >= LANES) copy = NULL;
    for (Py_ssize_t r = 0; r < panels; r++) {
        NAME(panel) panel = NAME(cut_panel)(m, r);
        const Py_ssize_t ld = panel.vectors * LANES;
        for (Py_ssize_t q = 0; q < depths; q++) {
            const Py_ssize_t p = k * q / depths, depth = k * (q + 1) / depths - p;
            NAME(place_panel)(&panel, depth, a + p * a_column, a_column, a_row, copy);
            NAME(under_panel)(
                n, depth, b + p * b_row, b_column, b_row, TILE_ROWS * b_column, &panel, &nothing,
                turned, ld, q > 0
            );
        }
        NAME(turn)(n, turned, ld, panel.width, c + panel.first * ldc, ldc);
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
    const Py_ssize_t panels = NAME(panels)(n), depths = (k + MAX_DEPTH - 1) / MAX_DEPTH;
    const int a_is_far = lda * (Py_ssize_t) sizeof(REAL) > MAX_NEAR_BYTES;
    const int b_is_far = ldb * (Py_ssize_t) sizeof(REAL) > MAX_NEAR_BYTES;
    const int is_packed = a_column != 1 && a_is_far && panels >= MIN_PANELS_TO_PACK;
    const int is_copied = b_column != 1 || m > (b_is_far ? MAX_ROWS_IF_FAR : MAX_ROWS_IF_NEAR);
    const int is_fetched = is_copied && n * k * (Py_ssize_t) sizeof(REAL) >= MIN_BYTES_TO_FETCH;
    REAL *copy = is_copied ? scratch : NULL;
    REAL *packed = (REAL *) scratch + (k < MAX_DEPTH ? k : MAX_DEPTH) * TILE_VECTORS * LANES;
    const Py_ssize_t blocks = is_packed ? (m + MAX_PACKED_ROWS - 1) / MAX_PACKED_ROWS : 1;
    for (Py_ssize_t q = 0; q < depths; q++) {
        const Py_ssize_t p = k * q / depths, depth = k * (q + 1) / depths - p;
        for (Py_ssize_t s = 0; s < blocks; s++) {  /* equal ones: none is smaller than a tile */
            const Py_ssize_t i = m * s / blocks / TILE_ROWS * TILE_ROWS;
            const Py_ssize_t end = m * (s + 1) / blocks / TILE_ROWS * TILE_ROWS;
            const Py_ssize_t rows = (s + 1 < blocks ? end : m) - i;
            const REAL *tiles = a + i * a_row + p * a_column;
            if (is_packed) NAME(pack_a)(rows, depth, tiles, a_row, a_column, packed);
            for (Py_ssize_t r = 0; r < panels; r++) {
                NAME(panel) panel = NAME(cut_panel)(n, r);
                NAME(ahead) ahead = { 0 };
                if (is_fetched && r + 1 < panels) {
                    const NAME(panel) next = NAME(cut_panel)(n, r + 1);
                    ahead.rows = b + p * b_row + next.first * b_column;
                    ahead.n = b_column == 1 ? depth : next.width;
                    ahead.width = b_column == 1 ? next.width : depth;
                    ahead.ld = ldb;
                    ahead.at_once = ahead.n * TILE_ROWS / rows + 1;
                }
                NAME(place_panel)(&panel, depth, b + p * b_row, b_row, b_column, copy);
                NAME(under_panel)(
                    rows, depth, is_packed ? packed : tiles, is_packed ? 1 : a_row,
                    is_packed ? TILE_ROWS : a_column, TILE_ROWS * (is_packed ? depth : a_row),
                    &panel, &ahead, c + i * ldc + panel.first, ldc, q > 0
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
