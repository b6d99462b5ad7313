/* SPDX-License-Identifier: MIT */
/*
 * Makes memory of the client's that other processes cannot map into memory that they can: private anonymous pages become pages of a memfd, at the same
 * addresses, with the same contents; pages that nobody touched stay untouched. All of it is in one file of this process, each page at the offset that was its
 * address. From then on the client's calls about that memory have to come by here, so it is off until a transport that sees them switches it on. Any thread;
 * one lock, and none while there is no such memory.
 */
#ifndef VITRINE_BASE_SHARED_H
#define VITRINE_BASE_SHARED_H

#include "base/types.h"

/* Once, before the client has threads. */
void shared_enable(void);

/*
 * Memory that becomes the guest's, before the guest can run on it: what can be made shareable is. Nobody else may write to it during the call. What cannot be
 * stays as it is, and is not tried again while it is mapped: then it may be in use.
 */
void shared_make(const void *at, uint64_t bytes);

/* ---- the client's calls ---- */

/* False: none of the calls below has anything to do. Async-signal-safe. */
bool shared_is_used(void);
/* True if something was decided about some of it. */
bool shared_has(const void *at, uint64_t bytes);
/* As MADV_DONTNEED does it for private memory: zeroes, to all who have it mapped. What is not ours gets `advice`. 0 or -errno. */
int shared_discard(void *at, uint64_t bytes, int advice);
/* Something else is there now, or nothing: the pages are given back. */
void shared_forget(const void *at, uint64_t bytes);
/* It is somewhere else now. */
void shared_move(const void *from, uint64_t bytes, const void *to);

#endif
