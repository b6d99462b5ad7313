/* SPDX-License-Identifier: MIT */
/*
 * Clocks: never backwards, neither in one thread nor between threads; sleeps not shorter than asked.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "stress.h"

#define THREADS 3u

static struct {
    _Alignas(64) _Atomic uint64_t last;
    uint64_t (*read)(void);
    unsigned rounds;
} k;

static uint64_t read_tsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("lfence\n\trdtsc\n\tlfence" : "=a"(lo), "=d"(hi) : : "memory");
    return (uint64_t)hi << 32 | lo;
}

static uint64_t read_by_call(void)
{
    struct timespec t;
    if (syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t))
        fail("clock_gettime");
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Reads after what another thread read before must not be earlier. */
static void *watch_clock(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < k.rounds; i++) {
        uint64_t last = atomic_load(&k.last), now = k.read();
        if (now < last)
            fail("time goes back by %llu", (unsigned long long)(last - now));
        while (now > last && !atomic_compare_exchange_weak(&k.last, &last, now))
            ;
    }
    return NULL;
}

static void watch(uint64_t (*read_clock)(void), unsigned rounds)
{
    pthread_t t[THREADS];
    atomic_store(&k.last, 0);
    k.read = read_clock;
    k.rounds = rounds;
    for (unsigned i = 0; i < THREADS; i++)
        pthread_create(&t[i], NULL, watch_clock, NULL);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
}

/* The old page of three calls, which kernels emulate by a fault at its address, if they do: "vsyscall=xonly" on the command line. */
static sigjmp_buf no_vsyscall;

static void on_no_vsyscall(int sig)
{
    (void)sig;
    siglongjmp(no_vsyscall, 1);
}

void pass_clock(void)
{
    watch(now_ns, 20000);
    watch(read_by_call, 5000);
    signal(SIGSEGV, on_no_vsyscall);
    time_t a = time(NULL), b = a;
    if (sigsetjmp(no_vsyscall, 1) == 0)
        b = ((time_t(*)(time_t *))0xffffffffff600400ul)(NULL);
    if (b < a || b > a + 60)
        fail("vsyscall: %lld instead of %lld", (long long)b, (long long)a);
}

void pass_tsc(void)
{
    uint64_t last = read_tsc();
    for (unsigned i = 0; i < 20000; i++) {
        uint64_t now = read_tsc();
        if (now < last)
            fail("TSC goes back by %llu", (unsigned long long)(last - now));
        last = now;
    }
    watch(read_tsc, 20000);
}

void pass_sleep(void)
{
    for (unsigned i = 0; i < 20; i++) {
        struct timespec t = { 0, (long)(100000 + i * 300000) };
        uint64_t start = now_ns();
        if (nanosleep(&t, NULL) && errno != EINTR)
            fail("nanosleep: %s", strerror(errno));
        uint64_t took = now_ns() - start;
        if (took < (uint64_t)t.tv_nsec)
            fail("a sleep of %ld ns takes %llu", t.tv_nsec, (unsigned long long)took);
        if (took > 20000000000ull)
            fail("a sleep of %ld ns takes %llu", t.tv_nsec, (unsigned long long)took);
    }
}
