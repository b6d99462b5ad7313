/* SPDX-License-Identifier: MIT */
/*
 * A small machine as a program of today builds it: its own memory in slot 0, one vCPU in real mode, an in-kernel irqchip if wanted.
 */
#ifndef VITRINE_TESTS_MACHINE_TODAY_H
#define VITRINE_TESTS_MACHINE_TODAY_H

#include <linux/kvm.h>

#include "tests/conform/conform.h"

#define RAM_BYTES 0x80000u
#define CODE_AT 0x1000u
#define DATA_AT 0x2000u

struct machine {
    int dev, vm, vcpu;
    struct kvm_run *run;
    uint8_t *ram;
};

#define WITH_IRQCHIP 1u
#define WITH_PIT 2u
#define WITH_SPLIT 4u /* LAPICs; GSIs 0-23 are the client's IOAPIC's */

void machine_create(struct machine *m, const struct peer *p, unsigned with);
int machine_add_vcpu(struct machine *m, const struct peer *p, unsigned id, struct kvm_run **run);
void machine_load(struct machine *m, const struct peer *p, const uint8_t *code, size_t bytes);
/* As MOV to DS in real mode. */
void machine_set_ds(struct machine *m, const struct peer *p, uint16_t selector);
void machine_run(struct machine *m, const struct peer *p, uint32_t want_exit, const char *file, int line);
struct kvm_regs machine_regs(struct machine *m, const struct peer *p);
void machine_set_slot(struct machine *m, const struct peer *p, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t bytes, void *at);
/* The capability's value; skips the case if it is 0 (a peer need not have everything; what it says it has must work). */
int machine_need(struct machine *m, const struct peer *p, unsigned capability, const char *name);
/* KVM_GET_SUPPORTED_CPUID's answer. */
struct kvm_cpuid2 *machine_supported_cpuid(const struct peer *p, int dev);
/* An MSR by KVM_GET_MSRS, which must know it. */
uint64_t machine_msr(struct machine *m, const struct peer *p, uint32_t index);
void *pages_of_client(size_t bytes);

#define RUN_TO(exit) machine_run(&m, p, exit, __FILE__, __LINE__)
#define NEED(capability) machine_need(&m, p, capability, #capability)

/* One group of cases per file. */
#define TODAY_GROUPS(X) \
    X(calls) X(pv) X(hv) X(chips) X(dirty) X(run) X(exits) X(signals) X(msr) X(stats) X(debug) X(steps) X(caps) X(mce) X(split) X(smm) X(smi)
#define TODAY_DECLARE(name)                                \
    extern const struct conform_case cases_today_##name[]; \
    extern const size_t n_cases_today_##name;
TODAY_GROUPS(TODAY_DECLARE)

#endif
