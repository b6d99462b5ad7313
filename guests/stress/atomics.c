/* SPDX-License-Identifier: MIT */
/*
 * Threads and processes that count together: every locked instruction, mutexes and condition variables over futexes.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stress.h"

#define THREADS 3u
#define ROUNDS 20000u

static struct counters {
    _Alignas(64) _Atomic uint64_t add, cas, exchange_sum, bits;
    _Atomic uint32_t add32;
    _Atomic uint16_t add16;
    _Atomic uint8_t add8;
    _Alignas(16) uint64_t pair[2];
    _Alignas(64) uint8_t line[128]; /* a counter at 60: across two lines */
    _Atomic uint64_t token;
} * c;

static void pair_add(uint64_t n)
{
    uint64_t lo = c->pair[0], hi = c->pair[1];
    bool is_done;
    do {
        __asm__ volatile("lock cmpxchg16b %1" : "=@ccz"(is_done), "+m"(c->pair), "+a"(lo), "+d"(hi) : "b"(lo + n), "c"(hi + 3 * n) : "memory");
    } while (!is_done);
}

static void count(unsigned who)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        atomic_fetch_add(&c->add, 1);
        __asm__ volatile("lock incl %0" : "+m"(c->add32) : : "cc");
        __asm__ volatile("lock addw $3, %0" : "+m"(c->add16) : : "cc");
        __asm__ volatile("lock decb %0" : "+m"(c->add8) : : "cc");
        uint64_t old = atomic_load(&c->cas);
        while (!atomic_compare_exchange_weak(&c->cas, &old, old * 3 + 1 - 2 * old))
            ;
        pair_add(1);
        atomic_fetch_xor(&c->bits, 1ull << (who * 8 + i % 8));
        if (i % 64 == 0)
            __asm__ volatile("lock incq 60(%0)" : : "r"(c->line) : "memory", "cc");
        uint64_t mine = (uint64_t)i + 1;
        atomic_fetch_add(&c->exchange_sum, mine - atomic_exchange(&c->token, mine));
    }
}

static void *count_thread(void *arg)
{
    count((unsigned)(uintptr_t)arg);
    return NULL;
}

void pass_counters(void)
{
    pthread_t t[THREADS];
    uint64_t n = (THREADS + 1ull) * ROUNDS, crossing;
    c = mmap(NULL, sizeof *c, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (c == MAP_FAILED)
        fail("mmap");
    pid_t pid = fork();
    if (pid == 0) {
        count(THREADS);
        _exit(0);
    }
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&t[i], NULL, count_thread, (void *)i);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    expect_exit(pid, 0, "counters");
    __builtin_memcpy(&crossing, c->line + 60, 8);
    if (c->add != n || c->add32 != n || c->add16 != (uint16_t)(3 * n) || c->add8 != (uint8_t)-n)
        fail("add: %llu %u %u %u instead of %llu", (unsigned long long)c->add, c->add32, c->add16, c->add8, (unsigned long long)n);
    if (c->cas != n || c->pair[0] != n || c->pair[1] != 3 * n)
        fail("compare and exchange: %llu, pair %llu %llu", (unsigned long long)c->cas, (unsigned long long)c->pair[0], (unsigned long long)c->pair[1]);
    if (c->bits || crossing != (THREADS + 1ull) * ((ROUNDS + 63) / 64))
        fail("bits %llx, across lines %llu", (unsigned long long)c->bits, (unsigned long long)crossing);
    if (c->exchange_sum != c->token)
        fail("exchange: %llu and %llu", (unsigned long long)c->exchange_sum, (unsigned long long)c->token);
}

/* ---- futexes ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t plain; /* under lock */
    unsigned turn;  /* under lock */
    pthread_barrier_t barrier;
    uint64_t per_round[THREADS];
} f = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static void *contend(void *arg)
{
    unsigned who = (unsigned)(uintptr_t)arg;
    for (unsigned i = 0; i < 4000; i++) {
        pthread_mutex_lock(&f.lock);
        f.plain = f.plain + 1;
        pthread_mutex_unlock(&f.lock);
    }
    for (unsigned i = 0; i < 150; i++) {
        pthread_mutex_lock(&f.lock);
        while (f.turn % THREADS != who)
            pthread_cond_wait(&f.changed, &f.lock);
        f.turn++;
        pthread_cond_broadcast(&f.changed);
        pthread_mutex_unlock(&f.lock);
    }
    for (unsigned i = 0; i < 100; i++) {
        f.per_round[who] = i;
        pthread_barrier_wait(&f.barrier);
        for (unsigned k = 0; k < THREADS; k++)
            if (f.per_round[k] != i)
                fail("barrier: thread %u is in round %llu instead of %u", k, (unsigned long long)f.per_round[k], i);
        pthread_barrier_wait(&f.barrier);
    }
    return NULL;
}

void pass_futex(void)
{
    pthread_t t[THREADS];
    pthread_barrier_init(&f.barrier, NULL, THREADS);
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&t[i], NULL, contend, (void *)i);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    if (f.plain != THREADS * 4000 || f.turn != THREADS * 150)
        fail("mutex: %llu, turns %u", (unsigned long long)f.plain, f.turn);
}
