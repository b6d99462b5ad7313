/* SPDX-License-Identifier: MIT */
/*
 * The guest interface of the Microsoft hypervisor (TLFS), for fronts. A guest has it if its CPUID says so; no ABI's words here.
 */
#ifndef VITRINE_CHIP_HV_H
#define VITRINE_CHIP_HV_H

struct cpuid_entry;

/* The leaves from 0x40000000 on that a client may offer its guest. Fills at most max; returns how many there are. */
unsigned hv_cpuid_supported(struct cpuid_entry *out, unsigned max);

#endif
