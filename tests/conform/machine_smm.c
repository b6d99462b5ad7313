/* SPDX-License-Identifier: MIT */
/*
 * Building the machine with system management mode.
 */
#include "tests/conform/machine_smm.h"

#include <string.h>

static const uint8_t handler[] = { 0xe6, HANDLER_PORT, 0x0f, 0xaa }; /* out HANDLER_PORT, al; rsm */

void smm_create(struct smm_machine *s, const struct peer *p, unsigned with)
{
    machine_create(&s->m, p, with);
    machine_need(&s->m, p, KVM_CAP_X86_SMM, "KVM_CAP_X86_SMM");
    smm_set_memory(s, p);
}

void smm_set_memory(struct smm_machine *s, const struct peer *p)
{
    struct machine *m = &s->m;
    CHECK_EQ(CALL(m->vm, KVM_CHECK_EXTENSION, KVM_CAP_MULTI_ADDRESS_SPACE), 2);
    s->smram = pages_of_client(SMRAM_BYTES);
    machine_set_slot(m, p, SMM_SLOT, 0, 0, SMBASE, m->ram);
    machine_set_slot(m, p, SMM_SLOT | 1, KVM_MEM_LOG_DIRTY_PAGES, SMBASE, SMRAM_BYTES, s->smram);
    machine_set_slot(m, p, SMM_SLOT | 2, 0, SMBASE + SMRAM_BYTES, RAM_BYTES - SMBASE - SMRAM_BYTES, m->ram + SMBASE + SMRAM_BYTES);
    smm_set_handler(s, SMBASE, handler, sizeof handler);
}

void smm_set_handler(struct smm_machine *s, uint32_t smbase, const void *code, size_t bytes)
{
    memcpy(s->smram + (smbase - SMBASE) + HANDLER_AT, code, bytes);
}

uint64_t smm_field(const struct smm_machine *s, uint32_t smbase, unsigned offset, unsigned bytes)
{
    uint64_t value = 0;
    memcpy(&value, s->smram + (smbase - SMBASE) + offset, bytes);
    return value;
}

void smm_set_field(struct smm_machine *s, uint32_t smbase, unsigned offset, unsigned bytes, uint64_t value)
{
    memcpy(s->smram + (smbase - SMBASE) + offset, &value, bytes);
}

void smm_run_to_port(struct smm_machine *s, const struct peer *p, unsigned port, bool is_in_smm, const char *file, int line)
{
    machine_run(&s->m, p, KVM_EXIT_IO, file, line);
    const struct kvm_run *run = s->m.run;
    if (run->io.port != port || run->io.direction != KVM_EXIT_IO_OUT || !(run->flags & KVM_RUN_X86_SMM) != !is_in_smm) {
        conform_fail(file, line, "port %#x flags %#x, want port %#x %s SMM", run->io.port, run->flags, port, is_in_smm ? "in" : "outside of");
        conform_stop();
    }
}

struct kvm_vcpu_events smm_events(struct smm_machine *s, const struct peer *p)
{
    struct kvm_vcpu_events events;
    CALL(s->m.vcpu, KVM_GET_VCPU_EVENTS, &events);
    CHECK(events.flags & KVM_VCPUEVENT_VALID_SMM);
    return events;
}

void smm_send_message(struct smm_machine *s, const struct peer *p, uint32_t mode)
{
    struct kvm_msi msi = { .address_lo = 0xfee00000, .data = mode };
    CHECK(CALL(s->m.vm, KVM_SIGNAL_MSI, &msi) > 0);
}
