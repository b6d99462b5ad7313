/* SPDX-License-Identifier: MIT */
/*
 * Which stub stands for which of the client's system call instructions. The table that the stubs jump by is a hash table too: a site's place in it is its
 * stub's number. Entries are never taken back. No lock: an entry is claimed by one compare-and-swap.
 */
#include <stdlib.h>
#include <unistd.h>

#include "transport/hosted.h"

#define N_SITES 16384u /* as in hosted_gate.S */
#define SITE_BITS 14
#define STUB_BYTES 8u
#define SYSCALL_BYTES 2u

extern _Atomic uint64_t hosted_sites[N_SITES] __attribute__((visibility("hidden")));
_Atomic uint64_t hosted_sites[N_SITES];

uint64_t hosted_stub_of(uint64_t site)
{
    unsigned at = (unsigned)(site * 0x9e3779b97f4a7c15ull >> (64 - SITE_BITS));
    for (unsigned i = 0; i < N_SITES; i++, at = (at + 1) % N_SITES) {
        uint64_t there = atomic_load_explicit(&hosted_sites[at], memory_order_relaxed);
        if (!there)
            atomic_compare_exchange_strong(&hosted_sites[at], &there, site);
        if (!there || there == site)
            return (uint64_t)(uintptr_t)hosted_stubs + at * STUB_BYTES;
    }
    __builtin_trap(); /* a program that makes system calls from so many places writes its code as it runs */
}

bool hosted_site_fix(greg_t *g)
{
    uint64_t offset = (uint64_t)g[REG_RIP] - (uint64_t)(uintptr_t)hosted_stubs;
    if (offset >= N_SITES * STUB_BYTES)
        return false;
    uint64_t site = atomic_load(&hosted_sites[offset / STUB_BYTES]);
    /* At the stub's first instruction the call is still to be made, or made again. */
    g[REG_RIP] = (greg_t)(offset % STUB_BYTES ? site : site - SYSCALL_BYTES);
    return true;
}
