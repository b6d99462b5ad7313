/* SPDX-License-Identifier: MIT */
/*
 * The groups of the 64-bit guest "long"; main64.c calls them in this order.
 */
#ifndef VITRINE_GUESTS_TESTS64_H
#define VITRINE_GUESTS_TESTS64_H

#include "arch64.h"

void test_exceptions(void);
void test_privileged(void);
void test_features(void);
void test_paging(void);
void test_debug(void);
void test_fpu(void);
void test_code(void);
void test_smm(void);
void test_strings(void);
void test_triple_fault(void);

#endif
