/* SPDX-License-Identifier: MIT */
/*
 * Which bytes of the data an instruction reads and writes, computed from its decoded form and the registers before it. What page events are judged by; knows
 * nothing of the engine. One thread.
 */
#ifndef VITRINE_TESTS_DIFF_EXPECT_H
#define VITRINE_TESTS_DIFF_EXPECT_H

#include "diff.h"

#define EXPECT_PAGES 4u /* from DATA_AT: the data, a hole, the page that cannot be written */
#define EXPECT_BYTES (EXPECT_PAGES * (unsigned)PAGE_BYTES)

/* Of each byte, how many accesses may touch it, and how many do if the instruction comes to its end; [0] reads, [1] writes. */
struct expectation {
    uint16_t may[2][EXPECT_BYTES], must[2][EXPECT_BYTES];
    unsigned n; /* accesses in the order of the architecture, where there is one: strings, gathers and scatters */
    uint64_t order[256];
};

/*
 * in: at st->rip. n_done: iterations that a string instruction completes; is_complete: nothing keeps it from its end, else its last access is tried. Strings
 * that do more than room allows are judged without their order.
 */
void expect_insn(const struct insn *in, const struct machine_state *st, uint64_t n_done, bool is_complete, struct expectation *out);
/* Iterations between two values of rCX; 1 without REP. */
uint64_t expect_iterations(const struct insn *in, uint64_t rcx_before, uint64_t rcx_after);

#endif
