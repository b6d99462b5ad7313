/* SPDX-License-Identifier: MIT */
/*
 * Copies from and to memory that may go away under us, since it is the client's: a fault ends the copy instead of the process. Works on threads where SIGSEGV
 * and SIGBUS are not blocked, once their handler asks guard_recover. General registers only.
 */
#ifndef VITRINE_BASE_GUARD_H
#define VITRINE_BASE_GUARD_H

#include <ucontext.h>

#include "base/types.h"

/* 0, or -EFAULT with some of the bytes copied. */
int guard_copy(void *to, const void *from, size_t bytes);
/* From the handler of SIGSEGV or SIGBUS: true if a guard_copy faulted; it returns -EFAULT when the handler is left. */
bool guard_recover(ucontext_t *uc);

#endif
