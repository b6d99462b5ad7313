/* SPDX-License-Identifier: MIT */
/*
 * Linear to physical translation for tools: says why it fails, and changes nothing. The engine's own walker is for the guest. Any thread.
 */
#ifndef VITRINE_INTROSPECT_WALK_H
#define VITRINE_INTROSPECT_WALK_H

#include "base/types.h"

struct vm;
struct vcpu;

enum look_walk_result { WALK_OK, WALK_NOT_CANONICAL, WALK_NOT_PRESENT, WALK_RESERVED, WALK_NO_MEMORY };

/* What of a vCPU's state decides a translation. */
struct look_paging {
    uint64_t cr0, cr3, cr4, efer, pdpte[4];
    unsigned space; /* core/memslot.h */
    unsigned view;  /* core/view.h: tables are where it has them */
};

struct look_walk {
    enum look_walk_result result;
    unsigned level; /* of the last entry read: 1 page table to 5 PML5; 0 without paging */
    uint64_t entry;
    gpa_t gpa;           /* WALK_OK */
    uint64_t page_bytes; /* WALK_OK */
    bool is_writeable, is_user, is_executable;
};

/* The vCPU stands still (core/hold.h). */
void look_paging_of(const struct vcpu *v, struct look_paging *out);
void look_walk(struct vm *vm, const struct look_paging *p, gva_t gva, struct look_walk *out);

#endif
