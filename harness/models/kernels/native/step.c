/* A decode step's blocks on a CPU, float32, one or a few columns per row: what `Block.attend` and `Block.feed` compute, a whole plan in one
 * call, on weights stored in panels. A row's numbers do not depend on its batch (maps.h). Called through ctypes (__init__.py) with pointers
 * that it has checked.
 */
#include <math.h>
#include <stdlib.h>
#include <time.h>

#include "maps.h"

#define TOGETHER 256 /* elements of a position that are read together */
#define ALONE 2048   /* elements up to which every thread norms all rows for itself instead of waiting for the others */

enum { LAYER_NORM, RMS_NORM };
enum { ATTEND = 1, FEED = 2, FILL = 4 };

typedef struct {
    const float *weight, *bias; /* bias may be NULL */
    float eps;
    int32_t kind;
} norm;

typedef struct {
    map qkv, out, up, down;
    norm attention_norm, feed_norm;
    int32_t heads, kv_heads, head_dim, rotary; /* rotary: elements of a head that are turned */
    int32_t activation, gated, side_by_side;   /* side_by_side: the feed-forward sublayer reads the block's input */
    float scale;
} block;

static void normalise(const norm *n, int64_t width, const float *x, float *y) {
    vf total = splat(0);
    float mean = 0, rest = 0;
    int64_t whole = width / LANES * LANES;
    if (n->kind == LAYER_NORM) {
        for (int64_t i = 0; i < whole; i += LANES) total += load(x + i);
        for (int64_t i = whole; i < width; i++) rest += x[i];
        mean = (sum(total) + rest) / width;
    }
    total = splat(0), rest = 0;
    for (int64_t i = 0; i < whole; i += LANES) {
        vf c = load(x + i) - mean;
        total += c * c;
    }
    for (int64_t i = whole; i < width; i++) rest += (x[i] - mean) * (x[i] - mean);
    float factor = 1.0f / sqrtf((sum(total) + rest) / width + n->eps);
    for (int64_t i = 0; i < whole; i += LANES) {
        vf v = (load(x + i) - mean) * factor * load(n->weight + i);
        store(y + i, n->bias ? v + load(n->bias + i) : v);
    }
    for (int64_t i = whole; i < width; i++) {
        float v = (x[i] - mean) * factor * n->weight[i];
        y[i] = n->bias ? v + n->bias[i] : v;
    }
}

/* The calling team normalises rows; nobody waits. */
static void normalise_rows(const norm *n, int64_t rows, int64_t width, const float *x, float *y) {
    int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
    for (int64_t r = rows * me / team; r < rows * (me + 1) / team; r++) normalise(n, width, x + r * width, y + r * width);
}

/* Turn the first `size` elements of a head by tables (cos, cos) and (-sin, sin), each [size]. */
static void turn(float *head, int size, const float *cosines, const float *sines) {
    for (int i = 0, half = size / 2; i < half; i++) {
        float a = head[i], b = head[i + half];
        head[i] = a * cosines[i] + b * sines[i];
        head[i + half] = b * cosines[i + half] + a * sines[i + half];
    }
}

INLINE float dot(const float *a, const float *b, int size) {
    vf total = splat(0);
    float rest = 0;
    int i = 0;
    for (; i + LANES <= size; i += LANES) total += load(a + i) * load(b + i);
    for (; i < size; i++) rest += a[i] * b[i];
    return sum(total) + rest;
}

/* Scores of one query at LANES keys. */
INLINE void score_some(const float *q, const float *keys, int64_t stride, int size, float scale, float *scores) {
    vf products[LANES], query = load(q);
    UNROLL
    for (int i = 0; i < LANES; i++) products[i] = query * load(keys + i * stride);
    for (int at = LANES; at < size; at += LANES) {
        query = load(q + at);
    UNROLL
        for (int i = 0; i < LANES; i++) products[i] += query * load(keys + i * stride + at);
    }
    store(scores, sums_of_each(products) * scale);
}

/* exp(scores - the largest) in place, zero where a mask hides a key and up to the next multiple of LANES; returns 1 / their sum. */
static float weigh(float *scores, int64_t held, const uint8_t *mask) {
    int64_t padded = (held + LANES - 1) / LANES * LANES;
    if (mask)
        for (int64_t s = 0; s < held; s++) scores[s] = mask[s] ? scores[s] : -INFINITY;
    for (int64_t s = held; s < padded; s++) scores[s] = -INFINITY;
    vf largest = splat(-INFINITY), total = splat(0);
    for (int64_t s = 0; s < padded; s += LANES) largest = pick(load(scores + s) > largest, load(scores + s), largest);
    float most = -INFINITY;
    for (int i = 0; i < LANES; i++) most = largest[i] > most ? largest[i] : most;
    for (int64_t s = 0; s < padded; s += LANES) {
        vf v = load(scores + s), e = pick(v == -INFINITY, splat(0), vexp(v - most));
        total += e;
        store(scores + s, e);
    }
    return 1.0f / sum(total);
}

/* Add weights [count] times values to y [size]. */
INLINE void mix(const float *weights, const float *values, int64_t stride, int count, int size, float *y) {
    int i = 0;
    for (; i + LANES <= size; i += LANES) {
        vf a = load(y + i), b = splat(0);
        int s = 0;
        for (; s + 2 <= count; s += 2) {
            a += weights[s] * load(values + s * stride + i);
            b += weights[s + 1] * load(values + (s + 1) * stride + i);
        }
        if (s < count) a += weights[s] * load(values + s * stride + i);
        store(y + i, a + b);
    }
    for (; i < size; i++)
        for (int s = 0; s < count; s++) y[i] += weights[s] * values[s * stride + i];
}

/* Ask for `size` elements at each of LANES positions `stride` elements apart, for soon. */
INLINE void fetch(const float *from, int64_t stride, int64_t count, int64_t size) {
    for (int64_t s = 0; s < count && s < LANES; s++)
        for (int64_t at = 0; at < size; at += LINE / (int64_t)sizeof(float)) __builtin_prefetch(from + s * stride + at, 0, 3);
}

/* Attention of one row: `heads` key heads side by side, `group` queries on each, over `held` keys `stride` elements apart. LANES keys at a
 * time for all heads, so that the cache is read in the order it lies in, and what comes next is on its way: a processor does not guess such
 * steps. `after` is where the next row's keys lie, or NULL. scores [heads * group][span] is room to work in. */
static void attend_row(const float *q, const float *keys, const float *values, int64_t stride, int64_t held, int size, int heads,
                       int group, float scale, const uint8_t *mask, float *scores, int64_t span, const float *after, float *y) {
    int64_t whole = size % LANES ? 0 : held / LANES * LANES, part = (int64_t)heads * size;
    for (int64_t s = 0; s < whole; s += LANES) {
        fetch(keys + (s + LANES) * stride, stride, held - s - LANES, part);
        if (s + 2 * LANES > whole) fetch(values, stride, held, part);
        for (int h = 0; h < heads * group; h++)
            score_some(q + h * size, keys + s * stride + h / group * size, stride, size, scale, scores + h * span + s);
    }
    for (int64_t s = whole; s < held; s++)
        for (int h = 0; h < heads * group; h++)
            scores[h * span + s] = dot(q + h * size, keys + s * stride + h / group * size, size) * scale;
    memset(y, 0, sizeof(float) * heads * group * size);
    float shares[heads * group];
    for (int h = 0; h < heads * group; h++) shares[h] = weigh(scores + h * span, held, mask);
    for (int64_t s = 0; s < held; s += LANES) {
        int count = held - s < LANES ? (int)(held - s) : LANES;
        fetch(values + (s + LANES) * stride, stride, held - s - LANES, part);
        if (after && s + LANES >= held) fetch(after, stride, LANES, part);
        for (int h = 0; h < heads * group; h++)
            mix(scores + h * span + s, values + s * stride + h / group * size, stride, count, size, y + h * size);
    }
    for (int h = 0; h < heads * group; h++)
        for (int i = 0; i < size; i++) y[h * size + i] *= shares[h];
}

static float *room;
static size_t room_size;

/* Space to work in, kept between calls; NULL when there is none to be had. Calls hold the interpreter's lock, so it has one user. */
static float *reserve(size_t elements) {
    if (elements > room_size) {
        free(room);
        room = aligned_alloc(64, (elements * sizeof(float) + 63) / 64 * 64);
        room_size = room ? elements : 0;
    }
    return room;
}

/* Where keys and values go: `count` places from `column` on (from columns[row] where that is not NULL) of a block's cache
 * [cache rows][capacity][Hkv][d], in the cache rows `places` [rows] or, where it is NULL, in row after row. Tables [rows][count][rotary] turn
 * keys and queries; NULL where the block turns none. */
typedef struct {
    float *keys, *values;
    const int64_t *places, *columns;
    int64_t capacity, column, count;
    const float *cosines, *sines;
} target;

static int64_t column_of(const target *t, int64_t row) { return t->columns ? t->columns[row] : t->column; }

/* Turn and write `heads` key heads from `head` on of one row and column, k [heads][d] with their values. */
static void remember(const block *b, const target *t, int64_t row, int64_t column, int64_t head, int64_t heads, float *k, const float *v) {
    int64_t size = b->head_dim, stride = b->kv_heads * size, turned = (row * t->count + column) * b->rotary;
    int64_t at = ((t->places ? t->places[row] : row) * t->capacity + column_of(t, row) + column) * stride + head * size;
    for (int64_t h = 0; b->rotary && h < heads; h++) turn(k + h * size, b->rotary, t->cosines + turned, t->sines + turned);
    memcpy(t->keys + at, k, heads * size * sizeof(float));
    memcpy(t->values + at, v, heads * size * sizeof(float));
}

/* One block of a plan: which of ATTEND, FEED and FILL (keys and values alone) it does, to the state times `factor`. */
typedef struct {
    const block *block;
    target target;
    int64_t what;
    double factor;
} operation;

/* Who works: the team's threads, each with its number. */
typedef struct {
    int64_t team, me;
} worker;

/* Norm of rows x [rows, width], for all threads: into `all`, who wait for each other, or, where that costs more, each into its own room. */
static const float *normed_rows(const norm *n, int64_t rows, int64_t width, const float *x, float *all, float *own) {
    if (rows * width <= ALONE) {
        for (int64_t r = 0; r < rows; r++) normalise(n, width, x + r * width, own + r * width);
        return own;
    }
    normalise_rows(n, rows, width, x, all);
#pragma omp barrier
    return all;
}

/* What a plan needs to work in, for the largest of its blocks. */
typedef struct {
    float *entry, *normed, *own, *wide, *inner, *scores;
    int64_t span;
} rooms;

static void attend_block(const operation *o, int64_t rows, float *x, const rooms *room, const uint8_t *mask, int64_t mask_row,
                         int64_t mask_column, worker w) {
    const block *b = o->block;
    const target *t = &o->target;
    int size = b->head_dim, group = b->heads / b->kv_heads;
    int64_t fused = b->qkv.n, inner = (int64_t)b->heads * size, stride = (int64_t)b->kv_heads * size, all = rows * t->count;
    float *qkv = room->wide, *mixed = room->inner, *scores = room->scores + w.me * room->span * b->heads;
    apply(&b->qkv, all, normed_rows(&b->attention_norm, all, b->qkv.k, x, room->normed, room->own), NULL, qkv, NONE);
#pragma omp barrier
    /* Contiguous (row, key head) pairs for each thread, heads of one row together as far as the first-level cache goes. */
    int64_t tasks = rows * b->kv_heads, end = tasks * (w.me + 1) / w.team, together = TOGETHER / size > 0 ? TOGETHER / size : 1;
    for (int64_t task = tasks * w.me / w.team, heads; task < end; task += heads) {
        int64_t row = task / b->kv_heads, head = task % b->kv_heads;
        heads = b->kv_heads - head < end - task ? b->kv_heads - head : end - task;
        heads = heads < together ? heads : together;
        for (int64_t c = 0; c < t->count; c++) {
            float *k = qkv + (row * t->count + c) * fused + inner + head * size;
            remember(b, t, row, c, head, heads, k, k + stride);
        }
        int64_t first = (t->places ? t->places[row] : row) * t->capacity * stride + head * size;
        const float *after = task + heads < end && !t->places ? t->keys + first + t->capacity * stride : NULL;
        for (int64_t c = 0; c < t->count; c++) {
            int64_t at = row * t->count + c;
            float *q = qkv + at * fused + head * group * size;
            for (int64_t h = 0; b->rotary && h < heads * group; h++)
                turn(q + h * size, b->rotary, t->cosines + at * b->rotary, t->sines + at * b->rotary);
            attend_row(q, t->keys + first, t->values + first, stride, column_of(t, row) + t->count, size, (int)heads, group, b->scale,
                       mask ? mask + row * mask_row + c * mask_column : NULL, scores, room->span, after,
                       mixed + at * inner + head * group * size);
        }
    }
#pragma omp barrier
    apply(&b->out, all, mixed, x, x, NONE);
#pragma omp barrier
}

/* The keys and values alone that the attention sublayer would write; (heads * d) must be whole panels. */
static void fill_block(const operation *o, int64_t rows, const float *x, const rooms *room, worker w) {
    const block *b = o->block;
    const target *t = &o->target;
    int64_t width = b->qkv.k, inner = (int64_t)b->heads * b->head_dim, stride = (int64_t)b->kv_heads * b->head_dim, all = rows * t->count;
    map kv = {b->qkv.weight + inner * width, b->qkv.bias ? b->qkv.bias + inner : NULL, 2 * stride, width};
    float *made = room->wide;
    apply(&kv, all, normed_rows(&b->attention_norm, all, width, x, room->normed, room->own), NULL, made, NONE);
#pragma omp barrier
    for (int64_t at = all * w.me / w.team; at < all * (w.me + 1) / w.team; at++)
        remember(b, t, at / t->count, at % t->count, 0, b->kv_heads, made + at * 2 * stride, made + at * 2 * stride + stride);
#pragma omp barrier
}

/* Feed-forward sublayer on entry [all, D], added to x [all, D]. */
static void feed_block(const block *b, int64_t all, float *x, const float *entry, const rooms *room, worker w) {
    int64_t wide = b->up.n, inner = b->down.k;
    float *up = room->wide, *hidden = b->gated ? room->inner : up;
    apply(&b->up, all, normed_rows(&b->feed_norm, all, b->up.k, entry, room->normed, room->own), NULL, up, b->gated ? NONE : b->activation);
#pragma omp barrier
    if (b->gated) {
        int64_t lanes = (inner + LANES - 1) / LANES;
        for (int64_t task = all * lanes * w.me / w.team; task < all * lanes * (w.me + 1) / w.team; task++) {
            int64_t row = task / lanes, at = task % lanes * LANES, count = inner - at < LANES ? inner - at : LANES;
            float gate[LANES] = {0}, times[LANES] = {0};
            memcpy(gate, up + row * wide + at, count * sizeof(float));
            memcpy(times, up + row * wide + inner + at, count * sizeof(float));
            store(gate, activate(load(gate), b->activation) * load(times));
            memcpy(hidden + row * inner + at, gate, count * sizeof(float));
        }
#pragma omp barrier
    }
    apply(&b->down, all, hidden, x, x, NONE);
#pragma omp barrier
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }

/* A plan's blocks in turn: x [rows, count, D] to out, which may be x; `given` is what the feed-forward sublayer of a block that runs its
 * sublayers side by side reads where it is all that is asked for, else NULL. mask hides keys, `mask_row` elements between rows and `mask_column`
 * between columns, or is NULL for a single column. Where `spent` [operations][3] is given, the seconds of each block's attention, feeding
 * and filling are added to it. Returns 0, or 1 without memory. */
int run(const operation *operations, int64_t count, int64_t rows, const float *x, float *out, const float *given, const uint8_t *mask,
        int64_t mask_row, int64_t mask_column, int threads, double *spent) {
    if (!count) return 0;
    int64_t width = operations->block->qkv.k, all = rows * operations->target.count, wide = 0, inner = 0, heads = 0, span = 0;
    int keep = 0;
    for (int64_t i = 0; i < count; i++) {
        const block *b = operations[i].block;
        const target *t = &operations[i].target;
        int64_t furthest = t->column;
        for (int64_t r = 0; t->columns && r < rows; r++) furthest = largest(furthest, t->columns[r]);
        span = largest(span, (furthest + t->count + LANES - 1) / LANES * LANES);
        wide = largest(wide, largest(b->qkv.n, b->up.n));
        inner = largest(inner, largest((int64_t)b->heads * b->head_dim, b->down.k));
        heads = largest(heads, b->heads);
        keep |= b->side_by_side;
    }
    int64_t small = all * width <= ALONE ? all * width : 0;
    float *found = reserve(all * (width * (keep ? 2 : 1) + wide + inner) + threads * (span * heads + small));
    if (!found) return 1;
    float *scores = found + all * (width * (keep ? 2 : 1) + wide + inner);
    if (out != x) memcpy(out, x, all * width * sizeof(float));
#pragma omp parallel num_threads(threads)
    {
        worker w = {omp_get_num_threads(), omp_get_thread_num()};
        rooms room = {keep ? found + all * (width + wide + inner) : NULL, found, scores + threads * span * heads + w.me * small,
                      found + all * width, found + all * (width + wide), scores, span};
        double last = spent && !w.me ? now() : 0;
        for (int64_t i = 0; i < count; i++) {
            const operation *o = operations + i;
            const float *entry = given && o->block->side_by_side ? given : out;
            if (o->factor != 1) {
                for (int64_t at = all * width * w.me / w.team; at < all * width * (w.me + 1) / w.team; at++) out[at] *= (float)o->factor;
#pragma omp barrier
            }
            if (o->block->side_by_side && (o->what & ATTEND) && (o->what & FEED)) {
                entry = room.entry;
                for (int64_t r = all * w.me / w.team; r < all * (w.me + 1) / w.team; r++)
                    memcpy(room.entry + r * width, out + r * width, width * sizeof(float));
            }
            for (int part = 0; part < 3; part++) {
                if (!(o->what & 1 << part)) continue;
                if (part == 0) attend_block(o, rows, out, &room, mask, mask_row, mask_column, w);
                if (part == 1) feed_block(o->block, all, out, entry, &room, w);
                if (part == 2) fill_block(o, rows, out, &room, w);
                if (spent && !w.me) {
                    double at = now();
                    spent[3 * i + part] += at - last;
                    last = at;
                }
            }
        }
    }
    return 0;
}

/* y [rows, n] = activation(x W^T + bias) + residual (NULL: nothing added). */
int linear(const map *m, int64_t rows, const float *x, const float *residual, float *y, int kind, int threads) {
#pragma omp parallel num_threads(threads)
    apply(m, rows, x, residual, y, kind);
    return 0;
}

/* What every thread reads of its part of `bytes` at `from`, `times` over; for the rate at which the cores can. */
float read_all(const char *from, int64_t bytes, int64_t times, int threads) {
    float total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
    {
        int64_t team = omp_get_num_threads(), part = bytes / team / (16 * LINE) * (16 * LINE), lanes = LINE / sizeof(float);
        const float *mine = (const float *)(from + omp_get_thread_num() * part), *end = mine + part / sizeof(float);
        vf a[4 * LINE / sizeof(vf)];
        memset(a, 0, sizeof a);
        int64_t apart = (end - mine) / 4; /* four places at once, as the kernels read panels: one alone does not fill the memory's queues */
        for (int64_t i = 0; i < times; i++) {
            for (const float *at = mine; at < mine + apart; at += lanes) {
                UNROLL
                for (int s = 0; s < 4; s++) {
                    UNROLL
                    for (size_t j = 0; j < LINE / sizeof(vf); j++) a[s * (LINE / sizeof(vf)) + j] += load(at + s * apart + j * LANES);
                }
            }
            __asm__ volatile("" ::: "memory");
        }
        for (size_t j = 0; j < 4 * LINE / sizeof(vf); j++) total += sum(a[j]);
    }
    return total;
}

int panel_columns(void) { return PANEL; }

const char *isa(void) { return ISA; }
