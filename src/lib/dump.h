/* SPDX-License-Identifier: MIT */
/*
 * A dump of guest memory under way: what the formats share.
 */
#ifndef VITRINE_LIB_DUMP_H
#define VITRINE_LIB_DUMP_H

#include "vitrine/inspect.h"

#define DUMP_SLOTS_MAX 2048
#define DUMP_VCPUS_MAX 64
#define DUMP_RUNS_MAX 55000u /* program headers are counted in 16 bits */
#define DUMP_PAGE_BYTES 4096u

/* Memory that is contiguous for the guest and in the file. */
struct dump_run {
    uint64_t gva, gpa, bytes;
    uint64_t offset; /* from where the first slot's memory begins in the file */
};

struct dump_map {
    struct dump_run *run;
    unsigned n, n_room;
    bool is_identity; /* there is no paging: linear addresses are physical */
};

struct dump {
    struct vitrine_vm *vm;
    struct source *source;
    int fd;
    int64_t base; /* position of the file where the dump begins, or -1: it cannot seek */
    uint64_t at;  /* bytes from there; what is behind the last written one may be a hole to be */
    bool ends_in_hole;
    struct vitrine_slot slot[DUMP_SLOTS_MAX];
    unsigned n_slots;
    uint64_t done_bytes, all_bytes;
    vitrine_dump_progress progress;
    void *arg;
    bool has_kernel_facts;                 /* ELF: they were found */
    uint64_t kernel_facts_at;              /* where their note is in the file */
    uint8_t kernel_facts[DUMP_PAGE_BYTES]; /* what Linux tells dumps about itself (VMCOREINFO) */
};

/* All of it. 0 or -1 and errno. */
int dump_write(struct dump *d, const void *from, size_t bytes);

/* dump_elf.c: everything before the memory of the slots, but what Linux tells of itself if the file can seek: that is filled in when the pages went by. */
int dump_elf_head(struct dump *d);
void dump_elf_look(struct dump *d, const uint8_t *page);
int dump_elf_end(struct dump *d);

/*
 * dump_map.c: what the page tables of a vCPU in the kernel map, or of the first one, as far as it is memory of the slots; neighbours are joined. Then what of
 * the slots is mapped nowhere, at address 0. -1 and errno; the caller frees map->run, also then.
 */
int dump_map_make(struct dump *d, struct dump_map *map);

/* dump_notes.c: a note segment, with room for kernel_facts at *facts_at. NULL and errno; the caller frees it. */
uint8_t *dump_notes_make(struct dump *d, size_t *bytes, size_t *facts_at);
/* The note of kernel_facts, which is as large whether there are some or not. */
size_t dump_notes_facts_bytes(void);
void dump_notes_facts(const struct dump *d, uint8_t *note);

#endif
