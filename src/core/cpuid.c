/* SPDX-License-Identifier: MIT */
/*
 * CPUID as the guest sees it: the client's table plus what depends on registers (Intel SDM vol. 2A, "CPUID"). Called by engines (CPUID instruction, feature
 * checks) and fronts; the table is written only while the vCPU does not run.
 */
#include "core/cpuid.h"

#include <errno.h>
#include <string.h>

#include "base/host.h"
#include "core/vcpu.h"
#include "core/vm_priv.h"

#define ENTRY_INDEX_MATTERS 1u

enum { EAX, EBX, ECX, EDX };

static const struct cpuid_entry *find(const struct vcpu *v, uint32_t function, uint32_t index)
{
    for (unsigned i = 0; i < v->n_cpuid; i++) {
        const struct cpuid_entry *e = &v->cpuid[i];
        if (e->function == function && (!(e->flags & ENTRY_INDEX_MATTERS) || e->index == index))
            return e;
    }
    return NULL;
}

static void set_bit(uint32_t *reg, unsigned bit, bool is_set)
{
    *reg = (*reg & ~(1u << bit)) | (uint32_t)is_set << bit;
}

/* Size of the standard or compacted area for the components of xcr0, on the host's layout: states are the host's own. */
static uint32_t xsave_bytes(uint64_t xcr0, bool is_compact)
{
    const struct host_facts *h = host_facts();
    uint32_t bytes = 576;
    for (unsigned i = 2; i < HOST_XSAVE_COMPONENTS; i++) {
        if (!(xcr0 & (1ull << i)))
            continue;
        if (is_compact) {
            if (h->xsave_is_aligned[i])
                bytes = (bytes + 63) & ~63u;
            bytes += h->xsave_size[i];
        } else if (h->xsave_offset[i] + h->xsave_size[i] > bytes) {
            bytes = h->xsave_offset[i] + h->xsave_size[i];
        }
    }
    return bytes;
}

/* KVM's feature leaf, wherever its range begins. */
static bool is_pv_features(const struct vcpu *v, uint32_t function)
{
    const struct cpuid_entry *first = (function & 0xffff00ff) == 0x40000001 ? find(v, function - 1, 0) : NULL;
    return first && first->ebx == 0x4b4d564b && first->ecx == 0x564b4d56 && first->edx == 0x4d; /* "KVMKVMKVM" */
}

/* Kicks and IPIs by hypercall end at LAPICs in process: guests with the client's would wait for them for ever. */
#define PV_NEEDS_LAPIC (1u << 7 | 1u << 11)

static void set_dynamic(const struct vcpu *v, uint32_t function, uint32_t index, uint32_t out[4])
{
    const struct cpu_state *c = &v->cpu;
    switch (function) {
    case 1:
        set_bit(&out[ECX], 27, (out[ECX] & (1u << 26)) && (c->cr4 & CR4_OSXSAVE));
        set_bit(&out[EDX], 9, (out[EDX] & (1u << 9)) && (c->apic_base & APIC_BASE_ENABLE));
        break;
    case 7:
        if (index == 0)
            set_bit(&out[ECX], 4, (out[ECX] & (1u << 3)) && (c->cr4 & CR4_PKE));
        break;
    case 0xd:
        if (index == 0)
            out[EBX] = xsave_bytes(c->xcr0, false);
        else if (index == 1 && (out[EAX] & 0xa)) /* XSAVEC or XSAVES */
            out[EBX] = xsave_bytes(c->xcr0, true);
        break;
    case 0x80000001:
        if (host_facts()->is_amd) /* repeats leaf 1 there */
            set_bit(&out[EDX], 9, (out[EDX] & (1u << 9)) && (c->apic_base & APIC_BASE_ENABLE));
        break;
    default:
        if (!v->lapic && is_pv_features(v, function))
            out[EAX] &= ~PV_NEEDS_LAPIC;
    }
}

/* Intel answers beyond a range's end, and in ranges that do not exist, as if the highest basic leaf was asked; AMD answers zeros. */
static const struct cpuid_entry *find_out_of_range(const struct vcpu *v, uint32_t *function, uint32_t index)
{
    const struct cpuid_entry *base = find(v, *function & 0xffff0000, 0), *basic = find(v, 0, 0);
    if (!basic)
        return NULL;
    bool is_intel = basic->ebx != 0x68747541 /* Auth(enticAMD) */ && basic->ebx != 0x6f677948 /* Hygo(nGenuine) */;
    bool is_inside = base && *function <= base->eax;
    if (is_inside || !is_intel)
        return NULL;
    *function = basic->eax;
    return find(v, basic->eax, index);
}

void vcpu_cpuid(struct vcpu *v, uint32_t function, uint32_t index, uint32_t out[4])
{
    const struct cpuid_entry *e = find(v, function, index);
    if (!e)
        e = find_out_of_range(v, &function, index);
    memset(out, 0, 4 * sizeof out[0]);
    if (e) {
        out[EAX] = e->eax;
        out[EBX] = e->ebx;
        out[ECX] = e->ecx;
        out[EDX] = e->edx;
        set_dynamic(v, function, index, out);
    } else if (function == 0xb || function == 0x1f) {
        /* A level that is not listed: ECX echoes it, EDX is the same x2APIC id at every level. */
        const struct cpuid_entry *first = find(v, function, 0);
        out[ECX] = first ? index & 0xff : 0;
        out[EDX] = first ? first->edx : 0;
    }
}

bool vcpu_cpuid_has(const struct vcpu *v, uint32_t function, uint32_t index, unsigned reg, unsigned bit)
{
    const struct cpuid_entry *e = find(v, function, index);
    if (!e)
        return false;
    const uint32_t regs[4] = { e->eax, e->ebx, e->ecx, e->edx };
    return regs[reg] >> bit & 1;
}

unsigned cpuid_phys_bits(const struct vcpu *v)
{
    const struct cpuid_entry *e = find(v, 0x80000008, 0);
    return e && (e->eax & 0xff) ? e->eax & 0xff : 36;
}

int vcpu_set_cpuid(struct vcpu *v, const struct cpuid_entry *entries, unsigned n)
{
    if (n > CPUID_ENTRIES_MAX)
        return -E2BIG;
    memcpy(v->cpuid, entries, n * sizeof *entries);
    v->n_cpuid = n;
    return 0;
}
