/* SPDX-License-Identifier: MIT */
/*
 * A dump of guest memory under way: what the formats share.
 */
#ifndef VITRINE_LIB_DUMP_H
#define VITRINE_LIB_DUMP_H

#include "vitrine/inspect.h"

#define DUMP_SLOTS_MAX 2048

struct dump {
    struct vitrine_vm *vm;
    int fd;
    int64_t base; /* position of the file where the dump begins, or -1: it cannot seek */
    uint64_t at;  /* bytes from there; what is behind the last written one may be a hole to be */
    bool ends_in_hole;
    struct vitrine_slot slot[DUMP_SLOTS_MAX];
    unsigned n_slots;
    uint64_t done_bytes, all_bytes;
    vitrine_dump_progress progress;
    void *arg;
};

/* All of it. 0 or -1 and errno. */
int dump_write(struct dump *d, const void *from, size_t bytes);

/* dump_elf.c: everything before the memory of the slots. */
int dump_elf_head(struct dump *d);

#endif
