/* SPDX-License-Identifier: MIT */
/*
 * Copies between us and addresses that the client handed in. They are the client's word: a wrong one must come back as EFAULT, as from a kernel, and not as a
 * fault of ours; so the kernel does the copy, which works whatever signals are blocked. Any thread, no lock. Some of the bytes may have been copied when it
 * fails.
 */
#ifndef VITRINE_BASE_USER_H
#define VITRINE_BASE_USER_H

#include "base/types.h"

/* 0 or -EFAULT. */
int user_read(void *to, uint64_t from, uint64_t bytes);
int user_write(uint64_t to, const void *from, uint64_t bytes);

#endif
