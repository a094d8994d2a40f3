/* Threads and scratch memory. Work is cut by index, never stolen; results do not depend on the cut. */
#include "assay.h"
#include <pthread.h>
#include <stdlib.h>

#define MAX_THREADS 64

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER, lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER, done = PTHREAD_COND_INITIALIZER;
static int started, generation, wanted, running;
static void (*job)(void *, int, int);
static void *job_argument;

static void *worker(void *number) {
    int me = (int)(intptr_t)number, seen = 0;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (generation == seen) pthread_cond_wait(&wake, &lock);
        seen = generation;
        if (me >= wanted) continue;
        pthread_mutex_unlock(&lock);
        job(job_argument, me, wanted);
        pthread_mutex_lock(&lock);
        if (--running == 0) pthread_cond_signal(&done);
    }
    return NULL;
}

/* A child of fork() has none of the threads. */
static void forget(void) {
    static const pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
    static const pthread_cond_t c = PTHREAD_COND_INITIALIZER;
    busy = lock = m;
    wake = done = c;
    started = running = 0;
}

void assay_parallel(int threads, void (*fn)(void *, int, int), void *argument) {
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    /* Somebody else has the threads (or there is but one): do it here. */
    if (threads <= 1 || pthread_mutex_trylock(&busy) != 0) { fn(argument, 0, 1); return; }
    pthread_mutex_lock(&lock);
    if (!started) { pthread_atfork(NULL, NULL, forget); started = 1; }
    for (; started < threads; started++) {
        pthread_t t;
        pthread_attr_t detached;
        pthread_attr_init(&detached);
        pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
        int failed = pthread_create(&t, &detached, worker, (void *)(intptr_t)started);
        pthread_attr_destroy(&detached);
        if (failed) break;
    }
    wanted = started < threads ? started : threads;
    job = fn;
    job_argument = argument;
    running = wanted - 1;
    generation++;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
    fn(argument, 0, wanted);
    pthread_mutex_lock(&lock);
    while (running) pthread_cond_wait(&done, &lock);
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&busy);
}

static _Thread_local struct { void *at; size_t size; } scratch[SCRATCH_SLOTS];

void *assay_scratch(int slot, size_t size) {
    if (!scratch[slot].at || scratch[slot].size < size) {
        size_t whole = (size + size / 4 + 4095) / 4096 * 4096;
        void *fresh = aligned_alloc(64, whole);
        if (!fresh) return NULL;
        free(scratch[slot].at);
        scratch[slot].at = fresh;
        scratch[slot].size = whole;
    }
    return scratch[slot].at;
}
