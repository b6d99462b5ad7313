/* SPDX-License-Identifier: MIT */
/*
 * The Microsoft hypervisor's guest interface where it needs more than one CPU, an APIC or moments that a client cannot choose.
 */
#include "chip/hv_priv.h"
#include "chip_fixture.h"

#define OS_ID 0x40000000u
#define VP_INDEX 0x40000002u
#define VP_RUNTIME 0x40000010u
#define TIME 0x40000020u
#define TSC_PAGE 0x40000021u
#define EOI 0x40000070u
#define ICR 0x40000071u
#define TPR 0x40000072u
#define ASSIST_PAGE 0x40000073u
#define PAGE_AT 0x3000u

static void offer(struct vcpu *v)
{
    v->n_cpuid = 2;
    v->cpuid[1] = (struct cpuid_entry){ .function = 0x40000001, .eax = 0x31237648 };
}

static uint64_t get(struct vcpu *v, uint32_t index)
{
    uint64_t value = 0;
    assert_int_equal(vm->chip->msr_read(v, index, &value, false), 0);
    return value;
}

static int set(struct vcpu *v, uint32_t index, uint64_t value)
{
    return vm->chip->msr_write(v, index, value, false);
}

static void test_apic(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        offer(cpu[i]);
        lapic_enable(cpu[i]);
    }
    for (unsigned is_x2 = 0; is_x2 < 2; is_x2++) {
        if (is_x2)
            for (unsigned i = 0; i < 2; i++)
                assert_int_equal(vm->chip->apic_base_set(cpu[i], cpu[i]->cpu.apic_base | APIC_BASE_X2APIC), 0);
        assert_int_equal(set(cpu[0], ICR, (is_x2 ? 1ull << 32 : 1ull << 56) | 0x4051), 0);
        assert_int_equal(vm->chip->irq_take(cpu[1]), 0x51);
        assert_int_equal(set(cpu[0], ICR, (is_x2 ? 1ull << 32 : 1ull << 56) | 0x4041), 0);
        assert_int_equal(vm->chip->irq_peek(cpu[1]), -1);
        assert_int_equal(set(cpu[1], EOI, 0), 0);
        assert_int_equal(vm->chip->irq_peek(cpu[1]), 0x41);
        assert_int_equal(set(cpu[1], TPR, 0x50), 0);
        assert_int_equal(get(cpu[1], TPR), 0x50);
        assert_int_equal(vm->chip->irq_peek(cpu[1]), -1);
        assert_int_equal(set(cpu[1], TPR, 0), 0);
        assert_int_equal(vm->chip->irq_take(cpu[1]), 0x41);
        assert_int_equal(set(cpu[1], EOI, 0), 0);
        assert_int_equal(set(cpu[1], TPR, 1ull << 32), -22);
    }
}

static uint64_t page_time(const struct vcpu *v, uint64_t tsc)
{
    uint64_t scale;
    int64_t offset;
    (void)v;
    memcpy(&scale, ram + PAGE_AT + 8, 8);
    memcpy(&offset, ram + PAGE_AT + 16, 8);
    return (uint64_t)((unsigned __int128)tsc * scale >> 64) + (uint64_t)offset;
}

static uint32_t sequence(void)
{
    uint32_t n;
    memcpy(&n, ram + PAGE_AT, 4);
    return n;
}

static void check_page(struct vcpu *v)
{
    uint64_t before = get(v, TIME), now = page_time(v, vcpu_tsc(v)), after = get(v, TIME);
    assert_true(before <= now && now <= after);
}

static void test_time_page(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        offer(cpu[i]);
    memset(ram + PAGE_AT, 0xff, 24);
    assert_int_equal(set(cpu[1], TSC_PAGE, PAGE_AT | 1), 0);
    assert_int_equal(sequence(), UINT32_MAX); /* it does not run: the first that does writes it */
    vm->chip->vcpu_run_enter(cpu[2]);
    if (!pvclock_is_stable(vm)) {
        assert_int_equal(sequence(), 0);
        skip();
    }
    assert_int_equal(sequence(), 1);
    check_page(cpu[2]);
    vm->chip->vcpu_run_enter(cpu[2]);
    vm->chip->vcpu_run_enter(cpu[0]);
    assert_int_equal(sequence(), 1);
    /* The TSC it was made from moves, backwards too; another's does not matter. */
    cpu[0]->cpu.tsc_offset += 12345;
    vm->chip->vcpu_run_enter(cpu[0]);
    assert_int_equal(sequence(), 1);
    cpu[2]->cpu.tsc_offset -= vcpu_tsc(cpu[2]);
    vm->chip->vcpu_run_enter(cpu[2]);
    assert_int_equal(sequence(), 2);
    check_page(cpu[2]);
    /* The client sets the clock. */
    pvclock_set_ns(vm, 3600 * 1000 * MS);
    vm->chip->vcpu_run_enter(cpu[1]);
    assert_int_equal(sequence(), 3);
    check_page(cpu[1]);
    assert_true(get(cpu[1], TIME) >= 36000000000);
    /* Never 0 but for what is not valid, and no more writes when it is off. */
    memset(ram + PAGE_AT, 0xff, 4);
    pvclock_set_ns(vm, 7200 * 1000 * MS);
    vm->chip->vcpu_run_enter(cpu[1]);
    assert_int_equal(sequence(), 1);
    assert_int_equal(set(cpu[1], TSC_PAGE, PAGE_AT), 0);
    pvclock_set_ns(vm, 0);
    vm->chip->vcpu_run_enter(cpu[1]);
    assert_int_equal(sequence(), 1);
}

static void test_own(void **state)
{
    (void)state;
    uint64_t value;
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(vm->chip->msr_read(cpu[i], VP_INDEX, &value, false), -22);
        assert_int_equal(vm->chip->msr_read(cpu[i], VP_INDEX, &value, true), 0);
        assert_int_equal(value, i);
        offer(cpu[i]);
        assert_int_equal(get(cpu[i], VP_INDEX), i);
    }
    uint64_t before = get(cpu[0], VP_RUNTIME), after = get(cpu[0], VP_RUNTIME);
    assert_true(before <= after);
    assert_int_equal(vm->chip->msr_write(cpu[0], VP_RUNTIME, 1ull << 40, true), 0);
    assert_true(get(cpu[0], VP_RUNTIME) >= 1ull << 40);
    /* The first word of the page is ours, the rest the guest's. */
    memset(ram + PAGE_AT, 0xff, 16);
    assert_int_equal(set(cpu[0], ASSIST_PAGE, PAGE_AT | 1), 0);
    assert_memory_equal(ram + PAGE_AT, "\0\0\0\0\xff\xff\xff\xff", 8);
    assert_int_equal(get(cpu[0], ASSIST_PAGE), PAGE_AT | 1);
    assert_int_equal(set(cpu[0], ASSIST_PAGE, RAM_BYTES | 1), -22);
}

static void test_calls(void **state)
{
    (void)state;
    uint64_t *gpr = cpu[0]->cpu.gpr;
    offer(cpu[0]);
    cpu[0]->cpu.cr0 |= CR0_PE;
    cpu[0]->cpu.seg[SEG_SS].dpl = 0;
    gpr[GPR_RCX] = 8;
    assert_int_equal(vm->chip->hv_call(cpu[0], true), -38); /* nobody said who it is */
    assert_int_equal(set(cpu[0], OS_ID, 1), 0);
    gpr[GPR_RAX] = ~0ull;
    assert_int_equal(vm->chip->hv_call(cpu[0], true), 0);
    assert_int_equal(gpr[GPR_RAX], 0);
    gpr[GPR_RCX] = 1ull << 60 | 8; /* reserved */
    assert_int_equal(vm->chip->hv_call(cpu[0], true), 0);
    assert_int_equal(gpr[GPR_RAX], 3);
    gpr[GPR_RAX] = 0xffffffff00007777, gpr[GPR_RDX] = 0;
    assert_int_equal(vm->chip->hv_call(cpu[0], false), 0);
    assert_int_equal(gpr[GPR_RAX], 2);
    cpu[0]->cpu.seg[SEG_SS].dpl = 3;
    assert_int_equal(vm->chip->hv_call(cpu[0], true), -1);
    cpu[0]->cpu.seg[SEG_SS].dpl = 0;
    cpu[0]->cpu.cr0 &= ~(uint64_t)CR0_PE;
    assert_int_equal(vm->chip->hv_call(cpu[0], false), -1);
    assert_int_equal(vm->chip->hv_call(cpu[1], true), -38); /* its CPUID does not know of it */
}

static uint64_t call(uint64_t control, uint64_t first, uint64_t second)
{
    uint64_t *gpr = cpu[0]->cpu.gpr;
    gpr[GPR_RCX] = control;
    gpr[GPR_RDX] = first;
    gpr[GPR_R8] = second;
    assert_int_equal(vm->chip->hv_call(cpu[0], true), 0);
    return gpr[GPR_RAX];
}

static void caller_ready(void)
{
    offer(cpu[0]);
    cpu[0]->cpu.cr0 |= CR0_PE;
    cpu[0]->cpu.seg[SEG_SS].dpl = 0;
    assert_int_equal(set(cpu[0], OS_ID, 1), 0);
}

static void put(const uint64_t *word, size_t n)
{
    memcpy(ram + PAGE_AT, word, n * sizeof *word);
}

#define REPS(n) ((uint64_t)(n) << 32)
#define VARIABLE(n) ((uint64_t)(n) << 17)
#define FAST (1ull << 16)

static void test_flush(void **state)
{
    (void)state;
    caller_ready();
    /* By index, which the client chose. */
    assert_int_equal(vm->chip->msr_write(cpu[1], VP_INDEX, 70, true), 0);
    put((uint64_t[]){ 0, 0, 5 }, 3);
    assert_int_equal(call(2, PAGE_AT, 0), 0);
    assert_int_equal(flushed, 5);
    put((uint64_t[]){ 0, 0, 2 }, 3);
    assert_int_equal(call(2, PAGE_AT, 0), 0);
    assert_int_equal(flushed, 0);
    put((uint64_t[]){ 0, 1, 2 }, 3);
    assert_int_equal(call(2, PAGE_AT, 0), 0);
    assert_int_equal(flushed, 7);
    put((uint64_t[]){ 0, 0, 4, 0x1000 }, 4);
    assert_int_equal(call(3 | REPS(1), PAGE_AT, 0), REPS(1));
    assert_int_equal(flushed, 4);
    put((uint64_t[]){ 0, 0, 0, 3, 4, 1u << 6 }, 6);
    assert_int_equal(call(0x13 | VARIABLE(2), PAGE_AT, 0), 0);
    assert_int_equal(flushed, 6);
    assert_int_equal(call(0x14 | VARIABLE(2) | REPS(3), PAGE_AT, 0), REPS(3));
    put((uint64_t[]){ 0, 0, 1, 0 }, 4);
    assert_int_equal(call(0x13, PAGE_AT, 0), 0);
    assert_int_equal(flushed, 7);
    put((uint64_t[]){ 0, 0, 0, 0 }, 4);
    assert_int_equal(call(0x13, PAGE_AT, 0), 0);
    assert_int_equal(flushed, 0);
    /* What is wrong. */
    flushed = 99;
    assert_int_equal(call(2 | REPS(1), PAGE_AT, 0), 3);
    assert_int_equal(call(3, PAGE_AT, 0), 3);
    assert_int_equal(call(2 | VARIABLE(1), PAGE_AT, 0), 3);
    assert_int_equal(call(2 | FAST, 0, 0), 3);
    assert_int_equal(call(2, PAGE_AT + 4, 0), 4);
    assert_int_equal(call(2, RAM_BYTES, 0), 3);
    put((uint64_t[]){ 0, 0, 0, 3, 1, 1 }, 6);
    assert_int_equal(call(0x13 | VARIABLE(1), PAGE_AT, 0), 3);
    put((uint64_t[]){ 0, 0, 2, 0 }, 4);
    assert_int_equal(call(0x13, PAGE_AT, 0), 3);
    assert_int_equal(flushed, 99);
}

static void test_ipis(void **state)
{
    (void)state;
    caller_ready();
    for (unsigned i = 0; i < 3; i++)
        lapic_enable(cpu[i]);
    assert_int_equal(call(0xb | FAST, 0x41, 3), 0);
    assert_int_equal(vm->chip->irq_take(cpu[0]), 0x41);
    assert_int_equal(vm->chip->irq_peek(cpu[1]), 0x41);
    assert_int_equal(vm->chip->irq_peek(cpu[2]), -1);
    put((uint64_t[]){ 0x52, 4 }, 2);
    assert_int_equal(call(0xb, PAGE_AT, 0), 0);
    assert_int_equal(vm->chip->irq_peek(cpu[2]), 0x52);
    assert_int_equal(vm->chip->msr_write(cpu[1], VP_INDEX, 70, true), 0);
    put((uint64_t[]){ 0x63, 0, 2, 1u << 6 }, 4);
    assert_int_equal(call(0x15 | VARIABLE(1), PAGE_AT, 0), 0);
    assert_int_equal(vm->chip->irq_peek(cpu[1]), 0x63);
    assert_int_equal(vm->chip->irq_peek(cpu[2]), 0x52);
    put((uint64_t[]){ 0x74, 1, 0 }, 3);
    assert_int_equal(call(0x15, PAGE_AT, 0), 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(vm->chip->irq_peek(cpu[i]), 0x74);
    assert_int_equal(call(0xb | FAST, 0xf, 7), 3);
    assert_int_equal(call(0xb | FAST, 0x100, 7), 3);
    assert_int_equal(call(0xb | FAST | REPS(1), 0x41, 7), 3);
    assert_int_equal(call(0x15 | FAST, 0x41, 7), 3);
    assert_int_equal(call(0xb, PAGE_AT + 4, 0), 4);
    assert_int_equal(call(0xb, RAM_BYTES, 0), 3);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = { CASE(test_apic), CASE(test_time_page), CASE(test_own), CASE(test_calls), CASE(test_flush), CASE(test_ipis) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
