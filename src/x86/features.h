/* SPDX-License-Identifier: MIT */
/*
 * Which instruction sets the guest may use, from the CPUID it was given: an instruction that CPUID does not offer raises #UD however willing the host is.
 * Facts only; CR4, XCR0 and modes are the engine's business.
 */
#ifndef VITRINE_X86_FEATURES_H
#define VITRINE_X86_FEATURES_H

#include <stdbool.h>
#include <stdint.h>

#include "x86/insn.h"

struct features {
    uint64_t bits[2]; /* one bit per CPUID flag that decides an instruction set; the numbering is features.c's own */
};

/* One register (0-3 = eax ebx ecx edx) of a CPUID leaf; 0 if the leaf is absent. */
typedef uint32_t features_lookup(const void *context, uint32_t function, uint32_t index, unsigned reg);

void features_from_cpuid(struct features *out, features_lookup *lookup, const void *context);
/* For a vCPU that was given no CPUID at all: whatever the engine can run is allowed. */
void features_set_all(struct features *out);

/* isa_set is struct insn's. Sets that are unknown or never offered (VMX and SVM but for their hypercalls, SGX, RTM, AMX, PKU, key locker...) are refused. */
bool features_allow(const struct features *f, unsigned isa_set);
/* The same, and finer where one set holds instructions of different kinds. */
bool features_allow_insn(const struct features *f, const struct insn *in);

#endif
