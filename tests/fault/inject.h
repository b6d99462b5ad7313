/* SPDX-License-Identifier: MIT */
/*
 * The fault injector: the linker sends vitrine's calls of malloc, mmap, pthread_create and their like here (--wrap), and the chosen one fails. Calls of the C
 * library's own are not seen.
 */
#ifndef VITRINE_TESTS_FAULT_INJECT_H
#define VITRINE_TESTS_FAULT_INJECT_H

#include <stdbool.h>

/* From now on the n-th call (0: the next) fails, once. */
void inject_arm(unsigned n);
/* Ends that. The name of the call that was made to fail, or NULL if there were not as many. */
const char *inject_disarm(void);

#endif
