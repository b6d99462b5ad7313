/* SPDX-License-Identifier: MIT */
/*
 * What the fuzz programs share: batches of random work, each in a child of its own that starts from a seed, until enough was done or one fails. One thread
 * calls; a batch may make threads of its own.
 */
#ifndef VITRINE_TESTS_FUZZ_BATCHES_H
#define VITRINE_TESTS_FUZZ_BATCHES_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

struct batches {
    const char *name;           /* of the one claim in the output */
    const char *what;           /* that a batch counts with batches_count: "calls" */
    unsigned n_fixed;           /* batches when nothing else is asked for; their seeds are fixed */
    unsigned seconds;           /* a batch that takes longer hangs */
    void (*run)(uint64_t seed); /* in the child; returns or exits with 0 if all is well; prints what is not */
};

/*
 * Runs them and prints one TAP line; the exit status. Environment: VITRINE_FUZZ_SECONDS runs so long with random seeds, VITRINE_FUZZ_COUNT until so much is
 * counted, VITRINE_FUZZ_SEED repeats the one batch of this seed.
 */
int batches_run(const struct batches *b);
/* In a child, any thread: so much more was done. */
void batches_count(unsigned n);

/* xorshift64; *state is never 0. */
uint64_t batches_random(uint64_t *state);
/* 0 to n - 1. */
unsigned batches_choose(uint64_t *state, unsigned n);

/*
 * `body` on n threads, with arg, arg + arg_bytes and so on, and a signal to each of them every millisecond, which interrupts what can be interrupted. Returns
 * when all have returned; ends the child if a thread is refused.
 */
#define BATCHES_RACERS_MAX 3u
#define BATCHES_KICK SIGUSR1
void batches_race(void *(*body)(void *), void *arg, size_t arg_bytes, unsigned n);

/* So many bytes, a multiple of a page, with a hole before and behind: what touches more faults. Ends the child if there is no memory. */
uint8_t *batches_room(size_t bytes);

#endif
