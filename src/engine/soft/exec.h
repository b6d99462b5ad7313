/* SPDX-License-Identifier: MIT */
/*
 * One instruction executed by C, for the run loop.
 */
#ifndef VITRINE_ENGINE_SOFT_EXEC_H
#define VITRINE_ENGINE_SOFT_EXEC_H

#include "engine/soft/soft_priv.h"

/*
 * Executes the instruction at cs:rip; rip, shadow, RF and the access log are moved on if it completed. STEP_FAULT: sv->fault is not delivered yet, nothing
 * changed. *is_soft_int: an INT form, which raises no single-step trap of its own.
 */
struct exec_entry;
enum step exec_insn(struct soft_vcpu *sv, const struct exec_entry *known, bool *is_soft_int);

/* Fills v->exit for the client's debugger; returns STEP_EXIT. */
enum step exec_debug_exit(struct soft_vcpu *sv, unsigned vector, uint64_t dr6);

#endif
