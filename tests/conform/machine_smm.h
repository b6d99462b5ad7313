/* SPDX-License-Identifier: MIT */
/*
 * Today's machine with system management mode: the second address space shows the same memory, but for SMRAM of its own from 0x30000 to 0x4ffff.
 */
#ifndef VITRINE_TESTS_MACHINE_SMM_H
#define VITRINE_TESTS_MACHINE_SMM_H

#include "tests/conform/machine_today.h"

#define SMM_SLOT (1u << 16) /* slot numbers of the second address space */
#define SMBASE 0x30000u     /* after reset */
#define SMRAM_BYTES 0x20000u
#define HANDLER_AT 0x8000u /* from SMBASE */
#define HANDLER_PORT 0x51

struct smm_machine {
    struct machine m;
    uint8_t *smram; /* what SMM sees at SMBASE */
};

/* Skips the case if there is no SMM. The handler leaves by OUT to HANDLER_PORT and returns by RSM. */
void smm_create(struct smm_machine *s, const struct peer *p, unsigned with);
/* The second address space of a machine that was made otherwise. */
void smm_set_memory(struct smm_machine *s, const struct peer *p);
void smm_set_handler(struct smm_machine *s, uint32_t smbase, const void *code, size_t bytes);
uint64_t smm_field(const struct smm_machine *s, uint32_t smbase, unsigned offset, unsigned bytes);
void smm_set_field(struct smm_machine *s, uint32_t smbase, unsigned offset, unsigned bytes, uint64_t value);
/* Runs to an OUT, which must be to that port, in SMM or not. */
void smm_run_to_port(struct smm_machine *s, const struct peer *p, unsigned port, bool is_in_smm, const char *file, int line);
struct kvm_vcpu_events smm_events(struct smm_machine *s, const struct peer *p);
/* An SMI as a message to the first vCPU's LAPIC. */
void smm_send_message(struct smm_machine *s, const struct peer *p, uint32_t mode);
#define MESSAGE_SMI 0x200u
#define MESSAGE_INIT 0x4500u

#define RUN_TO_HANDLER() smm_run_to_port(&s, p, HANDLER_PORT, true, __FILE__, __LINE__)
#define RUN_TO_PORT(port) smm_run_to_port(&s, p, port, false, __FILE__, __LINE__)
#define RUN_SMM_TO(exit) machine_run(&s.m, p, exit, __FILE__, __LINE__)

#endif
