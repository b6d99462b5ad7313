/* SPDX-License-Identifier: MIT */
/*
 * The MultiProcessor table, for guests that do not read ACPI: the same CPUs, buses and interrupt routes as the MADT and the DSDT tell.
 * Written before the guest starts, when the CPUs' identification is known.
 */
#ifndef VITRINE_VMM_MPTABLE_H
#define VITRINE_VMM_MPTABLE_H

#include "vmm/ram.h"

#define MPTABLE_BASE 0xf0000ull /* inside the BIOS area that guests scan */
#define MPTABLE_BYTES 0x1000ull

/* `signature` and `features` are EAX and EDX of CPUID leaf 1. Returns the address of the floating pointer, or 0 if guest memory is too small. */
gpa_t mptable_build(const struct ram *ram, unsigned n_cpus, uint32_t signature, uint32_t features);

#endif
