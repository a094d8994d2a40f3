/* Threads and scratch memory. Work is cut into as many parts as there are threads; whoever comes first takes the next part, so that a
 * thread that the system has put aside holds nobody up. Results do not depend on the cut, nor on who does what. */
#include "assay.h"
#include <pthread.h>
#include <stdlib.h>

#define MAX_THREADS 64
#define SPIN 2000 /* looks at what is waited for, before a thread sleeps: the next step of a tape is there within microseconds, waking takes longer */
#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() ((void)0)
#endif
#define GET(x) __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define SET(x, value) __atomic_store_n(&(x), value, __ATOMIC_RELEASE)

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER, lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER, done = PTHREAD_COND_INITIALIZER;
static int started, asleep, parts, left; /* parts of the present job, and how many are not finished */
static uint64_t claim;                   /* its number << 32 | its next part */
static void (*job)(void *, int, int);
static void *job_argument;

/* Does parts of job `number` until none is left to take. What is read before a part is claimed may be of another job; the claim then fails. */
static void take_part(uint32_t number) {
    for (;;) {
        uint64_t now = GET(claim);
        void (*fn)(void *, int, int) = GET(job);
        void *argument = GET(job_argument);
        int n = GET(parts);
        if (now >> 32 != number || (uint32_t)now >= (uint32_t)n) return;
        if (!__atomic_compare_exchange_n(&claim, &now, now + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) continue;
        fn(argument, (int)(uint32_t)now, n);
        if (__atomic_sub_fetch(&left, 1, __ATOMIC_ACQ_REL) == 0) {
            pthread_mutex_lock(&lock);
            pthread_cond_signal(&done);
            pthread_mutex_unlock(&lock);
        }
    }
}

static void *worker(void *unused) {
    uint32_t seen = 0;
    (void)unused;
    standard_floats(); /* a thread starts with the flags of the one that made it, which may have only hashed */
    for (;;) {
        for (int i = 0; i < SPIN && GET(claim) >> 32 == seen; i++) PAUSE();
        if (GET(claim) >> 32 == seen) {
            pthread_mutex_lock(&lock);
            asleep++;
            while (GET(claim) >> 32 == seen) pthread_cond_wait(&wake, &lock);
            asleep--;
            pthread_mutex_unlock(&lock);
        }
        seen = (uint32_t)(GET(claim) >> 32);
        take_part(seen);
    }
    return NULL;
}

/* A child of fork() has none of the threads. */
static void forget(void) {
    static const pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
    static const pthread_cond_t c = PTHREAD_COND_INITIALIZER;
    busy = lock = m;
    wake = done = c;
    started = asleep = 0;
    claim = 0;
}

void assay_parallel(int threads, void (*fn)(void *, int, int), void *argument) {
    static int watched;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    /* Somebody else has the threads (or there is but one): do it here. */
    if (threads <= 1 || pthread_mutex_trylock(&busy) != 0) { fn(argument, 0, 1); return; }
    if (!watched) { pthread_atfork(NULL, NULL, forget); watched = 1; }
    for (; started < threads - 1; started++) {
        pthread_t t;
        pthread_attr_t detached;
        pthread_attr_init(&detached);
        pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
        int failed = pthread_create(&t, &detached, worker, NULL);
        pthread_attr_destroy(&detached);
        if (failed) break;
    }
    uint32_t number = (uint32_t)(GET(claim) >> 32) + 2;
    SET(claim, (uint64_t)(number - 1) << 32 | UINT32_MAX); /* nothing can be claimed while the job is written down */
    SET(job, fn);
    SET(job_argument, argument);
    SET(parts, threads);
    SET(left, threads);
    pthread_mutex_lock(&lock);
    SET(claim, (uint64_t)number << 32);
    if (asleep) pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
    take_part(number);
    for (int i = 0; i < SPIN && GET(left); i++) PAUSE();
    if (GET(left)) {
        pthread_mutex_lock(&lock);
        while (GET(left)) pthread_cond_wait(&done, &lock);
        pthread_mutex_unlock(&lock);
    }
    pthread_mutex_unlock(&busy);
}

static _Thread_local struct { void *at; size_t size; } scratch[SCRATCH_SLOTS];
static int64_t scratch_bytes;
static pthread_key_t ends;
static pthread_once_t ends_made = PTHREAD_ONCE_INIT;

/* Of a thread that ends. */
static void free_scratch(void *unused) {
    (void)unused;
    for (int slot = 0; slot < SCRATCH_SLOTS; slot++) {
        free(scratch[slot].at);
        __atomic_sub_fetch(&scratch_bytes, (int64_t)scratch[slot].size, __ATOMIC_RELAXED);
        scratch[slot].at = NULL;
        scratch[slot].size = 0;
    }
}
static void make_ends(void) { pthread_key_create(&ends, free_scratch); }

void *assay_scratch(int slot, size_t size) {
    if (!scratch[slot].at || scratch[slot].size < size) {
        size_t whole = (size + size / 4 + 4095) / 4096 * 4096;
        free(scratch[slot].at); /* first: there are never two of them */
        __atomic_sub_fetch(&scratch_bytes, (int64_t)scratch[slot].size, __ATOMIC_RELAXED);
        scratch[slot].size = 0;
        scratch[slot].at = aligned_alloc(64, whole);
        if (!scratch[slot].at) return NULL;
        pthread_once(&ends_made, make_ends);
        pthread_setspecific(ends, scratch);
        __atomic_add_fetch(&scratch_bytes, (int64_t)whole, __ATOMIC_RELAXED);
        scratch[slot].size = whole;
    }
    return scratch[slot].at;
}

/* Bytes of scratch memory that all threads hold (those of a process before a fork included). */
int64_t assay_scratch_bytes(void) { return __atomic_load_n(&scratch_bytes, __ATOMIC_RELAXED); }
