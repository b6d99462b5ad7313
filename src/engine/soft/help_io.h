/* SPDX-License-Identifier: MIT */
/* Helpers of help_io.c: port I/O. */
#ifndef VITRINE_ENGINE_SOFT_HELP_IO_H
#define VITRINE_ENGINE_SOFT_HELP_IO_H

#include "engine/soft/soft_priv.h"

enum step help_in(struct soft_vcpu *sv, const struct insn *in);
enum step help_out(struct soft_vcpu *sv, const struct insn *in);
enum step help_ins(struct soft_vcpu *sv, const struct insn *in);
enum step help_outs(struct soft_vcpu *sv, const struct insn *in);

/* IOPL and the I/O permission bitmap (SDM vol. 1, "I/O Permission Bit Map"): STEP_NEXT if allowed, else #GP(0) or the bitmap's own fault. */
enum step io_permission(struct soft_vcpu *sv, unsigned port, unsigned bytes);

#endif
