/* SPDX-License-Identifier: MIT */
/*
 * All of a guest's memory, read once from end to end: by its files where it is in files that this process may have, since then pages that nobody touched are
 * known and stay so; else over the socket. For dumps and searches. Used by one thread.
 */
#ifndef VITRINE_LIB_SOURCE_H
#define VITRINE_LIB_SOURCE_H

#include "vitrine/inspect.h"

struct source;

/* NULL and errno. It is of the memory as it is now; vm stays open longer. */
struct source *source_open(struct vitrine_vm *vm);
void source_close(struct source *s);

/* As vitrine_mem_read. */
ssize_t source_read(struct source *s, uint64_t gpa, void *to, size_t bytes);
/* From gpa on, before end: where something else than zeroes may begin; end if nowhere. */
uint64_t source_next(struct source *s, uint64_t gpa, uint64_t end);

#endif
