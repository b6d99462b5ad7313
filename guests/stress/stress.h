/* SPDX-License-Identifier: MIT */
/*
 * Inside the stress program: what a test is and how it says that something is wrong. Each pass of a test runs in a process of its own, so a test may leave
 * anything behind, and a crash or a hang is a failure of that test alone.
 */
#ifndef STRESS_H
#define STRESS_H

#include <stdint.h>

void pass_clock(void);
void pass_compat(void);
void pass_counters(void);
void pass_disk(void);
void pass_exec(void);
void pass_faults(void);
void pass_file(void);
void pass_filter(void);
void pass_float(void);
void pass_fork(void);
void pass_futex(void);
void pass_jit(void);
void pass_jit_threads(void);
void pass_mapping(void);
void pass_pipes(void);
void pass_registers(void);
void pass_segments(void);
void pass_shootdown(void);
void pass_signals(void);
void pass_sleep(void);
void pass_steps(void);
void pass_strings(void);
void pass_threads(void);
void pass_tsc(void);
void pass_watch(void);

/* Ends the pass. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void skip(const char *why);

/* A number that no other pass of this run gets. */
unsigned stress_serial(void);
/* `program --exit N` and `program --echo N` are this program's own small tools for exec. */
extern const char *stress_self;
extern const char *stress_disk;

uint64_t rng_next(uint64_t *state);
uint64_t sum_bytes(const void *data, unsigned long bytes, uint64_t start);
uint64_t now_ns(void);
/* Waits for the child, which must exit with the status. */
void expect_exit(int pid, int status, const char *who);

#endif
