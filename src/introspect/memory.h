/* SPDX-License-Identifier: MIT */
/*
 * Guest memory for tools: copies of any size that say how far they got, and the list of slots. Any thread.
 */
#ifndef VITRINE_INTROSPECT_MEMORY_H
#define VITRINE_INTROSPECT_MEMORY_H

#include <sys/types.h>

#include "core/memslot.h"

struct vm;

/* Bytes copied, fewer than asked if memory ends; -EFAULT there is none at gpa. */
ssize_t look_memory_read(struct vm *vm, gpa_t gpa, void *to, size_t bytes);
ssize_t look_memory_write(struct vm *vm, gpa_t gpa, const void *from, size_t bytes);

/* Up to n slots of all address spaces to `out` (dirty is NULL in the copies): how many there are. */
unsigned look_memory_slots(struct vm *vm, struct memslot *out, unsigned n);
/* Where the last slot of SPACE_NORMAL ends. */
gpa_t look_memory_end(struct vm *vm);
/* The slot of SPACE_NORMAL that holds gpa (dirty is NULL in the copy); false: none does. */
bool look_memory_slot(struct vm *vm, gpa_t gpa, struct memslot *out);

#endif
