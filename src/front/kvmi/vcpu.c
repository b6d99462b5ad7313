/* SPDX-License-Identifier: MIT */
/* KVMI's commands about one vCPU: each is a function that is called while the vCPU stands between two instructions (core/hold.h). See kvmi.h. */
#include <string.h>

#include "core/hold.h"
#include "core/inject.h"
#include "core/xsave.h"
#include "front/kvmi/kvmi_priv.h"
#include "introspect/walk.h"

int kvmi_get_vcpu_info(struct kvmi_arg *a)
{
    *(struct kvmi_vcpu_info *)a->out = (struct kvmi_vcpu_info){ .tsc_hz = a->vcpu->tsc_khz * 1000 };
    a->out_bytes = sizeof(struct kvmi_vcpu_info);
    return 0;
}

/* ---- registers ---- */

static const uint8_t regs_order[16] = { GPR_RAX, GPR_RBX, GPR_RCX, GPR_RDX, GPR_RSI, GPR_RDI, GPR_RSP, GPR_RBP,
                                        GPR_R8,  GPR_R9,  GPR_R10, GPR_R11, GPR_R12, GPR_R13, GPR_R14, GPR_R15 };
_Static_assert(offsetof(struct kvm_regs, rip) == sizeof regs_order * sizeof(uint64_t), "the general registers come first");

static void regs_fill(const struct vcpu *v, struct kvm_regs *out)
{
    for (unsigned i = 0; i < sizeof regs_order; i++)
        memcpy((uint64_t *)out + i, &v->cpu.gpr[regs_order[i]], sizeof(uint64_t));
    out->rip = v->cpu.rip;
    out->rflags = v->cpu.rflags;
}

static struct kvm_segment segment_of(const struct segment *s)
{
    return (struct kvm_segment){ .base = s->base,
                                 .limit = s->limit,
                                 .selector = s->selector,
                                 .type = s->type,
                                 .present = s->present,
                                 .dpl = s->dpl,
                                 .db = s->db,
                                 .s = s->s,
                                 .l = s->l,
                                 .g = s->g,
                                 .avl = s->avl,
                                 .unusable = s->unusable };
}

static void sregs_fill(struct vcpu *v, struct kvm_sregs *out)
{
    const struct cpu_state *c = &v->cpu;
    *out = (struct kvm_sregs){ .cs = segment_of(&c->seg[SEG_CS]),
                               .ds = segment_of(&c->seg[SEG_DS]),
                               .es = segment_of(&c->seg[SEG_ES]),
                               .fs = segment_of(&c->seg[SEG_FS]),
                               .gs = segment_of(&c->seg[SEG_GS]),
                               .ss = segment_of(&c->seg[SEG_SS]),
                               .tr = segment_of(&c->tr),
                               .ldt = segment_of(&c->ldtr),
                               .gdt = { .base = c->gdtr.base, .limit = c->gdtr.limit },
                               .idt = { .base = c->idtr.base, .limit = c->idtr.limit },
                               .cr0 = c->cr0,
                               .cr2 = c->cr2,
                               .cr3 = c->cr3,
                               .cr4 = c->cr4,
                               .cr8 = vcpu_cr8_get(v),
                               .efer = c->efer,
                               .apic_base = c->apic_base };
    if (v->ev.interrupt.injected && !v->ev.interrupt.soft)
        out->interrupt_bitmap[v->ev.interrupt.vector / 64] |= 1ull << (v->ev.interrupt.vector % 64);
}

static uint8_t mode_of(const struct cpu_state *c)
{
    if ((c->efer & EFER_LMA) && c->seg[SEG_CS].l)
        return 8;
    return c->seg[SEG_CS].db ? 4 : 2;
}

void kvmi_state_fill(struct vcpu *v, struct kvmi_state *out)
{
    const struct cpu_state *c = &v->cpu;
    out->mode = mode_of(c);
    regs_fill(v, &out->regs);
    sregs_fill(v, &out->sregs);
    out->sysenter_cs = c->sysenter_cs;
    out->sysenter_esp = c->sysenter_esp;
    out->sysenter_eip = c->sysenter_eip;
    out->efer = c->efer;
    out->star = c->star;
    out->lstar = c->lstar;
    out->cstar = c->cstar;
    out->pat = c->pat;
    out->kernel_gs_base = c->kernel_gs_base;
}

/* What a function on the vCPU's thread needs of a command, and its result. */
struct on_vcpu {
    struct kvmi_arg *a;
    int result;
};

static int call_on(struct kvmi_arg *a, void (*call)(struct vcpu *v, void *arg))
{
    struct on_vcpu on = { .a = a };
    hold_call(a->vcpu, call, &on);
    return on.result;
}

static void registers_fill(struct vcpu *v, void *arg)
{
    struct on_vcpu *on = arg;
    const struct kvmi_get_registers *in = on->a->in;
    const uint32_t *index = (const uint32_t *)(in + 1);
    struct kvmi_registers *out = on->a->out;
    struct kvmi_msr *msr = (struct kvmi_msr *)(out + 1);
    *out = (struct kvmi_registers){ .mode = mode_of(&v->cpu), .n_msrs = in->n_msrs };
    regs_fill(v, &out->regs);
    sregs_fill(v, &out->sregs);
    for (unsigned i = 0; i < in->n_msrs && !on->result; i++) {
        msr[i] = (struct kvmi_msr){ .index = index[i] };
        on->result = vcpu_msr_read(v, index[i], &msr[i].value, true) ? -EINVAL : 0;
    }
}

int kvmi_get_registers(struct kvmi_arg *a)
{
    const struct kvmi_get_registers *in = a->in;
    if (a->in_bytes < sizeof *in + in->n_msrs * sizeof(uint32_t) && in->n_msrs)
        return -EINVAL;
    a->out_bytes = (uint32_t)(sizeof(struct kvmi_registers) + in->n_msrs * sizeof(struct kvmi_msr));
    return a->out_bytes > KVMI_DATA_MAX ? -E2BIG : call_on(a, registers_fill);
}

static void registers_take(struct vcpu *v, void *arg)
{
    const struct kvm_regs *in = arg;
    bool is_injected = v->watch.has_injected_exception && v->ev.exception.pending;
    if (in->rip != v->cpu.rip)
        vcpu_leave_instruction(v);
    if (is_injected)
        v->ev.exception.pending = v->watch.has_injected_exception = true;
    for (unsigned i = 0; i < sizeof regs_order; i++)
        memcpy(&v->cpu.gpr[regs_order[i]], (const uint64_t *)in + i, sizeof(uint64_t));
    v->cpu.rip = in->rip;
    v->cpu.rflags = in->rflags | RFLAGS_RES1;
    v->vm->engine->state_changed(v);
    vcpu_request(v, VREQ_EVENT);
}

void kvmi_put_registers(struct vcpu *v, const struct kvm_regs *regs)
{
    hold_call(v, registers_take, (void *)(uintptr_t)regs);
}

int kvmi_set_registers(struct kvmi_arg *a)
{
    if (!a->cpu->is_told)
        return -EOPNOTSUPP;
    kvmi_put_registers(a->vcpu, a->in);
    return 0;
}

static void xcr_fill(struct vcpu *v, void *arg)
{
    *(struct kvmi_number *)((struct on_vcpu *)arg)->a->out = (struct kvmi_number){ v->cpu.xcr0 };
}

int kvmi_get_xcr(struct kvmi_arg *a)
{
    if (((const struct kvmi_byte *)a->in)->value)
        return -EINVAL;
    a->out_bytes = sizeof(struct kvmi_number);
    return call_on(a, xcr_fill);
}

/* ---- x87 and vectors ---- */

static void xsave_fill(struct vcpu *v, void *arg)
{
    vcpu_xsave_get(v, ((struct on_vcpu *)arg)->a->out);
}

int kvmi_get_xsave(struct kvmi_arg *a)
{
    a->out_bytes = XSAVE_AREA_BYTES;
    return call_on(a, xsave_fill);
}

static void xsave_take(struct vcpu *v, void *arg)
{
    struct on_vcpu *on = arg;
    on->result = vcpu_xsave_set(v, on->a->in);
    if (!on->result)
        v->vm->engine->state_changed(v);
}

int kvmi_set_xsave(struct kvmi_arg *a)
{
    return a->in_bytes < XS_EXTENDED ? -EINVAL : call_on(a, xsave_take);
}

/* ---- what the CPU is ---- */

static void cpuid_fill(struct vcpu *v, void *arg)
{
    struct on_vcpu *on = arg;
    const struct kvmi_get_cpuid *in = on->a->in;
    uint32_t r[4];
    unsigned i = 0;
    while (i < v->n_cpuid && (v->cpuid[i].function != in->function || ((v->cpuid[i].flags & 1) && v->cpuid[i].index != in->index)))
        i++;
    if (i == v->n_cpuid) {
        on->result = -ENOENT;
        return;
    }
    vcpu_cpuid(v, in->function, in->index, r);
    *(struct kvmi_cpuid *)on->a->out = (struct kvmi_cpuid){ r[0], r[1], r[2], r[3] };
}

int kvmi_get_cpuid(struct kvmi_arg *a)
{
    a->out_bytes = sizeof(struct kvmi_cpuid);
    return call_on(a, cpuid_fill);
}

static void mtrr_type_fill(struct vcpu *v, void *arg)
{
    struct kvmi_arg *a = ((struct on_vcpu *)arg)->a;
    *(struct kvmi_byte *)a->out = (struct kvmi_byte){ .value = vcpu_mtrr_type(v, ((const struct kvmi_number *)a->in)->value) };
}

int kvmi_get_mtrr_type(struct kvmi_arg *a)
{
    a->out_bytes = sizeof(struct kvmi_byte);
    return call_on(a, mtrr_type_fill);
}

/* ---- translation ---- */

static void paging_get(struct vcpu *v, void *arg)
{
    look_paging_of(v, arg);
}

int kvmi_translate(struct kvmi_arg *a)
{
    struct look_paging paging;
    struct look_walk w;
    hold_call(a->vcpu, paging_get, &paging);
    look_walk(a->vm, &paging, ((const struct kvmi_number *)a->in)->value, &w);
    *(struct kvmi_number *)a->out = (struct kvmi_number){ w.result == WALK_OK ? w.gpa : ~0ull };
    a->out_bytes = sizeof(struct kvmi_number);
    return 0;
}

/* ---- exceptions ---- */

#define VECTORS_WITH_CODE (1u << VEC_DF | 1u << VEC_TS | 1u << VEC_NP | 1u << VEC_SS | 1u << VEC_GP | 1u << VEC_PF | 1u << VEC_AC | 1u << 21)

static void exception_inject(struct vcpu *v, void *arg)
{
    struct on_vcpu *on = arg;
    const struct kvmi_exception *in = on->a->in;
    const struct injection injection = { .vector = in->vector,
                                         .has_code = (VECTORS_WITH_CODE >> in->vector & 1) && (v->cpu.cr0 & CR0_PE),
                                         .code = in->error_code,
                                         .has_address = in->vector == VEC_PF,
                                         .address = in->address };
    on->result = inject_into(v, &injection, false);
    if (!on->result)
        atomic_store(&on->a->session->wants[v->id].is_injected, true);
}

int kvmi_inject_exception(struct kvmi_arg *a)
{
    const struct kvmi_exception *in = a->in;
    if (in->vector > 31 || in->vector == VEC_NMI)
        return -EINVAL;
    int r = kvmi_follow(a->session, a->vm);
    return r ? r : call_on(a, exception_inject);
}
