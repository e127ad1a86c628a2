/* What is a job of one kind of phase: a map, the largest of rows, reading. */
#ifndef SINGLES_H
#define SINGLES_H
#include <math.h>

#include "maps.h"
#include "team.h"

enum { SINGLE_MAP = 100, LARGEST, READ };

/* What is a job of its own: a map, a stretch of memory, rows of numbers. */
static struct {
    const map *m;
    int64_t rows;
    const float *x, *residual;
    float *y;
    int kind;
    const char *from;
    float total[MOST];
    int64_t *places;
} single;

static int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }

#define PIECES 8      /* of a part, about: what a thread that comes late left over is shared in them */
#define LEAST 131072  /* products that a piece is worth taking for, some microseconds; what is read for a row counts as those of four */

static phase *put_map(phase *p, int what, int64_t operation, const map *m, int64_t rows) {
    int64_t items = panels_of(m) * row_blocks(rows), each = m->k * PANEL * largest(rows / row_blocks(rows), 4);
    int64_t grain = largest(items / (PIECES * job.team), LEAST / each), wide = WIDE(rows, m->size);
    put(p, what, operation, items, rows <= TILE ? largest((grain + wide - 1) / wide, 1) * wide : largest(grain, 1));
    return p + 1;
}

static phase *put_some(phase *p, int what, int64_t operation, int64_t items) {
    put(p, what, operation, items, largest(1, items / (PIECES * job.team)));
    return p + 1;
}

/* The first place of the largest of x [n], or of the first that is no number. */
static int64_t place_of_largest(const float *x, int64_t n) {
    vf most = splat(-INFINITY);
    vi none = {0};
    int64_t whole = n / LANES * LANES, at = 0;
    float best = -INFINITY;
    for (int64_t i = 0; i < whole; i += LANES) {
        vf v = load(x + i);
        most = pick(v > most, v, most);
        none |= v != v;
    }
    for (int i = 0; i < LANES; i++) {
        best = most[i] > best ? most[i] : best;
        at |= none[i];
    }
    for (int64_t i = whole; i < n; i++) {
        best = x[i] > best ? x[i] : best;
        at |= x[i] != x[i];
    }
    if (at) {
        for (at = 0; x[at] == x[at];) at++;
        return at;
    }
    for (vf sought = splat(best); at + LANES <= n; at += LANES) {
        vi same = load(x + at) == sought;
        int found = 0;
        UNROLL
        for (int i = 0; i < LANES; i++) found |= same[i];
        if (found) break;
    }
    while (at + 1 < n && x[at] != best) at++;
    return at;
}

#define STRETCH (64 * LINE) /* bytes of an item of read_all */

/* Four places at once, as the kernels read panels: one alone does not fill the memory's queues. */
static void read_some(int64_t first, int64_t end, int me) {
    int64_t lanes = LINE / sizeof(float), apart = (end - first) * STRETCH / 4 / sizeof(float);
    const float *from = (const float *)(single.from + first * STRETCH);
    vf a[4 * LINE / sizeof(vf)];
    memset(a, 0, sizeof a);
    for (const float *at = from; at < from + apart; at += lanes) {
        UNROLL
        for (int s = 0; s < 4; s++) {
            UNROLL
            for (size_t j = 0; j < LINE / sizeof(vf); j++) a[s * (LINE / sizeof(vf)) + j] += load(at + s * apart + j * LANES);
        }
    }
    for (size_t j = 0; j < 4 * LINE / sizeof(vf); j++) single.total[me] += sum(a[j]);
}

static void work_alone(int what, int64_t first, int64_t end, int me) {
    if (what == SINGLE_MAP) apply(single.m, single.rows, single.x, single.residual, single.y, single.kind, first, end);
    if (what == READ) read_some(first, end, me);
    for (int64_t r = first; what == LARGEST && r < end; r++)
        single.places[r] = place_of_largest(single.x + r * single.rows, single.rows);
}

/* y [rows, n] = activation(x W^T + bias) + residual (NULL: nothing added). Returns 0, or 1 without memory. */
int linear(const map *m, int64_t rows, const float *x, const float *residual, float *y, int kind, int threads, int ours) {
    phase *p = begin(1, threads);
    if (!p) return 1;
    single.m = m, single.rows = rows, single.x = x, single.residual = residual, single.y = y, single.kind = kind;
    put_map(p, SINGLE_MAP, 0, m, rows);
    finish_job(1, ours);
    return 0;
}

/* places [rows]: the first place of the largest of each row of x [rows, n]. Returns 0, or 1 without memory. */
int largest_places(const float *x, int64_t rows, int64_t n, int64_t *places, int threads, int ours) {
    phase *p = begin(1, threads);
    if (!p) return 1;
    single.x = x, single.rows = n, single.places = places;
    put_some(p, LARGEST, 0, rows);
    finish_job(1, ours);
    return 0;
}

/* The sum of `bytes` at `from`, `times` over; for the rate at which the cores can read. */
float read_all(const char *from, int64_t bytes, int64_t times, int threads, int ours) {
    phase *p = begin(times, threads);
    float total = 0;
    if (!p) return 0;
    memset(single.total, 0, sizeof single.total);
    single.from = from;
    for (int64_t i = 0; i < times; i++) put_some(p + i, READ, 0, bytes / STRETCH);
    finish_job(times, ours);
    for (int i = 0; i < MOST; i++) total += single.total[i];
    return total;
}
#endif
