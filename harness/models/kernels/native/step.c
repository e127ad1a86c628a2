/* A decode step's blocks on a CPU, one or a few columns per row: what `Block.attend` and `Block.feed` compute, a whole plan in one call, on
 * weights stored in panels as float32 or bfloat16. Everything else is float32. A row's numbers do not depend on its batch (maps.h). Called through ctypes (__init__.py) with pointers
 * that it has checked.
 */
#include "attention.h"
#include "singles.h"

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

/* What a plan's phases work on. */
static struct {
    const operation *operations;
    int64_t count, rows, all, width, span; /* all: columns of all rows */
    float *out, *entry, *normed, *wide, *inner, *scores, *alone, *kept;
    const float *given;
    const uint8_t *mask;
    int64_t mask_row, mask_column, scores_each, alone_each;
    double *spent, last;
} plan;

enum { SCALE, KEEP, ENTRY, ATTENTION_NORM, QKV, MIX, OUT, FEED_NORM, UP, GATE, DOWN, KEYS, KEEP_KEYS };

static const float *entry_of(const operation *o) {
    if (!o->block->side_by_side) return plan.out;
    if ((o->what & ATTEND) && (o->what & FEED)) return plan.entry;
    return plan.given ? plan.given : plan.out;
}

/* Rows of x under a norm: as an earlier phase made them, or, where waiting for one would cost more, each thread's for itself. */
static const float *normed_rows(const norm *n, const float *x, uint32_t turn, int me) {
    static struct {
        _Alignas(FAR) uint32_t turn;
    } made[MOST];
    if (plan.all * plan.width > ALONE) return plan.normed;
    float *mine = plan.alone + me * plan.alone_each;
    if (made[me].turn != turn) {
        for (int64_t r = 0; r < plan.all; r++) normalise(n, plan.width, x + r * plan.width, mine + r * plan.width);
        made[me].turn = turn;
    }
    return mine;
}

/* Keys and values alone of a block: the map to them. (heads * d) must be whole panels. */
static map keys_of(const block *b) {
    int64_t inner = (int64_t)b->heads * b->head_dim, k = b->qkv.k;
    return (map){b->qkv.weight + inner * k * b->qkv.size, b->qkv.bias ? b->qkv.bias + inner : NULL,
                 2 * (int64_t)b->kv_heads * b->head_dim, k, b->qkv.size};
}

/* Attention of (row, key head) pairs, heads of one row together as far as the first-level cache goes. */
static void mix_heads(const operation *o, int64_t first, int64_t end, int me) {
    const block *b = o->block;
    const target *t = &o->target;
    int size = b->head_dim, group = b->heads / b->kv_heads;
    int64_t fused = b->qkv.n, inner = (int64_t)b->heads * size, stride = (int64_t)b->kv_heads * size;
    int64_t together = TOGETHER / size > 0 ? TOGETHER / size : 1;
    float *qkv = plan.wide, *scores = plan.scores + me * plan.scores_each;
    for (int64_t task = first, heads; task < end; task += heads) {
        int64_t row = task / b->kv_heads, head = task % b->kv_heads;
        heads = b->kv_heads - head < end - task ? b->kv_heads - head : end - task;
        heads = heads < together ? heads : together;
        for (int64_t c = 0; c < t->count; c++) {
            float *k = qkv + (row * t->count + c) * fused + inner + head * size;
            remember(b, t, row, c, head, heads, k, k + stride);
        }
        int64_t from = (t->places ? t->places[row] : row) * t->capacity * stride + head * size;
        const float *after = task + heads < end && !t->places ? t->keys + from + t->capacity * stride : NULL;
        for (int64_t c = 0; c < t->count; c++) {
            int64_t at = row * t->count + c;
            float *q = qkv + at * fused + head * group * size;
            for (int64_t h = 0; b->rotary && h < heads * group; h++)
                turn(q + h * size, b->rotary, t->cosines + at * b->rotary, t->sines + at * b->rotary);
            attend_row(q, t->keys + from, t->values + from, stride, column_of(t, row) + t->count, size, (int)heads, group, b->scale,
                       plan.mask ? plan.mask + row * plan.mask_row + c * plan.mask_column : NULL, scores, plan.span, after,
                       plan.inner + at * inner + head * group * size);
        }
    }
}

/* hidden = activation(gate) * up, a vector of columns of a row for each item. */
static void gate(const block *b, int64_t first, int64_t end) {
    int64_t wide = b->up.n, inner = b->down.k, lanes = (inner + LANES - 1) / LANES;
    for (int64_t task = first; task < end; task++) {
        int64_t row = task / lanes, at = task % lanes * LANES, count = inner - at < LANES ? inner - at : LANES;
        float gate[LANES] = {0}, times[LANES] = {0};
        memcpy(gate, plan.wide + row * wide + at, count * sizeof(float));
        memcpy(times, plan.wide + row * wide + inner + at, count * sizeof(float));
        store(gate, activate(load(gate), b->activation) * load(times));
        memcpy(plan.inner + row * inner + at, gate, count * sizeof(float));
    }
}

static void work(const phase *p, uint32_t turn, int64_t first, int64_t end, int me) {
    int what = p->what;
    if (what >= SINGLE_MAP) {
        work_alone(what, first, end, me);
        return;
    }
    const operation *o = plan.operations + p->operation;
    const block *b = o->block;
    const target *t = &o->target;
    int64_t width = plan.width, stride = (int64_t)b->kv_heads * b->head_dim;
    const norm *n = what == FEED_NORM || what == UP ? &b->feed_norm : &b->attention_norm;
    const float *x = what == FEED_NORM || what == UP ? entry_of(o) : plan.out;
    map kv;
    switch (what) {
    case SCALE:
        for (int64_t at = first * width; at < end * width; at++) plan.out[at] *= (float)o->factor;
        break;
    case KEEP: memcpy(plan.kept + first * width, plan.out + first * width, (end - first) * width * sizeof(float)); break;
    case ENTRY: memcpy(plan.entry + first * width, plan.out + first * width, (end - first) * width * sizeof(float)); break;
    case ATTENTION_NORM:
    case FEED_NORM:
        for (int64_t r = first; r < end; r++) normalise(n, width, x + r * width, plan.normed + r * width);
        break;
    case QKV: apply(&b->qkv, plan.all, normed_rows(n, x, turn, me), NULL, plan.wide, NONE, first, end); break;
    case MIX: mix_heads(o, first, end, me); break;
    case OUT: apply(&b->out, plan.all, plan.inner, plan.out, plan.out, NONE, first, end); break;
    case UP: apply(&b->up, plan.all, normed_rows(n, x, turn, me), NULL, plan.wide, b->gated ? NONE : b->activation, first, end); break;
    case GATE: gate(b, first, end); break;
    case DOWN: apply(&b->down, plan.all, b->gated ? plan.inner : plan.wide, plan.out, plan.out, NONE, first, end); break;
    case KEYS:
        kv = keys_of(b);
        apply(&kv, plan.all, normed_rows(n, x, turn, me), NULL, plan.wide, NONE, first, end);
        break;
    case KEEP_KEYS:
        for (int64_t at = first; at < end; at++)
            remember(b, t, at / t->count, at % t->count, 0, b->kv_heads, plan.wide + at * 2 * stride, plan.wide + at * 2 * stride + stride);
        break;
    }
}

static void passed(const phase *p) {
    int ends = p->what == OUT ? 0 : p->what == DOWN ? 1 : p->what == KEEP_KEYS ? 2 : -1;
    if (!plan.spent || ends < 0) return;
    double at = now();
    plan.spent[3 * p->operation + ends] += at - plan.last;
    plan.last = at;
}

/* The phases of an operation; a phase more for norms where threads do not each make them. */
static phase *put_operation(phase *p, int64_t at) {
    const operation *o = plan.operations + at;
    const block *b = o->block;
    int64_t all = plan.all, inner = b->down.k, pairs = plan.rows * b->kv_heads;
    int norms = all * plan.width > ALONE;
    if (o->factor != 1) p = put_some(p, SCALE, at, all);
    if (plan.kept && at == plan.count - 1) p = put_some(p, KEEP, at, all);
    if (b->side_by_side && (o->what & ATTEND) && (o->what & FEED)) p = put_some(p, ENTRY, at, all);
    if (o->what & ATTEND) {
        if (norms) p = put_some(p, ATTENTION_NORM, at, all);
        p = put_map(p, QKV, at, &b->qkv, all);
        p = put_some(p, MIX, at, pairs);
        p = put_map(p, OUT, at, &b->out, all);
    }
    if (o->what & FEED) {
        if (norms) p = put_some(p, FEED_NORM, at, all);
        p = put_map(p, UP, at, &b->up, all);
        if (b->gated) p = put_some(p, GATE, at, all * ((inner + LANES - 1) / LANES));
        p = put_map(p, DOWN, at, &b->down, all);
    }
    if (o->what & FILL) {
        map kv = keys_of(b);
        if (norms) p = put_some(p, ATTENTION_NORM, at, all);
        p = put_map(p, KEYS, at, &kv, all);
        p = put_some(p, KEEP_KEYS, at, all);
    }
    return p;
}
#define PHASES 12 /* of an operation at most */

/* A plan's blocks in turn: x [rows, count, D] to out, which may be x; `given` is what the feed-forward sublayer of a block that runs its
 * sublayers side by side reads where it is all that is asked for, else NULL. What the last operation reads goes to `kept` too, unless that
 * is NULL. mask hides keys, `mask_row` elements between rows and `mask_column` between columns, or is NULL for a single column. Where `spent`
 * [operations][3] is given, the seconds of each block's attention, feeding and filling are added to it. `threads` work, this library's own (`ours`) or OpenMP's. Returns 0, or 1 without memory. */
int run(const operation *operations, int64_t count, int64_t rows, const float *x, float *out, const float *given, float *kept, const uint8_t *mask,
        int64_t mask_row, int64_t mask_column, int threads, int ours, double *spent) {
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
    int64_t apart = FAR / sizeof(float), scores = (span * heads + apart - 1) / apart * apart;
    int64_t alone = all * width <= ALONE ? (all * width + apart - 1) / apart * apart : 0;
    phase *first = begin(PHASES * count, threads), *last = first;
    float *found = first ? reserve(all * (width * (keep ? 2 : 1) + wide + inner) + apart + job.team * (scores + alone)) : NULL;
    if (!found) return 1;
    plan.operations = operations, plan.count = count, plan.rows = rows, plan.all = all, plan.width = width, plan.span = span;
    plan.out = out, plan.given = given, plan.kept = kept, plan.mask = mask, plan.mask_row = mask_row, plan.mask_column = mask_column;
    plan.normed = found, plan.wide = found + all * width, plan.inner = plan.wide + all * wide;
    plan.entry = plan.inner + all * inner;
    plan.scores = found + (all * (width * (keep ? 2 : 1) + wide + inner) + apart - 1) / apart * apart;
    plan.alone = plan.scores + job.team * scores, plan.scores_each = scores, plan.alone_each = alone;
    plan.spent = spent, plan.last = spent ? now() : 0;
    if (out != x) memcpy(out, x, all * width * sizeof(float));
    for (int64_t i = 0; i < count; i++) last = put_operation(last, i);
    finish_job(last - first, ours);
    plan.spent = NULL;
    return 0;
}

int panel_columns(void) { return PANEL; }

int lanes(void) { return LANES; }

/* End the caller's idle OpenMP threads, which torch's calls left behind: they would keep cores busy. */
void end_idle_threads(void) { omp_pause_resource_all(omp_pause_soft); }

/* Threads of this library's own that there are beside who calls. */
int threads_of_own(void) { return own; }

const char *isa(void) { return ISA; }
