/* SPDX-License-Identifier: MIT */
/*
 * A VM for fuzz programs of fronts: one vCPU in real mode that counts in its memory, run by a thread of its own whatever its runs end with. One thread calls.
 */
#ifndef VITRINE_TESTS_FUZZ_COUNTER_H
#define VITRINE_TESTS_FUZZ_COUNTER_H

/* In this process; its number is 1. Exits if it cannot. */
void counter_create(void);
void counter_start(void);
void counter_stop(void);
/* While it is stopped: gives it its code and registers back, and returns when it counts. A guest that stays held ends as a batch that hangs. */
void counter_must_count(void);
void counter_destroy(void);

#endif
