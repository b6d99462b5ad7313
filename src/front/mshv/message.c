/* SPDX-License-Identifier: MIT */
/*
 * vcpu.exit as messages. vcpu.lock is held.
 *
 * IN and OUT are reported whole. Elements of INS and OUTS are reported one by one as an IN or OUT without a length, so that the client leaves RIP alone: it
 * does not execute the string instruction, whose counts and memory stay ours. Clients are known that do it wrong.
 */
#include <assert.h>
#include <string.h>

#include "base/log.h"
#include "front/mshv/mshv_priv.h"

#define IO_SIZE_MASK 7u

static void header_fill(const struct mshv_vp *vp, struct mshv_header *h, unsigned insn_bytes, enum mshv_access access)
{
    const struct vcpu *v = vp->v;
    const struct cpu_state *cpu = &v->cpu;
    uint16_t state = (uint16_t)vcpu_cpl(v);
    state |= cpu->cr0 & CR0_PE ? MSHV_EXECUTION_PE : 0;
    state |= cpu->cr0 & CR0_AM ? MSHV_EXECUTION_AM : 0;
    state |= cpu->efer & EFER_LMA ? MSHV_EXECUTION_LMA : 0;
    state |= cpu->dr7 & DR7_ENABLE_MASK ? MSHV_EXECUTION_DEBUG : 0;
    state |= mshv_pending_interruption(v) ? MSHV_EXECUTION_INTERRUPTION_PENDING : 0;
    state |= cpu->interrupt_shadow ? MSHV_EXECUTION_SHADOW : 0;
    *h = (struct mshv_header){
        .vp = v->id,
        .length_cr8 = (uint8_t)(insn_bytes | vcpu_cr8_get(vp->v) << 4),
        .access = (uint8_t)access,
        .execution_state = state,
        .rip = cpu->rip,
        .rflags = cpu->rflags,
    };
    mshv_segment_from(&h->cs, &cpu->seg[SEG_CS]);
}

static void message_set(struct mshv_vp *vp, enum mshv_message_type type, const void *payload, unsigned bytes)
{
    memset(&vp->message, 0, sizeof vp->message);
    vp->message.type = (uint32_t)type;
    vp->message.payload_bytes = (uint8_t)bytes;
    memcpy(vp->message.payload, payload, bytes);
}

static uint64_t io_datum(const struct vcpu_exit *x)
{
    uint64_t value = 0;
    memcpy(&value, x->io.data, x->io.bytes);
    return value;
}

static void encode_io(struct mshv_vp *vp)
{
    const struct vcpu *v = vp->v;
    const struct vcpu_exit *x = &v->exit;
    struct mshv_io_message m = { .port = x->io.port, .access = x->io.bytes & IO_SIZE_MASK, .rax = v->cpu.gpr[GPR_RAX] };
    unsigned insn_bytes = x->io.is_string ? 0 : x->insn_bytes;
    header_fill(vp, &m.header, insn_bytes, x->io.is_in ? MSHV_ACCESS_READ : MSHV_ACCESS_WRITE);
    if (x->io.is_string) {
        vp->element.is_there = true;
        vp->element.is_in = x->io.is_in;
        vp->element.bytes = x->io.bytes;
        vp->element.linear_rip = v->cpu.seg[SEG_CS].base + v->cpu.rip;
        vp->element.rax = v->cpu.gpr[GPR_RAX];
        if (!x->io.is_in)
            m.rax = io_datum(x);
    }
    m.n_insn_bytes = (uint8_t)insn_bytes;
    memcpy(m.insn, x->insn, insn_bytes);
    mshv_segment_from(&m.ds, &v->cpu.seg[SEG_DS]);
    mshv_segment_from(&m.es, &v->cpu.seg[SEG_ES]);
    m.rcx = v->cpu.gpr[GPR_RCX];
    m.rsi = v->cpu.gpr[GPR_RSI];
    m.rdi = v->cpu.gpr[GPR_RDI];
    message_set(vp, MSHV_MESSAGE_IO_PORT, &m, sizeof m);
}

static void encode_access(struct mshv_vp *vp)
{
    static const uint8_t access_of[] = { [ACCESSED_READ] = MSHV_ACCESS_READ, [ACCESSED_WRITE] = MSHV_ACCESS_WRITE, [ACCESSED_EXECUTE] = MSHV_ACCESS_EXECUTE };
    const struct vcpu_exit *x = &vp->v->exit;
    struct mshv_memory_message m = {
        .cache_type = x->access.is_slot ? MSHV_CACHE_WRITE_BACK : MSHV_CACHE_UNCACHED,
        .n_insn_bytes = x->insn_bytes,
        .access_info = MSHV_MEMORY_GVA_VALID | MSHV_MEMORY_GVA_GPA_VALID,
        .gva = x->access.gva,
        .gpa = x->access.gpa,
    };
    header_fill(vp, &m.header, x->insn_bytes, (enum mshv_access)access_of[x->access.how]);
    memcpy(m.insn, x->insn, x->insn_bytes);
    message_set(vp, x->access.is_slot ? MSHV_MESSAGE_GPA_INTERCEPT : MSHV_MESSAGE_UNMAPPED_GPA, &m, sizeof m);
}

static void encode_header(struct mshv_vp *vp, enum mshv_message_type type)
{
    struct mshv_header h;
    header_fill(vp, &h, 0, MSHV_ACCESS_READ);
    message_set(vp, type, &h, sizeof h);
}

void mshv_message_invalid_state(struct mshv_vp *vp)
{
    const uint32_t payload[2] = { vp->v->id, 0 };
    message_set(vp, MSHV_MESSAGE_INVALID_VP_REGISTER, payload, sizeof payload);
}

static int refuse_to_go_on(const struct mshv_vp *vp)
{
    const struct vcpu_exit *x = &vp->v->exit;
    log_write(LOG_ERROR, "VP %u cannot go on at %#llx: %s", vp->v->id, (unsigned long long)vp->v->cpu.rip,
              x->internal.text ? x->internal.text : "internal error");
    return -EIO;
}

int mshv_message_encode(struct mshv_vp *vp)
{
    const struct vcpu_exit *x = &vp->v->exit;
    switch (x->kind) {
    case EXIT_IO:
        encode_io(vp);
        return 0;
    case EXIT_ACCESS:
        encode_access(vp);
        return 0;
    case EXIT_SHUTDOWN:
    case EXIT_SYSTEM_EVENT: /* the guest wants a reset, or crashed: clients reset it for that message */
        encode_header(vp, MSHV_MESSAGE_UNRECOVERABLE_EXCEPTION);
        return 0;
    case EXIT_HLT: /* only without a LAPIC */
        encode_header(vp, MSHV_MESSAGE_HALT);
        return 0;
    case EXIT_IOAPIC_EOI: {
        const struct mshv_eoi_message m = { vp->v->id, x->eoi.vector };
        message_set(vp, MSHV_MESSAGE_APIC_EOI, &m, sizeof m);
        return 0;
    }
    case EXIT_MEMORY_FAULT:
        return -EFAULT;
    case EXIT_INTERNAL_ERROR:
        return refuse_to_go_on(vp);
    default:
        assert(!"an exit that no mshv client can get");
        return -EINVAL;
    }
}
