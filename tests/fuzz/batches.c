/* SPDX-License-Identifier: MIT */
/* Batches in children, with a limit of time for each: see batches.h. The count is in memory shared with the children. */
#include "batches.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static _Atomic uint64_t *counted;

uint64_t batches_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

unsigned batches_choose(uint64_t *state, unsigned n)
{
    return (unsigned)(batches_random(state) >> 20) % n;
}

void batches_count(unsigned n)
{
    atomic_fetch_add_explicit(counted, n, memory_order_relaxed);
}

/* The wait status; of a child that hangs, that of its end by SIGABRT, so that a core tells where. */
static int child_wait(pid_t child, unsigned seconds)
{
    int status, fd = pidfd_open(child, 0);
    struct pollfd ended = { .fd = fd, .events = POLLIN };
    if (fd < 0 || poll(&ended, 1, (int)seconds * 1000) == 0) {
        printf("# a batch takes longer than %u s\n", seconds);
        kill(child, SIGABRT);
    }
    if (fd >= 0)
        close(fd);
    return waitpid(child, &status, 0) == child ? status : -1;
}

static int batch_run(const struct batches *b, uint64_t seed)
{
    fflush(stdout);
    pid_t child = fork();
    if (child < 0)
        return -1;
    if (child)
        return child_wait(child, b->seconds);
    b->run(seed * 0x9e3779b97f4a7c15 | 1);
    exit(0);
}

int batches_run(const struct batches *b)
{
    const char *seconds = getenv("VITRINE_FUZZ_SECONDS"), *count = getenv("VITRINE_FUZZ_COUNT"), *only = getenv("VITRINE_FUZZ_SEED");
    time_t end = time(NULL) + (seconds ? atoi(seconds) : 0);
    uint64_t wanted = count ? strtoull(count, NULL, 0) : 0;
    unsigned n = 0;
    bool goes_on;
    counted = mmap(NULL, sizeof *counted, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counted == MAP_FAILED)
        return 1;
    do {
        uint64_t seed = n + 1;
        if (only)
            seed = strtoull(only, NULL, 0);
        else if ((seconds || count) && getrandom(&seed, sizeof seed, 0) != sizeof seed)
            return 1;
        int status = batch_run(b, seed);
        n++;
        if (status) {
            printf("# status %#x; repeat with VITRINE_FUZZ_SEED=%#llx\nnot ok - %s\n", (unsigned)status, (unsigned long long)seed, b->name);
            return 1;
        }
        goes_on = seconds ? time(NULL) < end : count ? *counted < wanted : n < b->n_fixed;
    } while (!only && goes_on);
    printf("# %u batches, %llu %s\nok - %s\n", n, (unsigned long long)*counted, b->what, b->name);
    return 0;
}

static void on_kick(int sig)
{
    (void)sig;
}

void batches_race(void *(*body)(void *), void *arg, size_t arg_bytes, unsigned n)
{
    const struct sigaction kick = { .sa_handler = on_kick };
    pthread_t thread[BATCHES_RACERS_MAX];
    sigaction(BATCHES_KICK, &kick, NULL);
    for (unsigned i = 0; i < n; i++)
        if (pthread_create(&thread[i], NULL, body, (char *)arg + i * arg_bytes))
            exit(1);
    while (n) {
        if (pthread_tryjoin_np(thread[n - 1], NULL) == 0)
            n--;
        for (unsigned i = 0; i < n; i++)
            pthread_kill(thread[i], BATCHES_KICK);
        usleep(1000);
    }
}

uint8_t *batches_room(size_t bytes)
{
    uint8_t *room = mmap(NULL, bytes + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED || mprotect(room + 4096, bytes, PROT_READ | PROT_WRITE))
        exit(1);
    return room + 4096;
}
