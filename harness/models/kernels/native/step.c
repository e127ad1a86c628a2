/* One decode step's sublayers on a CPU, float32, one or a few columns per row: what `Block.attend` and `Block.feed` compute, in one
 * call each instead of some fifteen, on weights stored in panels. Every row is summed in the same order however many rows there are, so a
 * row's numbers do not depend on its batch. Called through ctypes (native.py) with pointers that it has checked.
 */
#include <math.h>
#include <omp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
#define TOGETHER 256 /* elements of a position that are read together */
#define PANEL 32 /* columns of a panel: weights are stored [ceil(N / PANEL)][K][PANEL] */
#ifdef __AVX512F__
#define TILE 12 /* rows whose sums fit into the registers */
#else
#define TILE 3
#endif

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef float vfu __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
#define INLINE static inline __attribute__((always_inline))

enum { NONE, RELU, SILU, GELU, GELU_TANH };
enum { LAYER_NORM, RMS_NORM };

typedef struct {
    const float *weight; /* panels */
    const float *bias;   /* [n] or NULL */
    int64_t n, k;
} map;

typedef struct {
    const float *weight, *bias; /* bias may be NULL */
    float eps;
    int32_t kind;
} norm;

typedef struct {
    map qkv, out, up, down;
    norm attention_norm, feed_norm;
    int32_t heads, kv_heads, head_dim, rotary; /* rotary: elements of a head that are turned */
    int32_t activation, gated;
    float scale;
} block;

INLINE vf load(const float *p) { return *(const vfu *)p; }
INLINE void store(float *p, vf v) { *(vfu *)p = v; }
INLINE vf splat(float x) { return x - (vf){}; }

/* a where the lanes of `when` are set, else b. */
INLINE vf pick(vi when, vf a, vf b) { return (vf)((when & (vi)a) | (~when & (vi)b)); }

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif

/* Sums of neighbours: groups of 1, 2, 4 or 8 lanes of a and b in turn. Four levels of it add up sixteen vectors at once. */
INLINE vf join1(vf a, vf b) {
    return SHUFFLE(a, b, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30) +
           SHUFFLE(a, b, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31);
}
INLINE vf join2(vf a, vf b) {
    return SHUFFLE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
           SHUFFLE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}
INLINE vf join4(vf a, vf b) {
    return SHUFFLE(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
           SHUFFLE(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
}
INLINE vf join8(vf a, vf b) {
    return SHUFFLE(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
           SHUFFLE(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}

/* Lane i of the result is the sum of v[i]. */
INLINE vf sums16(const vf v[16]) {
    vf w[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) w[i] = join1(v[2 * i], v[2 * i + 1]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) w[i] = join2(w[2 * i], w[2 * i + 1]);
    return join8(join4(w[0], w[1]), join4(w[2], w[3]));
}

INLINE float sum(vf v) {
    v = join1(v, v);
    v = join2(v, v);
    v = join4(v, v);
    return join8(v, v)[0];
}

/* exp, to 2 units in the last place: 2^n times a polynomial (Cephes expf). */
INLINE vf vexp(vf x) {
    x = pick(x < -87.3f, splat(-87.3f), x);
    x = pick(x > 88.0f, splat(88.0f), x);
    vf magic = splat(12582912.0f); /* 1.5 * 2^23: adding it rounds to an integer */
    vf n = x * 1.44269504088896341f + magic - magic;
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    vi power = (__builtin_convertvector(n, vi) + 127) << 23;
    vf scale;
    memcpy(&scale, &power, sizeof scale);
    return p * scale;
}

INLINE vf vtanh(vf x) { return 1.0f - 2.0f / (vexp(2.0f * x) + 1.0f); }

/* erf to 1.5e-7 (Abramowitz and Stegun 7.1.26). */
INLINE vf verf(vf x) {
    vf a = pick(x < 0.0f, -x, x);
    vf t = 1.0f / (1.0f + 0.3275911f * a);
    vf p = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    vf y = 1.0f - p * vexp(-a * a);
    return pick(x < 0.0f, -y, y);
}

INLINE vf activate(vf x, int kind) {
    switch (kind) {
    case RELU: return pick(x > 0.0f, x, splat(0));
    case SILU: return x / (1.0f + vexp(-x));
    case GELU: return 0.5f * x * (1.0f + verf(x * 0.70710678118654752f));
    case GELU_TANH: return 0.5f * x * (1.0f + vtanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    default: return x;
    }
}

/* `rows` (a constant where it is called) rows of x [., k] times one panel [k][PANEL], into sums. */
INLINE void tile_sums(int rows, const float *x, size_t k, const float *panel, vf sums[][2]) {
    vf a[TILE], b[TILE];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) a[r] = b[r] = splat(0);
    for (size_t i = 0; i < k; i++) {
        vf p = load(panel + i * PANEL), q = load(panel + i * PANEL + LANES);
#pragma GCC unroll 12
        for (int r = 0; r < rows; r++) {
            float s = x[r * k + i];
            a[r] += s * p;
            b[r] += s * q;
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) sums[r][0] = a[r], sums[r][1] = b[r];
}

static void sums_of(int rows, const float *x, size_t k, const float *panel, vf sums[][2]) {
    switch (rows) {
#define CASE(r) case r: tile_sums(r, x, k, panel, sums); break;
    CASE(1) CASE(2) CASE(3)
#if TILE > 3
    CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
    }
}

/* y [rows, n] = activation(x [rows, k] W^T + bias) + residual [rows, n]; the calling team's threads share the work, and nobody waits. */
static void apply(const map *m, int64_t rows, const float *x, const float *residual, float *y, int kind) {
    int64_t panels = (m->n + PANEL - 1) / PANEL, tiles = (rows + TILE - 1) / TILE, tasks = panels * tiles;
    int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
    for (int64_t task = tasks * me / team; task < tasks * (me + 1) / team; task++) {
        int64_t panel = task / tiles, tile = task % tiles;
        int64_t first = rows * tile / tiles, count = rows * (tile + 1) / tiles - first, column = panel * PANEL;
        vf sums[TILE][2];
        sums_of((int)count, x + first * m->k, m->k, m->weight + panel * m->k * PANEL, sums);
        for (int half = 0; half < 2; half++) {
            int64_t at = column + half * LANES, width = m->n - at;
            if (width <= 0) break;
            for (int64_t r = 0; r < count; r++) {
                vf v = sums[r][half];
                float *to = y + (first + r) * m->n + at;
                const float *more = residual ? residual + (first + r) * m->n + at : NULL;
                if (width >= LANES) {
                    if (m->bias) v += load(m->bias + at);
                    v = activate(v, kind);
                    if (more) v += load(more);
                    store(to, v);
                } else { /* the last columns of a width that is no multiple of LANES */
                    float part[LANES] = {0};
                    if (m->bias) memcpy(part, m->bias + at, width * sizeof(float));
                    v = activate(v + load(part), kind);
                    store(part, v);
                    for (int64_t i = 0; i < width; i++) to[i] = part[i] + (more ? more[i] : 0);
                }
            }
        }
    }
}

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

/* Scores of one query at sixteen keys. */
INLINE void score16(const float *q, const float *keys, int64_t stride, int size, float scale, float *scores) {
    vf products[LANES], query = load(q);
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) products[i] = query * load(keys + i * stride);
    for (int at = LANES; at < size; at += LANES) {
        query = load(q + at);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) products[i] += query * load(keys + i * stride + at);
    }
    store(scores, sums16(products) * scale);
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

/* Attention of one row: `heads` key heads side by side, `group` queries on each, over `held` keys `stride` elements apart. Sixteen
 * keys at a time for all heads, so that the cache is read in the order it lies in. scores [heads * group][span] is room to work in. */
static void attend_row(const float *q, const float *keys, const float *values, int64_t stride, int64_t held, int size, int heads,
                       int group, float scale, const uint8_t *mask, float *scores, int64_t span, float *y) {
    int64_t whole = size % LANES ? 0 : held / LANES * LANES;
    for (int64_t s = 0; s < whole; s += LANES)
        for (int h = 0; h < heads * group; h++)
            score16(q + h * size, keys + s * stride + h / group * size, stride, size, scale, scores + h * span + s);
    for (int64_t s = whole; s < held; s++)
        for (int h = 0; h < heads * group; h++)
            scores[h * span + s] = dot(q + h * size, keys + s * stride + h / group * size, size) * scale;
    memset(y, 0, sizeof(float) * heads * group * size);
    float shares[heads * group];
    for (int h = 0; h < heads * group; h++) shares[h] = weigh(scores + h * span, held, mask);
    for (int64_t s = 0; s < held; s += LANES) {
        int count = held - s < LANES ? (int)(held - s) : LANES;
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

/* Attention sublayer: x [rows, count, D] to out, over the keys up to and with its own columns. mask hides some of them, `mask_row`
 * elements between rows and `mask_column` between columns, or is NULL for a single column. Returns 0, or 1 without memory. */
int attend(const block *b, int64_t rows, const float *x, float *out, const target *t, const uint8_t *mask, int64_t mask_row,
           int64_t mask_column, int threads) {
    int size = b->head_dim, group = b->heads / b->kv_heads;
    int64_t width = b->qkv.k, fused = b->qkv.n, inner = (int64_t)b->heads * size, stride = (int64_t)b->kv_heads * size;
    int64_t furthest = t->column, all = rows * t->count;
    for (int64_t r = 0; t->columns && r < rows; r++) furthest = t->columns[r] > furthest ? t->columns[r] : furthest;
    int64_t span = (furthest + t->count + LANES - 1) / LANES * LANES;
    float *normed = reserve(all * (width + fused + inner) + threads * span * b->heads);
    if (!normed) return 1;
    float *qkv = normed + all * width, *mixed = qkv + all * fused, *scores = mixed + all * inner;
#pragma omp parallel num_threads(threads)
    {
        normalise_rows(&b->attention_norm, all, width, x, normed);
#pragma omp barrier
        apply(&b->qkv, all, normed, NULL, qkv, NONE);
#pragma omp barrier
        /* Contiguous (row, key head) pairs for each thread, heads of one row together as far as the first-level cache goes. */
        int64_t tasks = rows * b->kv_heads, team = omp_get_num_threads(), me = omp_get_thread_num(), end = tasks * (me + 1) / team;
        int64_t together = TOGETHER / size > 0 ? TOGETHER / size : 1;
        for (int64_t task = tasks * me / team, heads; task < end; task += heads) {
            int64_t row = task / b->kv_heads, head = task % b->kv_heads;
            heads = b->kv_heads - head < end - task ? b->kv_heads - head : end - task;
            heads = heads < together ? heads : together;
            for (int64_t c = 0; c < t->count; c++) {
                float *k = qkv + (row * t->count + c) * fused + inner + head * size;
                remember(b, t, row, c, head, heads, k, k + stride);
            }
            int64_t first = (t->places ? t->places[row] : row) * t->capacity * stride + head * size;
            for (int64_t c = 0; c < t->count; c++) {
                int64_t at = row * t->count + c;
                float *q = qkv + at * fused + head * group * size;
                for (int64_t h = 0; b->rotary && h < heads * group; h++)
                    turn(q + h * size, b->rotary, t->cosines + at * b->rotary, t->sines + at * b->rotary);
                attend_row(q, t->keys + first, t->values + first, stride, column_of(t, row) + t->count, size, (int)heads, group,
                           b->scale, mask ? mask + row * mask_row + c * mask_column : NULL, scores + me * span * b->heads, span,
                           mixed + at * inner + head * group * size);
            }
        }
#pragma omp barrier
        apply(&b->out, all, mixed, x, out, NONE);
    }
    return 0;
}

/* The keys and values alone that the attention sublayer would write for x [rows, count, D]; (heads * d) must be whole panels. */
int fill(const block *b, int64_t rows, const float *x, const target *t, int threads) {
    int64_t width = b->qkv.k, inner = (int64_t)b->heads * b->head_dim, stride = (int64_t)b->kv_heads * b->head_dim;
    map kv = {b->qkv.weight + inner * width, b->qkv.bias ? b->qkv.bias + inner : NULL, 2 * stride, width};
    int64_t all = rows * t->count;
    float *normed = reserve(all * (width + 2 * stride));
    if (!normed) return 1;
    float *made = normed + all * width;
#pragma omp parallel num_threads(threads)
    {
        normalise_rows(&b->attention_norm, all, width, x, normed);
#pragma omp barrier
        apply(&kv, all, normed, NULL, made, NONE);
#pragma omp barrier
        int64_t team = omp_get_num_threads(), me = omp_get_thread_num();
        for (int64_t at = all * me / team; at < all * (me + 1) / team; at++)
            remember(b, t, at / t->count, at % t->count, 0, b->kv_heads, made + at * 2 * stride, made + at * 2 * stride + stride);
    }
    return 0;
}

/* Feed-forward sublayer on entry [rows, D], added to x [rows, D], to out [rows, D]. Returns 0, or 1 without memory. */
int feed(const block *b, int64_t rows, const float *x, const float *entry, float *out, int threads) {
    int64_t width = b->up.k, wide = b->up.n, inner = b->down.k;
    float *normed = reserve(rows * (width + wide + inner));
    if (!normed) return 1;
    float *up = normed + rows * width, *hidden = b->gated ? up + rows * wide : up;
#pragma omp parallel num_threads(threads)
    {
        normalise_rows(&b->feed_norm, rows, width, entry, normed);
#pragma omp barrier
        apply(&b->up, rows, normed, NULL, up, b->gated ? NONE : b->activation);
#pragma omp barrier
        if (b->gated) {
            int64_t team = omp_get_num_threads(), me = omp_get_thread_num(), lanes = (inner + LANES - 1) / LANES;
            for (int64_t task = rows * lanes * me / team; task < rows * lanes * (me + 1) / team; task++) {
                int64_t row = task / lanes, at = task % lanes * LANES, count = inner - at < LANES ? inner - at : LANES;
                float gate[LANES] = {0}, times[LANES] = {0};
                memcpy(gate, up + row * wide + at, count * sizeof(float));
                memcpy(times, up + row * wide + inner + at, count * sizeof(float));
                store(gate, activate(load(gate), b->activation) * load(times));
                memcpy(hidden + row * inner + at, gate, count * sizeof(float));
            }
#pragma omp barrier
        }
        apply(&b->down, rows, hidden, x, out, NONE);
    }
    return 0;
}

/* y [rows, n] = activation(x W^T + bias) + residual (NULL: nothing added). */
int linear(const map *m, int64_t rows, const float *x, const float *residual, float *y, int kind, int threads) {
#pragma omp parallel num_threads(threads)
    apply(m, rows, x, residual, y, kind);
    return 0;
}

int panel_columns(void) { return PANEL; }
