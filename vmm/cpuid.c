/* SPDX-License-Identifier: MIT */
/*
 * See cpuid.h. One package, one thread per core. Source: Intel SDM volume 2, CPUID; AMD APM volume 3, "Obtaining Processor Information".
 */
#include <string.h>

#include "vmm/cpuid.h"

enum { L1_ECX_X2APIC = 1 << 21, L1_ECX_TSC_DEADLINE = 1 << 24, L1_EDX_HTT = 1 << 28 };
enum { LEVEL_SMT = 1, LEVEL_CORE = 2 };

static unsigned cpuid_bits(unsigned n_cpus)
{
    unsigned bits = 0;

    while (1u << bits < n_cpus)
        bits++;
    return bits;
}

/* The topology leaves are replaced whole: the host's describe another machine. */
static void cpuid_drop(struct cpuid_table *table, uint32_t function)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < table->head.nent; i++)
        if (table->entry[i].function != function)
            table->entry[kept++] = table->entry[i];
    table->head.nent = kept;
}

static void cpuid_add_topology(struct cpuid_table *table, unsigned id, unsigned n_cpus)
{
    struct kvm_cpuid_entry2 smt = { .function = 0xb, .index = 0, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ebx = 1 };
    struct kvm_cpuid_entry2 core = { .function = 0xb, .index = 1, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX };
    struct kvm_cpuid_entry2 end = { .function = 0xb, .index = 2, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ecx = 2 };

    if (table->head.nent + 3 > CPUID_ENTRIES_MAX)
        return;
    smt.ecx = LEVEL_SMT << 8;
    core.ecx = LEVEL_CORE << 8 | 1;
    core.eax = cpuid_bits(n_cpus);
    core.ebx = n_cpus;
    smt.edx = core.edx = end.edx = id;
    table->entry[table->head.nent++] = smt;
    table->entry[table->head.nent++] = core;
    table->entry[table->head.nent++] = end;
}

static void cpuid_fix_entry(struct kvm_cpuid_entry2 *e, unsigned id, unsigned n_cpus, bool has_tsc_deadline)
{
    switch (e->function) {
    case 0x1:
        e->ebx = (e->ebx & 0xffff) | (n_cpus & 0xff) << 16 | id << 24;
        e->ecx |= L1_ECX_X2APIC;
        e->ecx = has_tsc_deadline ? e->ecx | L1_ECX_TSC_DEADLINE : e->ecx & ~(uint32_t)L1_ECX_TSC_DEADLINE;
        e->edx = n_cpus > 1 ? e->edx | L1_EDX_HTT : e->edx & ~(uint32_t)L1_EDX_HTT;
        break;
    case 0x4: /* cache leaves: how many share the cache, how many cores a package has */
    case 0x8000001d:
        if ((e->eax & 31) == 0)
            break;
        e->eax &= 0x3fff;
        if ((e->eax >> 5 & 7) >= 3)
            e->eax |= ((1u << cpuid_bits(n_cpus)) - 1) << 14;
        if (e->function == 4)
            e->eax |= ((1u << cpuid_bits(n_cpus)) - 1) << 26;
        break;
    case 0x80000008:
        e->ecx = cpuid_bits(n_cpus) << 12 | (n_cpus - 1);
        break;
    case 0x8000001e:
        e->eax = id;
        e->ebx = id & 0xff;
        e->ecx = 0;
        break;
    default:
        break;
    }
}

void cpuid_fix(struct cpuid_table *table, unsigned id, unsigned n_cpus, bool has_tsc_deadline)
{
    bool has_topology = false;

    for (uint32_t i = 0; i < table->head.nent; i++)
        has_topology |= table->entry[i].function == 0 && table->entry[i].eax >= 0xb;
    cpuid_drop(table, 0xb);
    cpuid_drop(table, 0x1f);
    if (has_topology)
        cpuid_add_topology(table, id, n_cpus);
    for (uint32_t i = 0; i < table->head.nent; i++)
        cpuid_fix_entry(&table->entry[i], id, n_cpus, has_tsc_deadline);
}
