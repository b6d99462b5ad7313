/* SPDX-License-Identifier: MIT */
/*
 * Hypercalls of the Microsoft hypervisor's guest interface that are about other vCPUs: TLB flushes and interrupts (TLFS, "Virtual MMU", "Virtual Interrupt
 * Control"). Called by hv_call.c on the calling vCPU's thread, no lock held.
 *
 * All flushes drop all that a vCPU has cached: more than was asked for is always right.
 */
#include "chip/hv_priv.h"

#include <string.h>

#define FLUSH_ALL_PROCESSORS 1ull
#define SET_SPARSE 0u
#define SET_ALL 1u
#define BANK_BITS 64u
#define BANKS 64u
#define VECTOR_FIRST 0x10u
#define VECTOR_LAST 0xffu
_Static_assert(BANKS *BANK_BITS >= VM_VCPU_IDS, "every index has a bit");

/* By index, not id. */
struct vcpu_set {
    bool is_all;
    uint64_t bank[BANKS];
};

struct flush_head {
    uint64_t space, flags, mask;
};

struct sparse_head {
    uint64_t format, banks;
};

static bool is_in_set(struct vcpu *v, const void *arg)
{
    const struct vcpu_set *s = arg;
    const struct hv_vcpu *c = hv_vcpu_of(v);
    uint32_t index = c ? atomic_load(&c->vp_index) : v->id;
    return s->is_all || (index < BANKS * BANK_BITS && (s->bank[index / BANK_BITS] >> index % BANK_BITS & 1));
}

/* A set as the extended calls have it: which banks of 64 there are, then those. */
static enum hv_status read_sparse(struct vcpu *v, gpa_t gpa, unsigned n_variable, struct vcpu_set *s)
{
    struct sparse_head head;
    uint64_t bank[BANKS];
    if (vm_read(v->vm, gpa, &head, sizeof(head)))
        return HV_INVALID_INPUT;
    s->is_all = head.format == SET_ALL;
    if (s->is_all)
        return HV_SUCCESS;
    if (head.format != SET_SPARSE || (unsigned)__builtin_popcountll(head.banks) != n_variable)
        return HV_INVALID_INPUT;
    if (n_variable && vm_read(v->vm, gpa + sizeof(head), bank, n_variable * sizeof(bank[0])))
        return HV_INVALID_INPUT;
    unsigned n = 0;
    for (uint64_t left = head.banks; left; left &= left - 1)
        s->bank[__builtin_ctzll(left)] = bank[n++];
    return HV_SUCCESS;
}

enum hv_status hv_flush(struct vcpu *v, const struct hv_input *in, bool is_ex)
{
    struct vcpu_set set = { 0 };
    struct flush_head head;
    enum hv_status status = HV_SUCCESS;
    if (in->is_fast) /* needs vector registers, which are not offered */
        return HV_INVALID_INPUT;
    if (in->first & 7)
        return HV_INVALID_ALIGNMENT;
    if (vm_read(v->vm, in->first, &head, sizeof(head)))
        return HV_INVALID_INPUT;
    if (is_ex)
        status = read_sparse(v, in->first + offsetof(struct flush_head, mask), in->n_variable, &set);
    else
        set.bank[0] = head.mask;
    if (status != HV_SUCCESS)
        return status;
    set.is_all |= (head.flags & FLUSH_ALL_PROCESSORS) || (!is_ex && !head.mask); /* old Windows means everybody by nobody */
    v->vm->engine->flush_tlbs(v, is_in_set, &set);
    return HV_SUCCESS;
}

enum hv_status hv_send_ipi(struct vcpu *v, const struct hv_input *in, bool is_ex)
{
    struct vcpu_set set = { 0 };
    uint64_t vector = in->first;
    enum hv_status status = HV_SUCCESS;
    if (!vm_has_lapics(v->vm)) /* the client's cannot be reached */
        return HV_INVALID_CODE;
    if (in->is_fast && is_ex)
        return HV_INVALID_INPUT;
    if (in->is_fast) {
        set.bank[0] = in->second;
    } else {
        if (in->first & 7)
            return HV_INVALID_ALIGNMENT;
        if (vm_read(v->vm, in->first, &vector, sizeof(vector)) || (!is_ex && vm_read(v->vm, in->first + 8, &set.bank[0], 8)))
            return HV_INVALID_INPUT;
    }
    if (is_ex)
        status = read_sparse(v, in->first + 8, in->n_variable, &set);
    if (status != HV_SUCCESS)
        return status;
    if (vector < VECTOR_FIRST || vector > VECTOR_LAST)
        return HV_INVALID_INPUT;
    const struct lapic_msg msg = { .vector = (uint8_t)vector, .mode = DELIVER_FIXED, .is_assert = true };
    for (unsigned i = 0; i < atomic_load(&v->vm->n_vcpus); i++) {
        struct vcpu *other = vm_vcpu(v->vm, i);
        struct lapic *l = other && is_in_set(other, &set) ? lapic_of(other) : NULL;
        if (l)
            lapic_accept(l, &msg);
    }
    return HV_SUCCESS;
}
