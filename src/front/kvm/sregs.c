/* SPDX-License-Identifier: MIT */
/*
 * Segments, descriptor tables and control registers, in the form of KVM_SET_SREGS and SREGS2. Everything is checked before anything is set. vcpu.lock is held.
 */
#include <string.h>

#include "base/host.h"
#include "front/kvm/front_priv.h"

_Static_assert(offsetof(struct kvm_sregs, interrupt_bitmap) == offsetof(struct kvm_sregs2, flags), "the two share everything before");

static void segment_to_kvm(struct kvm_segment *out, const struct segment *in)
{
    *out = (struct kvm_segment){
        .base = in->base,
        .limit = in->limit,
        .selector = in->selector,
        .type = in->type,
        .present = in->present,
        .dpl = in->dpl,
        .db = in->db,
        .s = in->s,
        .l = in->l,
        .g = in->g,
        .avl = in->avl,
        .unusable = in->unusable,
    };
}

static void segment_from_kvm(struct segment *out, const struct kvm_segment *in)
{
    *out = (struct segment){
        .base = in->base,
        .limit = in->limit,
        .selector = in->selector,
        .type = in->type & 0xf,
        .present = in->present && !in->unusable,
        .dpl = in->dpl & 3,
        .db = in->db & 1,
        .s = in->s & 1,
        .l = in->l & 1,
        .g = in->g & 1,
        .avl = in->avl & 1,
        .unusable = in->unusable || !in->present,
    };
}

static void common_get(struct kvm_vcpu *c, struct kvm_sregs *out)
{
    const struct cpu_state *cpu = &c->v->cpu;
    memset(out, 0, sizeof(*out));
    segment_to_kvm(&out->cs, &cpu->seg[SEG_CS]);
    segment_to_kvm(&out->ds, &cpu->seg[SEG_DS]);
    segment_to_kvm(&out->es, &cpu->seg[SEG_ES]);
    segment_to_kvm(&out->fs, &cpu->seg[SEG_FS]);
    segment_to_kvm(&out->gs, &cpu->seg[SEG_GS]);
    segment_to_kvm(&out->ss, &cpu->seg[SEG_SS]);
    segment_to_kvm(&out->tr, &cpu->tr);
    segment_to_kvm(&out->ldt, &cpu->ldtr);
    out->gdt = (struct kvm_dtable){ .base = cpu->gdtr.base, .limit = cpu->gdtr.limit };
    out->idt = (struct kvm_dtable){ .base = cpu->idtr.base, .limit = cpu->idtr.limit };
    out->cr0 = cpu->cr0;
    out->cr2 = cpu->cr2;
    out->cr3 = cpu->cr3;
    out->cr4 = cpu->cr4;
    out->cr8 = vcpu_cr8_get(c->v);
    out->efer = cpu->efer;
    out->apic_base = cpu->apic_base;
}

void kvm_sregs_get(struct kvm_vcpu *c, struct kvm_sregs *out)
{
    const struct vcpu_events *ev = &c->v->ev;
    common_get(c, out);
    if (ev->interrupt.injected && !ev->interrupt.soft)
        out->interrupt_bitmap[ev->interrupt.vector / 64] |= 1ull << (ev->interrupt.vector % 64);
}

static void segments_set(struct cpu_state *cpu, const struct kvm_sregs *in)
{
    segment_from_kvm(&cpu->seg[SEG_CS], &in->cs);
    segment_from_kvm(&cpu->seg[SEG_DS], &in->ds);
    segment_from_kvm(&cpu->seg[SEG_ES], &in->es);
    segment_from_kvm(&cpu->seg[SEG_FS], &in->fs);
    segment_from_kvm(&cpu->seg[SEG_GS], &in->gs);
    segment_from_kvm(&cpu->seg[SEG_SS], &in->ss);
    segment_from_kvm(&cpu->tr, &in->tr);
    segment_from_kvm(&cpu->ldtr, &in->ldt);
    cpu->gdtr = (struct desc_table){ .base = in->gdt.base, .limit = in->gdt.limit };
    cpu->idtr = (struct desc_table){ .base = in->idt.base, .limit = in->idt.limit };
}

/* Everything but pending interrupts and PAE's page-directory pointers. */
static int common_set(struct kvm_vcpu *c, const struct kvm_sregs *in)
{
    struct vcpu *v = c->v;
    struct cpu_state *cpu = &v->cpu;
    if (!vcpu_can_be(v, in->cr0, in->cr3, in->cr4, in->efer, in->cs.l) || ((in->apic_base & APIC_BASE_X2APIC) && !vcpu_cpuid_has(v, 1, 0, 2, 21)))
        return -EINVAL;
    if (in->apic_base != cpu->apic_base && vcpu_msr_write(v, MSR_APIC_BASE, in->apic_base, true))
        return -EINVAL;
    segments_set(cpu, in);
    cpu->cr0 = in->cr0 | CR0_ET;
    cpu->cr2 = in->cr2;
    cpu->cr3 = in->cr3;
    cpu->cr4 = in->cr4;
    cpu->efer = in->efer & EFER_KNOWN;
    if (in->cr8 < 16)
        vcpu_cr8_set(v, in->cr8);
    /* A client that resets the boot CPU by its registers alone expects it to leave HLT. */
    if (v->id == v->vm->boot_cpu_id && cpu->rip == 0xfff0 && in->cs.selector == 0xf000 && !(in->cr0 & CR0_PE))
        v->mp_state = MP_RUNNABLE;
    return 0;
}

int kvm_sregs_set(struct kvm_vcpu *c, const struct kvm_sregs *in)
{
    int r = common_set(c, in);
    if (r)
        return r;
    vcpu_load_pdptes(c->v);
    for (unsigned i = 0; i < KVM_NR_INTERRUPTS; i++) {
        if (in->interrupt_bitmap[i / 64] >> (i % 64) & 1) {
            c->v->ev.interrupt.injected = true;
            c->v->ev.interrupt.soft = false;
            c->v->ev.interrupt.vector = (uint8_t)i;
            break;
        }
    }
    vcpu_request(c->v, VREQ_EVENT);
    kvm_state_changed(c);
    return 0;
}

int kvm_sregs_handle_get(struct kvm_vcpu *c, struct kvm_arg *a)
{
    kvm_sregs_get(c, a->data);
    return 0;
}

int kvm_sregs_handle_set(struct kvm_vcpu *c, struct kvm_arg *a)
{
    return kvm_sregs_set(c, a->data);
}

int kvm_sregs_handle_get2(struct kvm_vcpu *c, struct kvm_arg *a)
{
    struct kvm_sregs2 *out = a->data;
    struct kvm_sregs s;
    common_get(c, &s);
    memset(out, 0, sizeof(*out));
    memcpy(out, &s, offsetof(struct kvm_sregs2, flags));
    if (vcpu_is_pae_paging(c->v)) {
        out->flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
        memcpy(out->pdptrs, c->v->cpu.pdpte, sizeof(out->pdptrs));
    }
    return 0;
}

int kvm_sregs_handle_set2(struct kvm_vcpu *c, struct kvm_arg *a)
{
    const struct kvm_sregs2 *in = a->data;
    struct kvm_sregs s = { 0 };
    bool has_pdptrs = in->flags & KVM_SREGS2_FLAGS_PDPTRS_VALID;
    bool is_pae = (in->cr0 & CR0_PG) && (in->cr4 & CR4_PAE) && !(in->efer & EFER_LMA);
    if (in->flags & ~(uint64_t)KVM_SREGS2_FLAGS_PDPTRS_VALID || (has_pdptrs && !is_pae))
        return -EINVAL;
    memcpy(&s, in, offsetof(struct kvm_sregs2, flags));
    int r = common_set(c, &s);
    if (r)
        return r;
    if (has_pdptrs)
        memcpy(c->v->cpu.pdpte, in->pdptrs, sizeof(in->pdptrs));
    else
        vcpu_load_pdptes(c->v);
    vcpu_request(c->v, VREQ_EVENT);
    kvm_state_changed(c);
    return 0;
}
