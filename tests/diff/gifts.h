/* SPDX-License-Identifier: MIT */
/*
 * Data that the tool of --watch gives instructions in place of what memory holds: it spoils what is about to be read and gives what was there. So the result is
 * the bare CPU's only if the instruction got nothing from memory. The tool's thread while the vCPU waits, else the main thread.
 */
#ifndef VITRINE_TESTS_DIFF_GIFTS_H
#define VITRINE_TESTS_DIFF_GIFTS_H

#include "core/watch.h"

void gifts_begin(void);
/* False: nothing is given for this access. */
bool gifts_make(const struct watch_event *e, struct watch_reply *out);
/* Bytes that are spoiled still, and that the bare CPU left as they were, are so again. */
void gifts_undo(const uint8_t *native);
uint64_t gifts_count(void);

#endif
