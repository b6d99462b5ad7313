/* SPDX-License-Identifier: MIT */
/*
 * core/smm.h without a guest: what is saved comes back bit for bit in both layouts, from any state that there can be; nothing changes when SMRAM is not there.
 * The bytes of the layouts are judged by tests/conform.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/smm.h"
#include "core/vm.h"

#define SMRAM_BYTES 0x10000u
#define SMM_SLOT ((uint32_t)SPACE_SMM << MEMSLOT_SPACE_SHIFT)

static const struct engine_ops engine = { .name = "none", .vcpu_bytes = sizeof(struct vcpu) };
static struct vm *vm;
static struct vcpu *v;
static hva_t smram;

static int create(void **state)
{
    (void)state;
    smram = mmap(NULL, SMRAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return smram == MAP_FAILED || vm_create(&engine, NULL, &vm) || vm_set_memslot(vm, SMM_SLOT, 0, 0x30000, SMRAM_BYTES, smram) || vcpu_create(vm, 0, &v);
}

static int destroy(void **state)
{
    (void)state;
    vcpu_destroy(v);
    vm_put(vm);
    return munmap(smram, SMRAM_BYTES);
}

static uint64_t random_bits(unsigned bits)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < 5; i++)
        value = value << 15 ^ (uint64_t)random();
    return bits == 64 ? value : value & ((1ull << bits) - 1);
}

static struct segment random_segment(unsigned bits)
{
    struct segment s = { .base = random_bits(bits), .limit = (uint32_t)random_bits(32), .selector = (uint16_t)random_bits(16) };
    uint64_t a = random_bits(16);
    s.type = a & 15, s.s = a >> 4 & 1, s.dpl = a >> 5 & 3, s.present = a >> 7 & 1, s.g = a >> 8 & 1, s.db = a >> 9 & 1, s.l = a >> 10 & 1, s.avl = a >> 11 & 1;
    s.unusable = !s.present;
    return s;
}

/* Long mode or none, with values that a processor can hold. */
static void fill(struct cpu_state *c, bool is_64)
{
    unsigned bits = is_64 ? 64 : 32;
    for (unsigned i = 0; i < (is_64 ? 16 : 8); i++)
        c->gpr[i] = random_bits(bits);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        c->seg[i] = random_segment(bits);
    c->ldtr = random_segment(bits);
    c->tr = random_segment(bits);
    c->gdtr = (struct desc_table){ .base = random_bits(bits), .limit = (uint16_t)random_bits(16) };
    c->idtr = (struct desc_table){ .base = random_bits(bits), .limit = (uint16_t)random_bits(16) };
    c->rip = random_bits(bits);
    c->rflags = RFLAGS_RES1 | RFLAGS_IF | RFLAGS_ZF | RFLAGS_IOPL | RFLAGS_AC;
    c->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_WP | CR0_TS;
    c->cr3 = random_bits(32);
    c->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR;
    c->efer = is_64 ? EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE : 0;
    c->dr6 = DR6_FIXED_1 | DR6_BS;
    c->dr7 = DR7_FIXED_1 | 0x55;
    c->interrupt_shadow = SHADOW_STI;
    c->nmi_masked = random() & 1;
    c->cr2 = random_bits(bits);
    c->lstar = random_bits(bits);
}

static void zero_padding(struct cpu_state *c)
{
    const size_t segment_end = offsetof(struct segment, unusable) + 1, table_end = offsetof(struct desc_table, limit) + 2;
    struct segment *const segment[] = { &c->seg[0], &c->seg[1], &c->seg[2], &c->seg[3], &c->seg[4], &c->seg[5], &c->ldtr, &c->tr };
    struct desc_table *const table[] = { &c->gdtr, &c->idtr };
    for (unsigned i = 0; i < 8; i++)
        memset((char *)segment[i] + segment_end, 0, sizeof *segment[i] - segment_end);
    for (unsigned i = 0; i < 2; i++)
        memset((char *)table[i] + table_end, 0, sizeof *table[i] - table_end);
}

static void round_trip(bool is_64)
{
    const struct cpuid_entry lm = { .function = 0x80000001, .edx = is_64 ? 1u << 29 : 0 };
    v->cpuid[0] = lm;
    v->n_cpuid = 1;
    for (unsigned n = 0; n < 2000; n++) {
        fill(&v->cpu, is_64);
        struct cpu_state before;
        zero_padding(&v->cpu);
        memcpy(&before, &v->cpu, sizeof before);
        atomic_store(&v->ev.smi_pending, true);
        assert_true(smm_is_due(v));
        assert_int_equal(smm_enter(v), 0);
        assert_true(v->cpu.in_smm && v->cpu.nmi_masked && !v->cpu.interrupt_shadow && !atomic_load(&v->ev.smi_pending));
        assert_int_equal(v->cpu.smm_inside_nmi, before.nmi_masked);
        atomic_store(&v->ev.smi_pending, true);
        assert_false(smm_is_due(v));
        memset(v->cpu.seg, 0x5a, sizeof v->cpu.seg);
        v->cpu.rip = v->cpu.cr3 = v->cpu.gpr[3] = 0x1234;
        assert_int_equal(smm_leave(v), 0);
        before.smi_count++;
        zero_padding(&v->cpu);
        assert_memory_equal(&v->cpu, &before, sizeof before);
    }
}

static void test_round_trip_64(void **state)
{
    (void)state;
    round_trip(true);
}

static void test_round_trip_32(void **state)
{
    (void)state;
    round_trip(false);
}

static void test_no_smram(void **state)
{
    (void)state;
    struct cpu_state before;
    atomic_store(&v->ev.smi_pending, true);
    v->cpu.smbase = 0x31000; /* its save area is behind the RAM */
    memcpy(&before, &v->cpu, sizeof before);
    assert_int_equal(smm_enter(v), -EFAULT);
    assert_memory_equal(&v->cpu, &before, sizeof before);
    assert_true(smm_is_due(v));
    before.smbase = v->cpu.smbase = 0x30000;
    assert_int_equal(vm_set_memslot(vm, SMM_SLOT, MEMSLOT_READONLY, 0x30000, SMRAM_BYTES, smram), 0);
    assert_int_equal(smm_enter(v), -EFAULT);
    assert_memory_equal(&v->cpu, &before, sizeof before);
    assert_int_equal(vm_set_memslot(vm, SMM_SLOT, 0, 0x30000, SMRAM_BYTES, smram), 0);
    assert_int_equal(smm_enter(v), 0);
    memcpy(&before, &v->cpu, sizeof before);
    assert_int_equal(vm_set_memslot(vm, SMM_SLOT, 0, 0, 0, NULL), 0);
    assert_int_equal(smm_leave(v), -EINVAL); /* shutdown */
    assert_memory_equal(&v->cpu, &before, sizeof before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip_64, create, destroy),
        cmocka_unit_test_setup_teardown(test_round_trip_32, create, destroy),
        cmocka_unit_test_setup_teardown(test_no_smram, create, destroy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
