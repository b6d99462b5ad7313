/* SPDX-License-Identifier: MIT */
/*
 * vcpu.exit in kvm_run's words. Both generations share the numbers and, but for the hypercall, the layout. vcpu.lock is held.
 */
#include <assert.h>
#include <string.h>

#include "base/log.h"
#include "front/kvm/front_priv.h"

/* Where programs of 2007 expect what today's header declares. */
_Static_assert(offsetof(struct kvm_run, exit_reason) == 8 && offsetof(struct kvm_run, ready_for_interrupt_injection) == 12, "kvm_run of 2007");
_Static_assert(offsetof(struct kvm_run, cr8) == 16 && offsetof(struct kvm_run, apic_base) == 24, "kvm_run of 2007");
_Static_assert(offsetof(struct kvm_run, io) == KVM2007_RUN_UNION_OFFSET && offsetof(struct kvm_run, io.data_offset) == 40, "kvm_run of 2007");
_Static_assert(offsetof(struct kvm_run, mmio.data) == 40 && offsetof(struct kvm_run, mmio.is_write) == 52, "kvm_run of 2007");
_Static_assert(sizeof(struct kvm_run) <= PAGE_BYTES, "the data page follows");

static void suspend(struct kvm_vcpu *c, enum kvm_completion what)
{
    c->completion = what;
    c->completion_rip = c->v->cpu.seg[SEG_CS].base + c->v->cpu.rip;
}

void kvm_exit_encode_mmio(struct kvm_vcpu *c, gpa_t gpa, unsigned bytes, bool is_write, const uint8_t *data)
{
    struct kvm_run *run = c->run;
    run->exit_reason = KVM_EXIT_MMIO;
    run->mmio.phys_addr = gpa;
    run->mmio.len = bytes;
    run->mmio.is_write = is_write;
    memset(run->mmio.data, 0, sizeof(run->mmio.data));
    if (is_write)
        memcpy(run->mmio.data, data, bytes);
}

static void encode_io(struct kvm_vcpu *c)
{
    const struct vcpu_exit *x = &c->v->exit;
    struct kvm_run *run = c->run;
    uint64_t bytes = (uint64_t)x->io.bytes * x->io.count;
    assert(bytes <= PAGE_BYTES);
    run->exit_reason = KVM_EXIT_IO;
    run->io.direction = x->io.is_in ? KVM_EXIT_IO_IN : KVM_EXIT_IO_OUT;
    run->io.size = x->io.bytes;
    run->io.port = x->io.port;
    run->io.count = x->io.count;
    run->io.data_offset = KVM_PIO_PAGE_OFFSET * PAGE_BYTES;
    if (x->io.is_in)
        suspend(c, KVM_COMPLETE_IN);
    else
        memcpy((uint8_t *)run + run->io.data_offset, x->io.data, bytes);
}

static void encode_hypercall(struct kvm_vcpu *c)
{
    const struct vcpu_exit *x = &c->v->exit;
    struct kvm_run *run = c->run;
    run->exit_reason = KVM_EXIT_HYPERCALL;
    c->completion = KVM_COMPLETE_HYPERCALL;
    if (c->owner->is_2007) {
        struct kvm2007_run_hypercall *h = (void *)((uint8_t *)run + KVM2007_RUN_UNION_OFFSET);
        memcpy(h->args, x->hypercall.args, sizeof(h->args));
        h->ret = 0;
        h->longmode = x->hypercall.is_long_mode;
        return;
    }
    run->hypercall.nr = x->hypercall.nr;
    memcpy((void *)run->hypercall.args, x->hypercall.args, sizeof(run->hypercall.args));
    run->hypercall.ret = 0;
    run->hypercall.longmode = x->hypercall.is_long_mode;
}

static void encode_msr(struct kvm_vcpu *c)
{
    const struct vcpu_exit *x = &c->v->exit;
    struct kvm_run *run = c->run;
    run->exit_reason = x->msr.is_write ? KVM_EXIT_X86_WRMSR : KVM_EXIT_X86_RDMSR;
    memset(&run->msr, 0, sizeof(run->msr));
    run->msr.reason = x->msr.reason;
    run->msr.index = x->msr.index;
    run->msr.data = x->msr.data;
    suspend(c, KVM_COMPLETE_MSR);
}

static void encode_memory_fault(struct kvm_vcpu *c)
{
    const struct vcpu_exit *x = &c->v->exit;
    struct kvmlater_run_memory_fault *f = (void *)((uint8_t *)c->run + KVM2007_RUN_UNION_OFFSET);
    c->run->exit_reason = KVM_EXIT_MEMORY_FAULT;
    *f = (struct kvmlater_run_memory_fault){ .gpa = x->memory_fault.gpa, .size = x->memory_fault.bytes };
}

static void encode_debug(struct kvm_vcpu *c)
{
    const struct vcpu_exit *x = &c->v->exit;
    c->run->exit_reason = KVM_EXIT_DEBUG;
    c->run->debug.arch = (struct kvm_debug_exit_arch){ .exception = x->debug.vector, .pc = x->debug.rip, .dr6 = x->debug.dr6, .dr7 = x->debug.dr7 };
}

static void encode_internal(struct kvm_vcpu *c)
{
    const struct vcpu_exit *x = &c->v->exit;
    struct kvm_run *run = c->run;
    unsigned n = x->internal.n_bytes;
    if (x->internal.text)
        log_write(LOG_ERROR, "vCPU %u cannot go on at %#llx: %s", c->v->id, (unsigned long long)c->v->cpu.rip, x->internal.text);
    run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
    memset(&run->emulation_failure, 0, sizeof(run->emulation_failure));
    run->emulation_failure.suberror = x->internal.suberror ? x->internal.suberror : KVM_INTERNAL_ERROR_EMULATION;
    if (run->emulation_failure.suberror != KVM_INTERNAL_ERROR_EMULATION || !n)
        return;
    run->emulation_failure.ndata = 3; /* flags, and the instruction in two words */
    run->emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
    run->emulation_failure.insn_size = (uint8_t)n;
    memcpy(run->emulation_failure.insn_bytes, x->internal.insn_bytes, n);
}

int kvm_exit_encode(struct kvm_vcpu *c)
{
    const struct vcpu_exit *x = &c->v->exit;
    struct kvm_run *run = c->run;
    switch (x->kind) {
    case EXIT_IO:
        encode_io(c);
        return 0;
    case EXIT_MMIO:
        kvm_exit_encode_mmio(c, x->mmio.gpa, x->mmio.bytes, x->mmio.is_write, x->mmio.data);
        if (!x->mmio.is_write)
            suspend(c, KVM_COMPLETE_MMIO_READ);
        return 0;
    case EXIT_HLT:
        run->exit_reason = KVM_EXIT_HLT;
        return 0;
    case EXIT_IRQ_WINDOW:
        run->exit_reason = KVM_EXIT_IRQ_WINDOW_OPEN;
        return 0;
    case EXIT_SHUTDOWN:
        run->exit_reason = KVM_EXIT_SHUTDOWN;
        return 0;
    case EXIT_DEBUG:
        encode_debug(c);
        return 0;
    case EXIT_HYPERCALL:
        encode_hypercall(c);
        return 0;
    case EXIT_MSR:
        encode_msr(c);
        return 0;
    case EXIT_IOAPIC_EOI:
        run->exit_reason = KVM_EXIT_IOAPIC_EOI;
        run->eoi.vector = x->eoi.vector;
        return 0;
    case EXIT_SYSTEM_EVENT:
        run->exit_reason = KVM_EXIT_SYSTEM_EVENT;
        run->system_event.type = x->system_event.what == SYSTEM_EVENT_CRASH ? KVM_SYSTEM_EVENT_CRASH : KVM_SYSTEM_EVENT_RESET;
        run->system_event.ndata = 0;
        return 0;
    case EXIT_TPR_ACCESS:
        run->exit_reason = KVM_EXIT_TPR_ACCESS;
        run->tpr_access.rip = x->tpr.rip;
        run->tpr_access.is_write = x->tpr.is_write;
        return 0;
    case EXIT_INTERNAL_ERROR:
        encode_internal(c);
        return 0;
    case EXIT_DIRTY_RING_FULL:
        run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
        return 0;
    case EXIT_MEMORY_FAULT:
        encode_memory_fault(c);
        return -EFAULT; /* as the kernel, when it cannot fault the client's memory in */
    case EXIT_NONE:
    case EXIT_INTR:
    case EXIT_ACCESS:
    case EXIT_WATCH:
    case EXIT_KIND_COUNT:
        break;
    }
    assert(!"an exit that no KVM client can get");
    return -EINVAL;
}
