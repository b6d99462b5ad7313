/* SPDX-License-Identifier: MIT */
/*
 * The guest "long": 64-bit mode on one CPU.
 */
#include "tests64.h"

void main_ap(void)
{
}

void main64(void)
{
    test_exceptions();
    test_privileged();
    test_features();
    test_paging();
    test_debug();
    test_fpu();
    test_code();
    test_smm();
    test_strings();
    test_triple_fault();
}
