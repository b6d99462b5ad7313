/* SPDX-License-Identifier: MIT */
/*
 * Memory files: what VM and vCPU fds are made of, and guest RAM that other processes may map.
 */
#ifndef VITRINE_BASE_MEMFD_H
#define VITRINE_BASE_MEMFD_H

#include "base/types.h"

static inline uint64_t page_round_up(uint64_t bytes)
{
    return (bytes + PAGE_OFFSET_MASK) & ~PAGE_OFFSET_MASK;
}

static inline bool page_is_aligned(uint64_t value)
{
    return (value & PAGE_OFFSET_MASK) == 0;
}

/* A close-on-exec memfd of that size, or -errno. Sealed size: nobody can shrink it under a mapping (SIGBUS) or grow it. */
int memfd_create_sealed(const char *name, uint64_t bytes);
/* One whose size may grow but never shrink. */
int memfd_create_growing(const char *name, uint64_t bytes);
/* Shared read-write mapping of a part, *out set on success. -errno. */
int memfd_map(int fd, uint64_t offset, uint64_t bytes, hva_t *out);

#endif
