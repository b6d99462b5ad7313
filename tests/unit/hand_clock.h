/* SPDX-License-Identifier: MIT */
/*
 * Stands in for core/timer.c in the tests of chips: time stands still until the test moves it, and timers expire inside that call, each at its deadline
 * exactly. So counts and instants can be checked to the nanosecond. For tests of one thread. (core/timer.c itself: test_timer.c.)
 */
#ifndef VITRINE_TESTS_UNIT_HAND_CLOCK_H
#define VITRINE_TESTS_UNIT_HAND_CLOCK_H

#include "core/timer.h"

/* Lets time go on and everything expire that becomes due meanwhile, what is armed meanwhile too. 0: what is due now. */
void hand_clock_step_ns(uint64_t ns);

#endif
