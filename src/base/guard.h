/* SPDX-License-Identifier: MIT */
/*
 * Accesses to memory that may go away under us, since it is the client's: a fault ends the access instead of the process. Works on threads where SIGSEGV
 * and SIGBUS are not blocked, once their handler asks guard_recover. General registers only.
 */
#ifndef VITRINE_BASE_GUARD_H
#define VITRINE_BASE_GUARD_H

#include <ucontext.h>

#include "base/types.h"

/* 0, or -EFAULT with some of the bytes copied. */
int guard_copy(void *to, const void *from, size_t bytes);
/* Atomic: the byte that was there, or -EFAULT. */
int guard_exchange(uint8_t *at, uint8_t value);
/* From the handler of SIGSEGV or SIGBUS: true if one of the above faulted; it returns -EFAULT when the handler is left. */
bool guard_recover(ucontext_t *uc);

#endif
