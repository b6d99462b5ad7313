/* SPDX-License-Identifier: MIT */
/*
 * What the conformance programs take from glibc's headers and musl's lack; nowhere.c has the function. Included before everything else.
 */
#ifndef VITRINE_TESTS_STATIC_MUSL_H
#define VITRINE_TESTS_STATIC_MUSL_H

#ifndef __ASSEMBLER__
const char *strerrorname_np(int error);
const char *sigabbrev_np(int sig);
#endif

#endif
