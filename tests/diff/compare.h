/* SPDX-License-Identifier: MIT */
/*
 * Comparison of the two sides' results.
 */
#ifndef VITRINE_TESTS_DIFF_COMPARE_H
#define VITRINE_TESTS_DIFF_COMPARE_H

#include "diff.h"

#define COMPARE_TEXT_BYTES 512

/* True if they differ: `text` says where. Normalises both. dead_flags are not compared after a fault of `in`. */
bool compare_states(struct machine_state *native, struct machine_state *guest, uint64_t dead_flags, const struct insn *in, char *text);
bool compare_memory(const uint8_t *native, const uint8_t *guest, char *text);
const char *compare_gpr_name(unsigned n);

#endif
