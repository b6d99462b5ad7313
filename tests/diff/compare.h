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
/* Both ends are allowed, though they differ. in: the instruction that faulted. */
bool compare_is_excused(const struct machine_state *native, const struct machine_state *guest, const struct insn *in);
bool compare_wants_memory(const struct machine_state *native, const struct insn *in);
bool compare_memory(const uint8_t *native, const uint8_t *guest, char *text);
const char *compare_gpr_name(unsigned n);

#endif
