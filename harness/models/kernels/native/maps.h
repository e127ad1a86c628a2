/* Linear maps on weights stored in panels, for one row or thousands. Every sum runs over k in the same order whatever the number of
 * rows, panels or threads, so a row's numbers do not depend on its batch. */
#ifndef MAPS_H
#define MAPS_H
#include "vectors.h"

#define ROWS_TOGETHER 96 /* rows that stay in the second-level cache while all panels pass by */

typedef struct {
    const char *weight; /* panels */
    const float *bias;  /* [n] or NULL */
    int64_t n, k, size; /* size: bytes of a weight, sizeof(float) or HALF */
} map;

/* `rows` rows of x [., k] times `wide` panels of weights of `size` bytes, constants where it is called; sums [rows][wide][VECTORS].
 * Meanwhile `step` bytes of what comes next are fetched from `ahead` for each k, so that memory works while the sums are made. */
INLINE void tile(int size, int rows, int wide, const float *x, size_t k, const char *panel, const char *ahead, size_t step, vf *sums) {
    vf a[TILE * 4 * VECTORS];
    size_t row = size * PANEL, next = k * row;
    UNROLL
    for (int i = 0; i < rows * wide * VECTORS; i++) a[i] = splat(0);
    for (size_t i = 0; i < k; i++) {
        __builtin_prefetch(ahead + i * step, 0, 2);
        if (size * PANEL * wide > LINE && step > LINE) __builtin_prefetch(ahead + i * step + LINE, 0, 2);
        if (wide > 1) { /* few rows: their broadcasts stay, panels pass by */
            vf s[TILE];
            UNROLL
            for (int r = 0; r < rows; r++) s[r] = splat(x[r * k + i]);
            UNROLL
            for (int p = 0; p < wide; p++) {
                UNROLL
                for (int v = 0; v < VECTORS; v++) {
                    vf w = weights(size, panel + p * next + i * row, v);
                    if (rows > 1) KEEP(w);
                    UNROLL
                    for (int r = 0; r < rows; r++) a[(r * wide + p) * VECTORS + v] += s[r] * w;
                }
            }
        } else { /* the panel's vectors stay, broadcasts pass by */
            vf w[VECTORS];
            UNROLL
            for (int v = 0; v < VECTORS; v++) {
                w[v] = weights(size, panel + i * row, v);
                KEEP(w[v]);
            }
            UNROLL
            for (int r = 0; r < rows; r++) {
                float s = x[r * k + i];
                UNROLL
                for (int v = 0; v < VECTORS; v++) a[r * VECTORS + v] += s * w[v];
                __asm__ volatile(""); /* the next row's broadcast not before: it would take a register from the sums */
            }
        }
    }
    UNROLL
    for (int i = 0; i < rows * wide * VECTORS; i++) sums[i] = a[i];
}

INLINE void tile_by(int size, int rows, int wide, const float *x, size_t k, const char *panel, const char *ahead, size_t step, vf *sums) {
    switch (rows * 8 + wide) {
#define CASE(r, w)                                                                    \
    case r * 8 + w:                                                                   \
        if (w <= WIDE(r, size)) tile(size, r, w, x, k, panel, ahead, step, sums);     \
        break;
    CASE(1, 1) CASE(1, 2) CASE(2, 1) CASE(2, 2) CASE(3, 1) CASE(3, 2) CASE(4, 1) CASE(5, 1) CASE(6, 1)
#if WIDE(1, 4) > 2
    CASE(1, 4)
#endif
#if TILE > 6
    CASE(2, 4) CASE(3, 4) CASE(4, 2) CASE(5, 2) CASE(6, 2) CASE(7, 1) CASE(8, 1) CASE(9, 1) CASE(10, 1) CASE(11, 1) CASE(12, 1)
#endif
#undef CASE
    }
}

#define TILE_OF(name, size)                                                                                                            \
    static __attribute__((noinline)) void name(int rows, int wide, const float *x, size_t k, const char *panel, const char *ahead,     \
                                               size_t step, vf *sums) {                                                                \
        tile_by(size, rows, wide, x, k, panel, ahead, step, sums);                                                                     \
    }
TILE_OF(tile_of_floats, sizeof(float))
TILE_OF(tile_of_halves, HALF)

/* Write activation(sums + bias) + residual of one vector of columns, `width` of which there are. */
INLINE void finish(vf v, const float *bias, const float *more, float *to, int64_t width, int kind) {
    if (width >= LANES) {
        if (bias) v += load(bias);
        v = activate(v, kind);
        if (more) v += load(more);
        store(to, v);
    } else { /* the last columns of a width that is no multiple of LANES */
        float part[LANES] = {0};
        if (bias) memcpy(part, bias, width * sizeof(float));
        v = activate(v + load(part), kind);
        store(part, v);
        for (int64_t i = 0; i < width; i++) to[i] = part[i] + (more ? more[i] : 0);
    }
}

INLINE int64_t panels_of(const map *m) { return (m->n + PANEL - 1) / PANEL; }
INLINE int64_t row_blocks(int64_t rows) { return (rows + ROWS_TOGETHER - 1) / ROWS_TOGETHER; }

/* Panels `first` to `end` - 1 of y [rows, n] = activation(x [rows, k] W^T + bias) + residual [rows, n], which may be y, counted through all
 * panels for each block of rows in turn. */
static void apply(const map *m, int64_t rows, const float *x, const float *residual, float *y, int kind, int64_t first, int64_t end) {
    int64_t panels = panels_of(m), blocks = row_blocks(rows);
    size_t size = m->k * PANEL * m->size; /* bytes of a panel */
    vf sums[TILE * 4 * VECTORS];
    for (int64_t at_once = first, wide; at_once < end; at_once += wide) {
        int64_t block = at_once / panels, panel = at_once % panels, last = end - at_once < panels - panel ? end - at_once + panel : panels;
        int64_t row = rows * block / blocks, count = rows * (block + 1) / blocks - row, tiles = (count + TILE - 1) / TILE;
        wide = tiles == 1 ? WIDE(count, m->size) : 1;
        while (panel + wide > last) wide /= 2;
        const char *weight = m->weight + panel * size;
        /* The last panel fetches its own end again instead of what lies behind the weights. */
        const char *ahead = weight + (panel + 2 * wide <= panels ? wide : 0) * size;
        size_t step = m->size * PANEL * wide / tiles;
        for (int64_t t = 0; t < tiles; t++) {
            int64_t at = row + count * t / tiles, some = row + count * (t + 1) / tiles - at;
            (m->size == HALF ? tile_of_halves : tile_of_floats)((int)some, (int)wide, x + at * m->k, m->k, weight,
                                                                ahead + t * m->k * step, step, sums);
            for (int64_t r = 0; r < some; r++) {
                for (int64_t v = 0; v < wide * VECTORS; v++) {
                    int64_t column = panel * PANEL + v * LANES, place = (at + r) * m->n + column;
                    if (column >= m->n) break;
                    finish(sums[r * wide * VECTORS + v], m->bias ? m->bias + column : NULL, residual ? residual + place : NULL, y + place,
                           m->n - column, kind);
                }
            }
        }
    }
}
#endif
