/* The kernels without Python, for other compilers and under an emulator: a block of each kind beside plain loops in double precision. */
#include "step.c"

#include <stdio.h>

static uint32_t seed = 1;
static float draw(void) {
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / (1 << 24) - 0.5f;
}

static float *drawn(int64_t n) {
    float *p = malloc(n * sizeof(float));
    for (int64_t i = 0; i < n; i++) p[i] = draw();
    return p;
}

/* A map with random weights: plain [n][k], and the same in panels, as floats or as bfloat16. */
typedef struct {
    float *plain;
    map m;
} both;

static both random_map(int64_t n, int64_t k, int size) {
    both b = {drawn(n * k), {NULL, drawn(n), n, k, size}};
    char *weight = calloc((n + PANEL - 1) / PANEL * k * PANEL, size);
    for (int64_t c = 0; c < n; c++)
        for (int64_t i = 0; i < k; i++) {
            char *row = weight + (c / PANEL * k + i) * PANEL * size;
            int64_t vector = c % PANEL / LANES, lane = c % LANES;
            uint32_t bits;
            memcpy(&bits, b.plain + c * k + i, sizeof bits);
            if (size == HALF) { /* cut off to what bfloat16 has */
                uint16_t upper = bits >> 16;
                memcpy(row + (vector / 2 * 2 * LANES + lane * 2 + vector % 2) * HALF, &upper, HALF);
                bits = (uint32_t)upper << 16;
                memcpy(b.plain + c * k + i, &bits, sizeof bits);
            } else
                memcpy(row + c % PANEL * size, &bits, sizeof bits);
        }
    b.m.weight = weight;
    return b;
}

static double worst;
static void compare(double want, float got) {
    double off = fabs(want - got) / (1 + fabs(want));
    if (!(off <= worst)) worst = off;
}

static void check_linear(int64_t n, int64_t k, int64_t rows, int size) {
    both b = random_map(n, k, size);
    float *x = drawn(rows * k), *more = drawn(rows * n), *y = malloc(rows * n * sizeof(float));
    linear(&b.m, rows, x, more, y, SILU, 2, rows % 2);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < n; c++) {
            double s = b.m.bias[c];
            for (int64_t i = 0; i < k; i++) s += (double)x[r * k + i] * b.plain[c * k + i];
            compare(s / (1 + exp(-s)) + more[r * n + c], y[r * n + c]);
        }
}

static void norm_of(const norm *n, int64_t width, const double *x, double *y) {
    double mean = 0, square = 0;
    for (int64_t i = 0; i < width; i++) mean += x[i] / width;
    if (n->kind == RMS_NORM) mean = 0;
    for (int64_t i = 0; i < width; i++) square += (x[i] - mean) * (x[i] - mean) / width;
    for (int64_t i = 0; i < width; i++) y[i] = (x[i] - mean) / sqrt(square + n->eps) * n->weight[i] + (n->bias ? n->bias[i] : 0);
}

static void map_of(const both *b, const double *x, double *y) {
    for (int64_t c = 0; c < b->m.n; c++) {
        y[c] = b->m.bias[c];
        for (int64_t i = 0; i < b->m.k; i++) y[c] += x[i] * b->plain[c * b->m.k + i];
    }
}

static double activated(double x, int kind) {
    if (kind == RELU) return x > 0 ? x : 0;
    if (kind == SILU) return x / (1 + exp(-x));
    if (kind == GELU) return 0.5 * x * (1 + erf(x / sqrt(2)));
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

/* One block over one new column of `rows` rows that hold `held` keys. */
static void check_block(int heads, int kv, int d, int held, int wide, int gated, int side, int kind, int norm_kind, int size) {
    enum { ROWS = 3 };
    int64_t width = heads * d, fused = (heads + 2 * kv) * d, capacity = held + 1, stride = kv * d;
    both qkv = random_map(fused, width, size), out = random_map(width, width, size),
         up = random_map(gated ? 2 * wide : wide, width, size), down = random_map(width, wide, size);
    norm n1 = {drawn(width), norm_kind == LAYER_NORM ? drawn(width) : NULL, 1e-5f, norm_kind}, n2 = n1;
    n2.weight = drawn(width);
    block b = {qkv.m, out.m, up.m, down.m, n1, n2, heads, kv, d, d, kind, gated, side, 1.0f / sqrtf(d)};
    float *keys = drawn(ROWS * capacity * stride), *values = drawn(ROWS * capacity * stride), *x = drawn(ROWS * width);
    float *cosines = drawn(ROWS * d), *sines = drawn(ROWS * d), *y = malloc(ROWS * width * sizeof(float));
    for (int r = 0; r < ROWS; r++) /* tables are (cos, cos) and (-sin, sin) */
        for (int i = 0; i < d / 2; i++) cosines[r * d + d / 2 + i] = cosines[r * d + i], sines[r * d + d / 2 + i] = -sines[r * d + i];
    operation o = {&b, {keys, values, NULL, NULL, capacity, held, 1, cosines, sines}, ATTEND | FEED, 1};
    double spent[3] = {0};
    if (run(&o, 1, ROWS, x, y, NULL, NULL, NULL, 0, 0, 2, side, spent)) worst = INFINITY;
    for (int r = 0; r < ROWS; r++) {
        double entry[width], h[width], all[fused], mixed[width], wider[2 * wide], inner[wide], turned[d];
        for (int i = 0; i < width; i++) entry[i] = x[r * width + i];
        norm_of(&n1, width, entry, h);
        map_of(&qkv, h, all);
        for (int j = 0; j < heads + kv; j++) {
            double *p = all + j * d;
            for (int i = 0; i < d / 2; i++) {
                turned[i] = p[i] * cosines[r * d + i] + p[i + d / 2] * sines[r * d + i];
                turned[i + d / 2] = p[i + d / 2] * cosines[r * d + i + d / 2] + p[i] * sines[r * d + i + d / 2];
            }
            memcpy(p, turned, sizeof turned);
        }
        for (int j = 0; j < heads; j++) {
            double weights[held + 1], total = 0;
            const double *q = all + j * d, *k = all + heads * d + j / (heads / kv) * d, *v = k + kv * d;
            for (int s = 0; s <= held; s++) {
                double score = 0;
                for (int i = 0; i < d; i++)
                    score += q[i] * (s < held ? keys[(r * capacity + s) * stride + j / (heads / kv) * d + i] : k[i]);
                total += weights[s] = exp(score / sqrt(d));
            }
            for (int i = 0; i < d; i++) {
                mixed[j * d + i] = 0;
                for (int s = 0; s <= held; s++)
                    mixed[j * d + i] +=
                        weights[s] / total * (s < held ? values[(r * capacity + s) * stride + j / (heads / kv) * d + i] : v[i]);
            }
        }
        double after[width];
        map_of(&out, mixed, after);
        for (int i = 0; i < width; i++) after[i] += entry[i];
        norm_of(&n2, width, side ? entry : after, h);
        map_of(&up, h, wider);
        for (int i = 0; i < wide; i++) inner[i] = activated(wider[i], kind) * (gated ? wider[wide + i] : 1);
        map_of(&down, inner, h);
        for (int i = 0; i < width; i++) compare(after[i] + h[i], y[r * width + i]);
    }
}

int main(void) {
    for (int size = HALF; size <= (int)sizeof(float); size += HALF) {
        for (int64_t rows = 1; rows <= 14; rows++) check_linear(67, 33, rows, size);
        check_linear(130, 40, 100, size);
        check_block(4, 4, 16, 37, 50, 0, 0, RELU, LAYER_NORM, size);
        check_block(4, 2, 16, 5, 45, 1, 0, SILU, RMS_NORM, size);
        check_block(3, 3, 10, 40, 36, 0, 1, GELU, LAYER_NORM, size);
        check_block(2, 1, 32, 64, 64, 1, 0, GELU_TANH, RMS_NORM, size);
    }
    printf("%s: worst error %.2g\n", isa(), worst);
    return !(worst < 1e-4);
}
