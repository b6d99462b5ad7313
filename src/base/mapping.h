/* SPDX-License-Identifier: MIT */
/*
 * What this process has mapped where, as the kernel tells it, and the files behind it. Read anew at each call: the answer is old as soon as it is there, since
 * other threads map and unmap. No state, no lock.
 */
#ifndef VITRINE_BASE_MAPPING_H
#define VITRINE_BASE_MAPPING_H

#include <sys/types.h>

#include "base/types.h"

struct mapping {
    uint64_t from, to; /* addresses */
    uint64_t offset;   /* in the file, of `from` */
    dev_t dev;
    ino_t ino; /* 0: no file */
    bool is_shared, is_writeable;
    bool is_special; /* the heap, a stack and the like */
};

/* All mappings, ascending: their number and in *out an array for free(), or -errno. */
int mapping_list(struct mapping **out);
/* The one that holds `address`, or the next above it; NULL if there is none. */
const struct mapping *mapping_find(const struct mapping *list, int n, uint64_t address);
#define MAPPING_FLAGS_BYTES 160
/* Its VmFlags, as the kernel writes them: two letters each. 0 or -errno. */
int mapping_flags(const struct mapping *m, char flags[MAPPING_FLAGS_BYTES]);
/*
 * A new close-on-exec fd of a mapped file, if this process has it open anywhere: for reading and writing if it can be had so. -ENOENT: it has not; or -errno.
 */
int mapping_open_file(const struct mapping *m);

#endif
