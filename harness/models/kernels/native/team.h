/* Threads that share work by taking pieces of it, and never wait for a thread that holds none.
 *
 * A job is a list of phases, each of some items, each begun when the one before is finished. Every thread walks through all phases. It takes
 * pieces of its own part of a phase first and then whatever is left of the others', so that a thread which the system keeps from running
 * (it shares its core with another program) is done without; only a piece that it holds is waited for. Who waits long sleeps, so that its
 * core is free for whoever it waits for. Results do not depend on who takes what: each is made whole by one piece.
 *
 * Two kinds of threads serve: this file's own, between whose phases nobody must have run, and those of the OpenMP runtime, which torch uses
 * too. Torch's keep their core busy for milliseconds after they have worked; where torch's calls and jobs alternate, they must serve both. */
#ifndef TEAM_H
#define TEAM_H
#include <omp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "vectors.h"

#define MOST 256         /* threads */
#ifndef PATIENCE
#define PATIENCE 50e-6   /* seconds until who waits for a piece sleeps */
#endif
#ifndef IDLE
#define IDLE 300e-6      /* seconds until who waits for a job sleeps: longer than what lies between two calls of a decode step */
#endif
#define FAR 64           /* bytes apart that what different threads write must lie */
#define MANY 1024        /* pieces of a part at most */

/* `items` of a phase, `grain` of which are taken at a time. The rest says what they are. */
typedef struct {
    int32_t items, grain, what, operation;
} phase;

/* What one thread does of a phase: items `first` to `end` - 1. `turn` is the number of the phase, no other's. */
static void work(const phase *p, uint32_t turn, int64_t first, int64_t end, int me);

/* Called by the thread that began the job when a phase is finished. */
static void passed(const phase *p);

/* The state of the part of a phase that is a thread's own: turn of the phase, pieces taken, pieces finished. */
typedef struct {
    _Alignas(FAR) _Atomic uint64_t state;
} part;

static part parts[MOST];
static struct {
    _Atomic(phase *) phases;  /* never freed, but left behind for larger room: a thread that comes late may read them */
    _Atomic uint64_t current; /* turn of the first phase, number of phases and of threads; changes when a job begins */
    int64_t room;
    uint32_t next; /* turn that no phase of a job has; the next job's turns follow */
    int32_t team;
} job;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t begun = PTHREAD_COND_INITIALIZER, finished = PTHREAD_COND_INITIALIZER;
static _Atomic int32_t idle, waiting; /* threads asleep */
static int32_t own;                   /* threads of this file's, beside who calls */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

INLINE void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("yield");
#endif
}

/* How far the turn of a state is ahead of `turn`. */
INLINE int32_t ahead_of(uint64_t state, uint32_t turn) { return (int32_t)((uint32_t)(state >> 32) - turn); }

/* First item of a part of `items`. */
INLINE int32_t part_of(int32_t items, int32_t who, int32_t team) { return (int32_t)((int64_t)items * who / team); }

/* Take pieces of a part, [first, end), until none is left. Returns 0, or how many phases the others are ahead. */
static int32_t take(part *of, uint32_t turn, const phase *p, int32_t first, int32_t end, int32_t grain, int me) {
    uint32_t pieces = (end - first + grain - 1) / grain, held = 0;
    uint64_t state = atomic_load(&of->state);
    for (;;) {
        int32_t ahead = ahead_of(state, turn);
        if (ahead > 0) return ahead;
        uint32_t taken = ahead < 0 ? 0 : state >> 16 & 0xffff, done = ahead < 0 ? 0 : state & 0xffff, more = taken < pieces;
        if (!more && !held) return 0;
        uint64_t next = (uint64_t)turn << 32 | (taken + more) << 16 | (done + held);
        if (!atomic_compare_exchange_strong(&of->state, &state, next)) continue;
        if (held && done + 1 == pieces && atomic_load(&waiting)) {
            pthread_mutex_lock(&lock);
            pthread_cond_broadcast(&finished);
            pthread_mutex_unlock(&lock);
        }
        if (!more) return 0;
        int64_t at = first + (int64_t)taken * grain;
        work(p, turn, at, at + grain < end ? at + grain : end, me);
        held = 1;
        state = next;
    }
}

INLINE int is_finished(part *of, uint32_t turn, uint32_t pieces) {
    uint64_t state = atomic_load_explicit(&of->state, memory_order_acquire);
    int32_t ahead = ahead_of(state, turn);
    return ahead > 0 || (ahead == 0 && (state & 0xffff) == pieces);
}

static void await(part *of, uint32_t turn, uint32_t pieces) {
    double since = 0;
    for (int64_t i = 1; !is_finished(of, turn, pieces); i++) {
        pause_briefly();
        if (i % 32) continue;
        if (!since) since = now();
        if (now() - since < PATIENCE) continue;
        pthread_mutex_lock(&lock);
        atomic_fetch_add(&waiting, 1);
        while (!is_finished(of, turn, pieces)) pthread_cond_wait(&finished, &lock);
        atomic_fetch_sub(&waiting, 1);
        pthread_mutex_unlock(&lock);
    }
}

/* Go through the phases of a job, or of what is left of it, as thread `me`; `ends`: and wait for the last of them. A thread that comes late finds
 * every part ahead of its turns, whatever job's phases it reads, and takes nothing. */
static void walk(uint64_t which, int me, int ends) {
    uint32_t turn = which >> 32;
    int32_t count = which >> 8 & 0xffffff, team = (which & 0xff) + 1, ahead;
    const phase *p = atomic_load(&job.phases);
    for (int32_t i = 0; i < count; i += ahead, turn += ahead) {
        int32_t items = __atomic_load_n(&p[i].items, __ATOMIC_RELAXED), grain = __atomic_load_n(&p[i].grain, __ATOMIC_RELAXED);
        ahead = 0;
        for (int32_t v = 0; v < team && !ahead; v++) {
            int32_t who = me + v < team ? me + v : me + v - team;
            int32_t first = part_of(items, who, team), end = part_of(items, who + 1, team);
            if (first < end) ahead = take(parts + who, turn, p + i, first, end, grain, me);
        }
        if (!ahead) {
            for (int32_t who = 0; who < team && (ends || i + 1 < count); who++) {
                int32_t first = part_of(items, who, team), end = part_of(items, who + 1, team);
                if (first < end) await(parts + who, turn, (end - first + grain - 1) / grain);
            }
            ahead = 1;
        }
        for (int32_t done = 0; !me && done < ahead && i + done < count; done++) passed(p + i + done);
    }
}

/* A thread of this file's: walks through every job of a team that it belongs to. */
static void *serve(void *number) {
    int me = (int)(intptr_t)number;
    uint64_t last = 0, which;
    for (;;) {
        double since = now();
        for (int64_t i = 1; (which = atomic_load(&job.current)) == last; i++) {
            pause_briefly();
            if (i % 32 || (me <= (int)(last & 0xff) && now() - since < IDLE)) continue;
            pthread_mutex_lock(&lock);
            atomic_fetch_add(&idle, 1);
            while (atomic_load(&job.current) == last) pthread_cond_wait(&begun, &lock);
            atomic_fetch_sub(&idle, 1);
            pthread_mutex_unlock(&lock);
        }
        last = which;
        if (me <= (int)(which & 0xff)) walk(which, me, 0);
    }
    return NULL;
}

/* In a forked process there is only the thread that forked. */
static void forget_threads(void) {
    own = 0;
    atomic_store(&idle, 0);
    atomic_store(&waiting, 0);
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&begun, NULL);
    pthread_cond_init(&finished, NULL);
}

/* Have `wanted` threads beside who calls, or as many as the system grants. */
static void hire(int32_t wanted) {
    static int watched;
    if (own >= wanted) return;
    if (!watched) watched = !pthread_atfork(NULL, NULL, forget_threads);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's own threads */
    for (pthread_t made; own < wanted && !pthread_create(&made, NULL, serve, (void *)(intptr_t)(own + 1)); own++) pthread_detach(made);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Begin a job of up to `count` phases for `threads` threads: where they are to be written; NULL without memory. From here on nobody takes
 * anything of the last. */
static phase *begin(int64_t count, int threads) {
    static int32_t used;
    job.team = threads < 1 ? 1 : threads < MOST ? threads : MOST;
    if (job.team > used) used = job.team;
    for (int32_t i = 0; i < used; i++) atomic_store(&parts[i].state, (uint64_t)job.next << 32);
    if (count > job.room) {
        phase *room = count < 1 << 23 ? malloc(2 * count * sizeof(phase)) : NULL;
        if (!room) return NULL;
        job.room = 2 * count;
        atomic_store(&job.phases, room);
    }
    return atomic_load(&job.phases);
}

static void put(phase *p, int what, int64_t operation, int64_t items, int64_t grain) {
    int64_t least = (items / job.team + MANY) / MANY; /* no more pieces than a state can count */
    if (grain < least) grain = least;
    p->what = what, p->operation = (int32_t)operation;
    __atomic_store_n(&p->items, (int32_t)items, __ATOMIC_RELAXED);
    __atomic_store_n(&p->grain, (int32_t)grain, __ATOMIC_RELAXED);
}

/* Do the phases that were put, with this file's own threads or OpenMP's. */
static void finish_job(int64_t count, int ours) {
    uint64_t which = (uint64_t)(job.next + 1) << 32 | count << 8 | (job.team - 1);
    if (job.team < 2) {
        phase *p = atomic_load(&job.phases);
        for (int64_t i = 0; i < count; i++) {
            work(p + i, job.next + 1 + i, 0, p[i].items, 0);
            passed(p + i);
        }
    } else if (ours) {
        hire(job.team - 1);
        atomic_store(&job.current, which);
        if (atomic_load(&idle)) {
            pthread_mutex_lock(&lock);
            pthread_cond_broadcast(&begun);
            pthread_mutex_unlock(&lock);
        }
        walk(which, 0, 1);
    } else {
#pragma omp parallel num_threads(job.team)
        walk(which, omp_get_thread_num(), 0); /* they wait for each other at the end of this */
    }
    job.next += count + 1;
}
#endif
