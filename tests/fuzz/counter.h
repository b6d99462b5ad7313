/* SPDX-License-Identifier: MIT */
/*
 * A VM for fuzz programs of fronts: one vCPU in real mode that counts in its memory, run by a thread of its own whatever its runs end with. One thread calls.
 */
#ifndef VITRINE_TESTS_FUZZ_COUNTER_H
#define VITRINE_TESTS_FUZZ_COUNTER_H

/* In this process; its number is 1. Exits if it cannot. */
void counter_create(void);
/*
 * Instead: its guest does again and again what introspection can be told of (writes of CR0 and MSR 0x174, CPUID, VMCALL of an agent, LIDT, INT3, strings) and
 * keeps one number in several pages, COUNTER_PAGES, by different instructions; where they differ it counts an error.
 */
#define COUNTER_FIRST_PAGE 8
#define COUNTER_PAGES 6
void counter_create_summing(void);
/* While it is stopped: it made no error and goes on where it was, without one. */
void counter_must_sum(void);
void counter_start(void);
void counter_stop(void);
/* While it is stopped: gives it its code and registers back, and returns when it counts. A guest that stays held ends as a batch that hangs. */
void counter_must_count(void);
void counter_destroy(void);

#endif
