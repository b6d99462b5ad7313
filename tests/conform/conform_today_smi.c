/* SPDX-License-Identifier: MIT */
/*
 * When SMIs come and what they meet: halted and running vCPUs, SMIs and NMIs and INITs during SMM, messages of interrupt controllers, and the two address
 * spaces under running vCPUs. What an SMI does to the state is in conform_today_smm.c.
 */
#include "tests/conform/machine_smm.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LOAD_BYTES(code) machine_load(&s.m, p, code, sizeof code)

static const uint8_t halts[] = { 0xf4, 0xe6, 0x10, 0xeb, 0xfb };       /* 1: hlt; out 0x10, al; jmp 1b */
static const uint8_t works[] = { 0xeb, 0xfe };                         /* 1: jmp 1b */
static const uint8_t ports[] = { 0xe6, 0x10, 0x40, 0xe6, 0x11, 0xf4 }; /* out 0x10, al; inc ax; out 0x11, al; hlt */

struct runner {
    struct smm_machine *s;
    const struct peer *p;
    int result;
};

static void *run_vcpu(void *arg)
{
    struct runner *r = arg;
    r->result = r->p->port->ioctl(r->s->m.vcpu, KVM_RUN, 0);
    return NULL;
}

/* ---- halted, running ---- */

static void smi_while_halted(const struct peer *p)
{
    struct smm_machine s;
    smm_create(&s, p, 0);
    LOAD_BYTES(halts);
    for (unsigned i = 0; i < 2; i++) {
        RUN_SMM_TO(KVM_EXIT_HLT);
        CALL(s.m.vcpu, KVM_SMI, 0);
        RUN_TO_HANDLER();
        CHECK_EQ(smm_field(&s, SMBASE, 0xfff0, 4), CODE_AT + 1);
        RUN_TO_PORT(0x10);
    }
}

/* The vCPU waits inside KVM_RUN, or runs, when the message comes from another thread. The saved EIP. */
static uint64_t run_until_message(struct smm_machine *s, const struct peer *p)
{
    struct runner r = { s, p, -1 };
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, run_vcpu, &r) == 0);
    usleep(2000); /* only makes it likely that it halts */
    smm_send_message(s, p, MESSAGE_SMI);
    pthread_join(thread, NULL);
    REQUIRE_EQ(r.result, 0);
    REQUIRE_EQ(s->m.run->exit_reason, KVM_EXIT_IO);
    REQUIRE_EQ(s->m.run->io.port, HANDLER_PORT);
    CHECK_EQ(s->m.run->flags & KVM_RUN_X86_SMM, KVM_RUN_X86_SMM);
    return smm_field(s, SMBASE, 0xfff0, 4);
}

static void smi_wakes_halted(const struct peer *p)
{
    struct smm_machine s;
    smm_create(&s, p, WITH_IRQCHIP);
    LOAD_BYTES(halts);
    for (unsigned n = 0; n < 3;) {
        if (run_until_message(&s, p) != CODE_AT + 1)
            continue; /* it came before the HLT */
        RUN_TO_PORT(0x10);
        n++;
    }
}

static void smi_interrupts_work(const struct peer *p)
{
    struct smm_machine s;
    smm_create(&s, p, WITH_IRQCHIP);
    LOAD_BYTES(works);
    for (unsigned i = 0; i < 10; i++)
        CHECK_EQ(run_until_message(&s, p), CODE_AT);
}

static void smi_by_ioapic(const struct peer *p)
{
    struct smm_machine s;
    smm_create(&s, p, WITH_IRQCHIP);
    LOAD_BYTES(ports);
    struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
    CALL(s.m.vm, KVM_GET_IRQCHIP, &chip);
    chip.chip.ioapic.redirtbl[20].bits = 0x200; /* edge, SMI, to APIC 0 */
    CALL(s.m.vm, KVM_SET_IRQCHIP, &chip);
    struct kvm_irq_level line = { .irq = 20, .level = 1 };
    CALL(s.m.vm, KVM_IRQ_LINE, &line);
    RUN_TO_HANDLER();
    RUN_TO_PORT(0x10);
    RUN_TO_PORT(0x11);
}

/* ---- what waits for the end of SMM ---- */

static void smi_during_smm(const struct peer *p)
{
    struct smm_machine s;
    smm_create(&s, p, 0);
    LOAD_BYTES(ports);
    CALL(s.m.vcpu, KVM_SMI, 0);
    RUN_TO_HANDLER();
    CALL(s.m.vcpu, KVM_SMI, 0);
    CALL(s.m.vcpu, KVM_SMI, 0); /* one is remembered */
    CHECK_EQ(smm_events(&s, p).smi.pending, 1);
    RUN_TO_HANDLER();
    CHECK_EQ(smm_events(&s, p).smi.pending, 0);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfff0, 4), CODE_AT); /* nothing ran in between */
    RUN_TO_PORT(0x10);
    RUN_TO_PORT(0x11);
}

static const uint8_t nmi_handler[] = { 0xe6, 0x22, 0xcf }; /* out 0x22, al; iret */

static void nmi_during_smm(const struct peer *p)
{
    struct smm_machine s;
    smm_create(&s, p, 0);
    LOAD_BYTES(ports);
    memcpy(s.m.ram + 0x1200, nmi_handler, sizeof nmi_handler);
    memcpy(s.m.ram + 2 * 4, "\0\x12\0\0", 4);
    CALL(s.m.vcpu, KVM_SMI, 0);
    RUN_TO_HANDLER();
    CALL(s.m.vcpu, KVM_NMI, 0);
    CHECK_EQ(smm_events(&s, p).smi.smm_inside_nmi, 0);
    RUN_TO_PORT(0x22);
    /* Now from the NMI's handler: NMIs stay masked after RSM. */
    CALL(s.m.vcpu, KVM_SMI, 0);
    RUN_TO_HANDLER();
    CHECK_EQ(smm_events(&s, p).smi.smm_inside_nmi, 1);
    CALL(s.m.vcpu, KVM_NMI, 0);
    RUN_TO_PORT(0x22); /* the second NMI, after the first one's IRET */
    CHECK_EQ(smm_field(&s, SMBASE, 0xfff0, 4), 0x1202);
    RUN_TO_PORT(0x10);
    CHECK_EQ(smm_events(&s, p).nmi.masked, 0);
}

/* The boot CPU starts again at the reset vector, after RSM. */
static void init_during_smm(const struct peer *p)
{
    static const uint8_t at_reset[] = { 0xe6, 0x77, 0xf4 };
    struct smm_machine s;
    smm_create(&s, p, WITH_IRQCHIP);
    LOAD_BYTES(ports);
    uint8_t *rom = pages_of_client(0x1000);
    memcpy(rom + 0xff0, at_reset, sizeof at_reset);
    machine_set_slot(&s.m, p, 1, 0, 0xfffff000, 0x1000, rom);
    CALL(s.m.vcpu, KVM_SMI, 0);
    RUN_TO_HANDLER();
    smm_send_message(&s, p, MESSAGE_INIT);
    struct kvm_vcpu_events e = smm_events(&s, p);
    CHECK_EQ(e.smi.latched_init, 1);
    CHECK_EQ(e.smi.smm, 1);
    struct kvm_mp_state state = { KVM_MP_STATE_INIT_RECEIVED };
    CHECK_ERRNO(s.m.vcpu, KVM_SET_MP_STATE, &state, EINVAL);
    /* The client may take it away, and give it back. */
    e.smi.latched_init = 0;
    CALL(s.m.vcpu, KVM_SET_VCPU_EVENTS, &e);
    CHECK_EQ(smm_events(&s, p).smi.latched_init, 0);
    e.smi.latched_init = 1;
    CALL(s.m.vcpu, KVM_SET_VCPU_EVENTS, &e);
    CHECK_EQ(smm_events(&s, p).smi.latched_init, 1);
    RUN_TO_PORT(0x77);
    e = smm_events(&s, p);
    CHECK_EQ(e.smi.latched_init, 0);
    CHECK_EQ(e.smi.smm, 0);
}

/* A client that restores a vCPU puts it into SMM by its events. */
static void smm_restored_by_client(const struct peer *p)
{
    static const uint8_t rsm[] = { 0xe6, 0x33, 0x0f, 0xaa };
    struct smm_machine s, t;
    smm_create(&s, p, 0);
    LOAD_BYTES(ports);
    CALL(s.m.vcpu, KVM_SMI, 0);
    RUN_TO_HANDLER();
    struct kvm_vcpu_events e = smm_events(&s, p);
    struct kvm_sregs sregs;
    struct kvm_regs regs = machine_regs(&s.m, p);
    CALL(s.m.vcpu, KVM_GET_SREGS, &sregs);
    smm_create(&t, p, 0);
    memcpy(t.m.ram, s.m.ram, RAM_BYTES);
    memcpy(t.smram, s.smram, SMRAM_BYTES);
    memcpy(t.smram + HANDLER_AT, rsm, sizeof rsm);
    regs.rip = HANDLER_AT;
    CALL(t.m.vcpu, KVM_SET_SREGS, &sregs);
    CALL(t.m.vcpu, KVM_SET_REGS, &regs);
    CALL(t.m.vcpu, KVM_SET_VCPU_EVENTS, &e);
    CHECK_EQ(smm_events(&t, p).smi.smm, 1);
    smm_run_to_port(&t, p, 0x33, true, __FILE__, __LINE__);
    smm_run_to_port(&t, p, 0x10, false, __FILE__, __LINE__);
    CHECK_EQ(smm_events(&t, p).nmi.masked, 0);
}

/* ---- the two address spaces ---- */

/* mov byte [0x100000], 0x5a, with a 32-bit address and the 4 GiB limit; inc byte cs:[0x9000]; out HANDLER_PORT, al; rsm */
static const uint8_t stores[] = { 0x67, 0xc6, 5, 0, 0, 0x10, 0, 0x5a, 0x2e, 0xfe, 6, 0, 0x90, 0xe6, HANDLER_PORT, 0x0f, 0xaa };

static void smm_sees_its_space(const struct peer *p)
{
    static const uint8_t outside[] = { 0x88, 0x07, 0xe6, 0x10, 0xf4 }; /* mov [bx], al; out 0x10, al; hlt */
    struct smm_machine s;
    smm_create(&s, p, 0);
    uint8_t *hidden = pages_of_client(0x4000);
    const uint32_t slot = SMM_SLOT | 5;
    machine_set_slot(&s.m, p, slot, KVM_MEM_LOG_DIRTY_PAGES, 0x100000, 0x4000, hidden);
    smm_set_handler(&s, SMBASE, stores, sizeof stores);
    LOAD_BYTES(outside);
    struct kvm_sregs sregs;
    CALL(s.m.vcpu, KVM_GET_SREGS, &sregs);
    sregs.ds.base = 0x100000, sregs.ds.selector = 0xffff;
    CALL(s.m.vcpu, KVM_SET_SREGS, &sregs);
    CALL(s.m.vcpu, KVM_SMI, 0);
    RUN_TO_HANDLER();
    CHECK_EQ(hidden[0], 0x5a);
    CHECK_EQ(s.smram[0x9000], 1);
    CHECK_EQ(s.m.ram[SMBASE + 0x9000], 0);
    uint64_t bits = ~0ull;
    struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = &bits };
    CALL(s.m.vm, KVM_GET_DIRTY_LOG, &log);
    CHECK_EQ(bits, 1);
    CALL(s.m.vm, KVM_GET_DIRTY_LOG, &log);
    CHECK_EQ(bits, 0);
    log.slot = SMM_SLOT | 1;
    CALL(s.m.vm, KVM_GET_DIRTY_LOG, &log);
    CHECK_EQ(bits, 1ull << 9 | 1ull << 15); /* the counter, the save area */
    log.slot = 5;
    CHECK_ERRNO(s.m.vm, KVM_GET_DIRTY_LOG, &log, ENOENT);
    log.slot = 2u << 16;
    CHECK_ERRNO(s.m.vm, KVM_GET_DIRTY_LOG, &log, EINVAL);
    struct kvm_clear_dirty_log clear = { .slot = slot, .num_pages = 4, .dirty_bitmap = &bits };
    CHECK_ERRNO(s.m.vm, KVM_CLEAR_DIRTY_LOG, &clear, 0);
    clear.slot = 5;
    CHECK_ERRNO(s.m.vm, KVM_CLEAR_DIRTY_LOG, &clear, ENOENT);
    clear.slot = 2u << 16;
    CHECK_ERRNO(s.m.vm, KVM_CLEAR_DIRTY_LOG, &clear, EINVAL);
    /* Outside there is nothing. */
    RUN_SMM_TO(KVM_EXIT_MMIO);
    CHECK_EQ(s.m.run->mmio.phys_addr, 0x100000);
    CHECK_EQ(s.m.run->mmio.is_write, 1);
    CHECK_EQ(s.m.run->flags & KVM_RUN_X86_SMM, 0);
    RUN_TO_PORT(0x10);
}

#define RING_BYTES 4096u

/* Rings name the space with the slot; the save area that the SMI itself writes is in them too. */
static void smm_in_dirty_ring(const struct peer *p)
{
    struct smm_machine s = { .m.dev = p->port->open("/dev/kvm") };
    struct kvm_enable_cap ring_cap = { .cap = KVM_CAP_DIRTY_LOG_RING, .args = { RING_BYTES } };
    REQUIRE(s.m.dev >= 0);
    machine_need(&s.m, p, KVM_CAP_X86_SMM, "KVM_CAP_X86_SMM");
    machine_need(&s.m, p, KVM_CAP_DIRTY_LOG_RING, "KVM_CAP_DIRTY_LOG_RING");
    s.m.vm = CALL(s.m.dev, KVM_CREATE_VM, 0);
    CALL(s.m.vm, KVM_ENABLE_CAP, &ring_cap);
    s.m.ram = pages_of_client(RAM_BYTES);
    machine_set_slot(&s.m, p, 0, 0, 0, RAM_BYTES, s.m.ram);
    s.m.vcpu = machine_add_vcpu(&s.m, p, 0, &s.m.run);
    smm_set_memory(&s, p);
    machine_set_slot(&s.m, p, SMM_SLOT | 5, KVM_MEM_LOG_DIRTY_PAGES, 0x100000, 0x4000, pages_of_client(0x4000));
    smm_set_handler(&s, SMBASE, stores, sizeof stores);
    volatile struct kvm_dirty_gfn *ring = p->port->mmap(RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, s.m.vcpu, KVM_DIRTY_LOG_PAGE_OFFSET * 4096);
    REQUIRE((void *)ring != MAP_FAILED);
    LOAD_BYTES(ports);
    CALL(s.m.vcpu, KVM_SMI, 0);
    RUN_TO_HANDLER();
    static const struct {
        uint32_t slot, page;
    } want[] = { { SMM_SLOT | 1, 0xf }, { SMM_SLOT | 5, 0 }, { SMM_SLOT | 1, 9 } };
    for (unsigned i = 0; i < 3; i++) {
        CHECK_EQ(ring[i].flags, KVM_DIRTY_GFN_F_DIRTY);
        CHECK_EQ(ring[i].slot, want[i].slot);
        CHECK_EQ(ring[i].offset, want[i].page);
    }
    CHECK_EQ(ring[3].flags, 0);
}

/* A store that only the client can take, from SMM: it is told so. */
static void mmio_from_smm(const struct peer *p)
{
    struct smm_machine s;
    smm_create(&s, p, 0);
    smm_set_handler(&s, SMBASE, stores, sizeof stores);
    LOAD_BYTES(ports);
    CALL(s.m.vcpu, KVM_SMI, 0);
    RUN_SMM_TO(KVM_EXIT_MMIO);
    CHECK_EQ(s.m.run->mmio.phys_addr, 0x100000);
    CHECK_EQ(s.m.run->flags & KVM_RUN_X86_SMM, KVM_RUN_X86_SMM);
    RUN_TO_HANDLER();
    RUN_TO_PORT(0x10);
}

/* Both spaces have code at the same address; each is entered often enough for translations and caches of the other to be in the way. */
static void same_address_other_code(const struct peer *p)
{
    /* 1: inc dx; out 0x12, al; jmp 1b */
    static const uint8_t outside[] = { 0x42, 0xe6, 0x12, 0xeb, 0xfb };
    /* inc bx; out HANDLER_PORT, al; rsm */
    static const uint8_t inside[] = { 0x43, 0xe6, HANDLER_PORT, 0x0f, 0xaa };
    struct smm_machine s;
    smm_create(&s, p, 0);
    LOAD_BYTES(ports);
    smm_set_handler(&s, SMBASE, inside, sizeof inside);
    memcpy(s.m.ram + SMBASE + HANDLER_AT, outside, sizeof outside);
    struct kvm_sregs sregs;
    CALL(s.m.vcpu, KVM_GET_SREGS, &sregs);
    sregs.cs.base = SMBASE, sregs.cs.selector = SMBASE >> 4;
    CALL(s.m.vcpu, KVM_SET_SREGS, &sregs);
    struct kvm_regs regs = { .rip = HANDLER_AT, .rflags = 2, .rsp = 0x7000 };
    CALL(s.m.vcpu, KVM_SET_REGS, &regs);
    for (unsigned i = 0; i < 40; i++) {
        RUN_TO_PORT(0x12);
        CALL(s.m.vcpu, KVM_SMI, 0);
        RUN_TO_HANDLER();
        CHECK_EQ(machine_regs(&s.m, p).rdx, i + 1);
        CHECK_EQ(machine_regs(&s.m, p).rbx, 1);
    }
}

/* The client changes slots of the second space, and harvests its log, while a handler works there. */
static void smm_slots_change_under_handler(const struct peer *p)
{
    /* 1: inc dword [0x100000]; cmp byte [0x101000], 0; je 1b; out HANDLER_PORT, al; rsm, with 32-bit addresses */
    static const uint8_t counts[] = { 0x67, 0x66, 0xff, 5, 0, 0, 0x10, 0, 0x67, 0x80, 0x3d, 0, 0x10, 0x10, 0, 0, 0x74, 0xee, 0xe6, HANDLER_PORT, 0x0f, 0xaa };
    struct smm_machine s;
    smm_create(&s, p, 0);
    LOAD_BYTES(ports);
    smm_set_handler(&s, SMBASE, counts, sizeof counts);
    uint8_t *shared = pages_of_client(0x2000);
    const uint32_t slot = SMM_SLOT | 7;
    machine_set_slot(&s.m, p, slot, KVM_MEM_LOG_DIRTY_PAGES, 0x100000, 0x2000, shared);
    _Atomic uint32_t *counter = (_Atomic uint32_t *)(void *)shared;
    CALL(s.m.vcpu, KVM_SMI, 0);
    struct runner r = { &s, p, -1 };
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, run_vcpu, &r) == 0);
    for (unsigned i = 0; i < 30; i++) {
        uint64_t bits = 0;
        struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = &bits };
        uint32_t before = atomic_load(counter);
        while (atomic_load(counter) == before)
            ;
        CALL(s.m.vm, KVM_GET_DIRTY_LOG, &log);
        CHECK_EQ(bits & 1, 1);
        machine_set_slot(&s.m, p, SMM_SLOT | 8, 0, 0x200000 + i % 2 * 0x10000, 0x1000, shared); /* a new one, then it moves */
        machine_set_slot(&s.m, p, 1, 0, 0x200000, i % 2 ? 0 : RAM_BYTES, s.m.ram);              /* and one of the first space comes and goes */
    }
    shared[0x1000] = 1;
    pthread_join(thread, NULL);
    REQUIRE_EQ(r.result, 0);
    CHECK_EQ(s.m.run->io.port, HANDLER_PORT);
    CHECK_EQ(s.m.run->flags & KVM_RUN_X86_SMM, KVM_RUN_X86_SMM);
}

const struct conform_case cases_today_smi[] = {
    { "smi_while_halted", smi_while_halted },
    { "smi_wakes_halted", smi_wakes_halted },
    { "smi_interrupts_work", smi_interrupts_work },
    { "smi_by_ioapic", smi_by_ioapic },
    { "smi_during_smm", smi_during_smm },
    { "nmi_during_smm", nmi_during_smm },
    { "init_during_smm", init_during_smm },
    { "smm_restored_by_client", smm_restored_by_client },
    { "smm_sees_its_space", smm_sees_its_space },
    { "smm_in_dirty_ring", smm_in_dirty_ring },
    { "mmio_from_smm", mmio_from_smm },
    { "same_address_other_code", same_address_other_code },
    { "smm_slots_change_under_handler", smm_slots_change_under_handler },
};
const size_t n_cases_today_smi = sizeof cases_today_smi / sizeof *cases_today_smi;
