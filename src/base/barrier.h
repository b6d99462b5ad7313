/* SPDX-License-Identifier: MIT */
/*
 * A pair of memory barriers for two sides that pass very unequally often: the side that passes all the time pays nothing, and the other lets the kernel make
 * every CPU pass a barrier that runs the first side's process (membarrier(2)). What barrier_light separates is in order for whoever has called the heavy one
 * in between. Where the kernel does not help, both are real barriers. Any thread, no lock.
 */
#ifndef VITRINE_BASE_BARRIER_H
#define VITRINE_BASE_BARRIER_H

#include <stdbool.h>

/* Before the process's first barrier_light; again is fine. */
void barrier_init(void);

/* Written by barrier_init alone. */
extern bool barrier_is_free;

/* General registers only. */
static inline void barrier_light(void)
{
    if (barrier_is_free)
        __asm__ volatile("" : : : "memory");
    else
        __asm__ volatile("mfence" : : : "memory");
}

/* Against barrier_light of this process's threads. */
void barrier_heavy(void);
/* Against barrier_light of any process for which barrier_is_free; false: this process may not ask for it. */
bool barrier_heavy_for_all(void);

#endif
