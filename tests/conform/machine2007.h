/* SPDX-License-Identifier: MIT */
/*
 * A small machine as a program of 2007 builds it: memory that the implementation allocates, mapped through the VM fd; one vCPU in real mode.
 */
#ifndef VITRINE_TESTS_MACHINE2007_H
#define VITRINE_TESTS_MACHINE2007_H

#include "tests/conform/client2007.h"
#include "tests/conform/conform.h"

#define RAM_BYTES 0x80000u
#define CODE_AT 0x1000u
#define DATA_AT 0x2000u

struct machine {
    int dev, vm, vcpu;
    struct run *run;
    uint8_t *ram;       /* guest-physical 0 to RAM_BYTES */
    bool has_2007_slot; /* false on a peer that only knows memory of the client */
};

void machine_create(struct machine *m, const struct peer *p);
/* Copies code to CODE_AT and points real-mode CS:IP there. */
void machine_load(struct machine *m, const struct peer *p, const uint8_t *code, size_t bytes);
/* Sets CR0.PE (and paging, long mode) with flat segments; for paging the caller fills tables at cr3. */
void machine_flat(struct machine *m, const struct peer *p, unsigned bits, uint64_t cr3);
/* KVM_RUN that must return 0; checks the exit reason (stops the case if it differs). */
void machine_run(struct machine *m, const struct peer *p, uint32_t want_exit, const char *file, int line);
struct regs machine_regs(struct machine *m, const struct peer *p);
void machine_set_regs(struct machine *m, const struct peer *p, const struct regs *r);
uint8_t *machine_io_data(struct machine *m);

#define RUN_TO(exit) machine_run(&m, p, exit, __FILE__, __LINE__)

extern const struct conform_case cases_2007_calls[], cases_2007_exits[], cases_2007_modes[];
extern const size_t n_cases_2007_calls, n_cases_2007_exits, n_cases_2007_modes;

#endif
