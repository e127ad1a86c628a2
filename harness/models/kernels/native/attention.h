/* Attention of one row over the keys and values that a cache holds. */
#ifndef ATTENTION_H
#define ATTENTION_H
#include <math.h>

#include "vectors.h"

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
#endif
