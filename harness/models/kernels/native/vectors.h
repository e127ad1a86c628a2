/* Vectors of the processor's own width, for GCC and Clang: 16 floats with AVX-512, 8 with AVX2 and FMA, 4 on plain x86-64 (SSE2) and
 * 64-bit Arm (NEON). Everything else is written in LANES, VECTORS and TILE alone. A wider type than the processor has would be kept in
 * memory by the compiler and be ten times slower. */
#ifndef VECTORS_H
#define VECTORS_H
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define HALF 2  /* bytes of a bfloat16, the upper half of a float */
#define LINE 64 /* bytes of a cache line */

/* TILE rows times VECTORS vectors of sums fill the registers (32 of them with AVX-512 and NEON, 16 elsewhere), with the vectors of a
 * panel and one broadcast beside them. WIDE: with fewer rows so many panels together, or the sums would wait for each other; bfloat16
 * takes a register more, for its mask. */
#if defined(__AVX512F__)
#define ISA "avx512"
#define LANES 16
#define VECTORS 2
#define TILE 12
#define WIDE(rows, size) ((rows) <= 3 ? 4 : (rows) <= 6 ? 2 : 1)
#elif defined(__AVX2__) && defined(__FMA__)
#define ISA "avx2"
#define LANES 8
#define VECTORS 2
#define TILE 6
#define WIDE(rows, size) ((rows) == 1 ? 4 : (rows) <= 3 - ((size) == HALF) ? 2 : 1)
#elif defined(__aarch64__)
#define ISA "neon"
#define LANES 4
#define VECTORS 4
#define TILE 6
#define WIDE(rows, size) ((rows) <= 3 ? 2 : 1)
#elif defined(__x86_64__)
#define ISA "sse2"
#define LANES 4
#define VECTORS 2
#define TILE 6
#define WIDE(rows, size) ((rows) == 1 ? 4 : (rows) <= 3 - ((size) == HALF) ? 2 : 1)
#else
#error "no vectors for this processor: x86-64 or 64-bit Arm is needed"
#endif
#define PANEL (LANES * VECTORS) /* columns of a panel: weights are stored [ceil(N / PANEL)][K][PANEL] */

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef float vfu __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint32_t vw __attribute__((vector_size(4 * LANES)));
typedef uint32_t vwu __attribute__((vector_size(4 * LANES), aligned(4)));
#define INLINE static inline __attribute__((always_inline))

/* Loops over constants, to be written out. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 48")
#endif

/* The compiler shall keep a vector in a register: it would load it again from memory for every use, and spill sums instead. */
#if defined(__aarch64__)
#define KEEP(v) __asm__("" : "+w"(v))
#elif defined(__AVX512F__)
#define KEEP(v) __asm__("" : "+v"(v))
#else
#define KEEP(v) __asm__("" : "+x"(v))
#endif

INLINE vf load(const float *p) { return *(const vfu *)p; }
INLINE void store(float *p, vf v) { *(vfu *)p = v; }

/* Vector v of a panel's row, of weights of `size` bytes: floats, or bfloat16 widened to what they stand for, without rounding. Of those
 * vectors 2 p and 2 p + 1 lie in the halves of the same LANES words, so that every processor widens them with a shift and a mask. */
INLINE vf weights(int size, const char *row, int v) {
    if (size != HALF) return load((const float *)row + v * LANES);
    vw words = *(const vwu *)(row + v / 2 * sizeof(vw));
    return (vf)(v % 2 ? words & 0xffff0000u : words << 16);
}

INLINE vf splat(float x) { return x - (vf){}; }

/* a where the lanes of `when` are set, else b. */
INLINE vf pick(vi when, vf a, vf b) { return (vf)((when & (vi)a) | (~when & (vi)b)); }

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif

/* Sums of neighbours: groups of 1, 2, 4 or 8 lanes of a and b in turn. log2(LANES) levels of it add up LANES vectors at once. */
#if LANES == 16
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
#elif LANES == 8
INLINE vf join1(vf a, vf b) {
    return SHUFFLE(a, b, 0, 8, 2, 10, 4, 12, 6, 14) + SHUFFLE(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
}
INLINE vf join2(vf a, vf b) {
    return SHUFFLE(a, b, 0, 1, 8, 9, 4, 5, 12, 13) + SHUFFLE(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
}
INLINE vf join4(vf a, vf b) {
    return SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11) + SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
}
#else
INLINE vf join1(vf a, vf b) { return SHUFFLE(a, b, 0, 4, 2, 6) + SHUFFLE(a, b, 1, 5, 3, 7); }
INLINE vf join2(vf a, vf b) { return SHUFFLE(a, b, 0, 1, 4, 5) + SHUFFLE(a, b, 2, 3, 6, 7); }
#endif

/* Lane i of the result is the sum of v[i]. */
INLINE vf sums_of_each(const vf v[LANES]) {
    vf w[LANES / 2];
    UNROLL
    for (int i = 0; i < LANES / 2; i++) w[i] = join1(v[2 * i], v[2 * i + 1]);
    UNROLL
    for (int i = 0; i < LANES / 4; i++) w[i] = join2(w[2 * i], w[2 * i + 1]);
#if LANES >= 8
    UNROLL
    for (int i = 0; i < LANES / 8; i++) w[i] = join4(w[2 * i], w[2 * i + 1]);
#endif
#if LANES == 16
    w[0] = join8(w[0], w[1]);
#endif
    return w[0];
}

INLINE float sum(vf v) {
    v = join1(v, v);
    v = join2(v, v);
#if LANES >= 8
    v = join4(v, v);
#endif
#if LANES == 16
    v = join8(v, v);
#endif
    return v[0];
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

enum { NONE, RELU, SILU, GELU, GELU_TANH };

INLINE vf activate(vf x, int kind) {
    switch (kind) {
    case RELU: return pick(x > 0.0f, x, splat(0));
    case SILU: return x / (1.0f + vexp(-x));
    case GELU: return 0.5f * x * (1.0f + verf(x * 0.70710678118654752f));
    case GELU_TANH: return 0.5f * x * (1.0f + vtanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    default: return x;
    }
}
#endif
