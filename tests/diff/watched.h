/* SPDX-License-Identifier: MIT */
/*
 * --watch: what a tool asks for in a case, the case's run under its eyes, and whether what it was told is right. See tool.h and expect.h.
 */
#ifndef VITRINE_TESTS_DIFF_WATCHED_H
#define VITRINE_TESTS_DIFF_WATCHED_H

#include "diff.h"

int watched_init(void);
/* Chooses what is watched in the case's run and how it is answered. */
void watched_plan(struct rng *r, const struct instance *i, const struct machine_state *input, bool is_stepping);
/*
 * Runs the guest's side, then the bare CPU's: without the instruction that was denied. False with text if what the tool was told is wrong. Data is as before a
 * run on both sides.
 */
bool watched_run(const struct instance *i, const struct machine_state *input, struct machine_state *native, struct machine_state *guest, char *text);
/* True if instances of the form say something about watched memory. */
bool watched_wants(const struct insn *in);
/* What was done so far, for the summary. */
void watched_print(void);
/* False if too little was asked for so many cases. */
bool watched_has_enough(uint64_t n_cases);

#endif
