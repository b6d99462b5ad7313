/* SPDX-License-Identifier: MIT */
/*
 * Local APIC: reset values, priorities, destinations, modes, timer, state, and the paravirtual clock MSRs beside it.
 */
#include <errno.h>
#include <time.h>

#include "chip_fixture.h"
#include "core/time.h"

static const struct chip_ops *ops = &pc_chip_ops;

static void test_reset_values(void **state)
{
    (void)state;
    assert_int_equal(reg_read(cpu[1], LREG_ID), 1u << 24);
    assert_int_equal(reg_read(cpu[0], LREG_VERSION), 0x50014);
    assert_int_equal(reg_read(cpu[0], LREG_LVT_LINT0), 0x700);
    assert_int_equal(reg_read(cpu[1], LREG_LVT_LINT0), 0x10000);
    assert_int_equal(reg_read(cpu[0], LREG_SVR), 0xff);
    assert_int_equal(reg_read(cpu[0], LREG_DFR), 0xffffffffu);
    assert_int_equal(cpu[0]->cpu.apic_base, 0xfee00900);
    assert_int_equal(cpu[1]->cpu.apic_base, 0xfee00800);
}

static void test_priorities(void **state)
{
    (void)state;
    lapic_enable(cpu[0]);
    reg_write(cpu[0], LREG_ICR, 0x40 | 1u << 18);
    reg_write(cpu[0], LREG_ICR, 0x60 | 1u << 18);
    assert_true(atomic_load(&cpu[0]->requests) & VREQ_EVENT);
    assert_int_equal(ops->irq_peek(cpu[0]), 0x60);
    assert_int_equal(ops->irq_take(cpu[0]), 0x60);
    assert_int_equal(ops->irq_peek(cpu[0]), -1);
    assert_int_equal(reg_read(cpu[0], LREG_PPR), 0x60);
    reg_write(cpu[0], LREG_ICR, 0x71 | 1u << 18);
    assert_int_equal(ops->irq_take(cpu[0]), 0x71);
    reg_write(cpu[0], LREG_EOI, 0);
    assert_int_equal(ops->irq_peek(cpu[0]), -1);
    ops->cr8_set(cpu[0], 4);
    reg_write(cpu[0], LREG_EOI, 0);
    assert_int_equal(ops->irq_peek(cpu[0]), -1);
    ops->cr8_set(cpu[0], 3);
    assert_int_equal(reg_read(cpu[0], LREG_TPR), 0x30);
    assert_int_equal(ops->irq_take(cpu[0]), 0x40);
}

static void test_destinations(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        lapic_enable(cpu[i]);
        reg_write(cpu[i], LREG_LDR, 1u << (24 + i));
    }
    reg_write(cpu[0], LREG_ICR2, 2u << 24);
    reg_write(cpu[0], LREG_ICR, 0x41);
    assert_int_equal(ops->irq_take(cpu[2]), 0x41);
    assert_int_equal(ops->irq_peek(cpu[1]), -1);
    reg_write(cpu[0], LREG_ICR2, 6u << 24);
    reg_write(cpu[0], LREG_ICR, 0x52 | 1u << 11); /* logical, flat: 1 and 2 */
    assert_int_equal(ops->irq_take(cpu[1]), 0x52);
    assert_int_equal(ops->irq_take(cpu[2]), 0x52);
    assert_int_equal(ops->irq_peek(cpu[0]), -1);
    reg_write(cpu[1], LREG_ICR, 0x63 | 3u << 18); /* all but self */
    assert_int_equal(ops->irq_take(cpu[0]), 0x63);
    assert_int_equal(ops->irq_take(cpu[2]), 0x63);
    assert_int_equal(ops->irq_peek(cpu[1]), -1);
    reg_write(cpu[0], LREG_ICR2, 0xffu << 24);
    reg_write(cpu[0], LREG_ICR, 0x400); /* NMI, broadcast */
    assert_int_equal(atomic_load(&cpu[1]->ev.nmi_pending), 1);
    reg_write(cpu[0], LREG_ICR, 0x400);
    reg_write(cpu[0], LREG_ICR, 0x400);
    assert_int_equal(atomic_load(&cpu[1]->ev.nmi_pending), 2);
    for (unsigned i = 0; i < 3; i++) { /* cluster: cpus 0 and 1 in cluster 1, 2 in cluster 2 */
        reg_write(cpu[i], LREG_DFR, 0);
        reg_write(cpu[i], LREG_LDR, (i < 2 ? 0x10u | 1u << i : 0x21u) << 24);
    }
    assert_int_equal(ops->msi_send(vm, 0xfee12004, 0x74), 1); /* cluster 1, member 1 */
    assert_int_equal(ops->irq_take(cpu[1]), 0x74);
    assert_int_equal(ops->irq_peek(cpu[2]), -1);
}

static void test_lowest_priority_rotates(void **state)
{
    (void)state;
    lapic_enable(cpu[0]);
    lapic_enable(cpu[1]);
    assert_int_equal(ops->msi_send(vm, 0xfee00000 | 0xff << 12, 0x155), 1);
    assert_int_equal(ops->msi_send(vm, 0xfee00000 | 0xff << 12, 0x155), 1);
    assert_int_equal(ops->irq_take(cpu[0]), 0x55);
    assert_int_equal(ops->irq_take(cpu[1]), 0x55);
    assert_int_equal(ops->msi_send(vm, 0xfee00000 | 9 << 12, 0x55), -1);
    assert_int_equal(ops->msi_send(vm, 0xfee00000 | 2 << 12, 0x55), -1); /* software disabled */
}

static void test_init_sipi(void **state)
{
    (void)state;
    reg_write(cpu[0], LREG_ICR2, 1u << 24);
    reg_write(cpu[0], LREG_ICR, 0x600 | 0x12);
    assert_true(atomic_load(&cpu[1]->requests) & VREQ_SIPI);
    reg_write(cpu[0], LREG_ICR, 0xc500);
    assert_true(atomic_load(&cpu[1]->requests) & VREQ_INIT);
    assert_false(atomic_load(&cpu[1]->requests) & VREQ_SIPI);
    atomic_store(&cpu[1]->requests, 0);
    reg_write(cpu[0], LREG_ICR, 0x8500); /* de-assert */
    assert_int_equal(atomic_load(&cpu[1]->requests), 0);
    reg_write(cpu[0], LREG_ICR, 0x4600 | 0x9a);
    assert_true(atomic_load(&cpu[1]->requests) & VREQ_SIPI);
    assert_int_equal(atomic_load(&cpu[1]->sipi_vector), 0x9a);
}

static void test_base_and_x2apic(void **state)
{
    (void)state;
    uint64_t value;
    atomic_store(&cpu[1]->is_running, true);
    assert_int_equal(ops->apic_base_set(cpu[1], 0xfee00400), -EINVAL);
    assert_int_equal(ops->apic_base_set(cpu[1], 0xfee00801), -EINVAL);
    assert_int_equal(ops->msr_read(cpu[1], 0x802, &value, false), -EINVAL);
    assert_int_equal(ops->apic_base_set(cpu[1], 0xfee00c00), 0);
    assert_int_equal(ops->apic_base_set(cpu[1], 0xfee00800), -EINVAL);
    assert_int_equal(ops->msr_read(cpu[1], 0x802, &value, false), 0);
    assert_int_equal(value, 1);
    assert_int_equal(ops->msr_read(cpu[1], 0x80d, &value, false), 0);
    assert_int_equal(value, 2);
    assert_int_equal(ops->msr_read(cpu[1], 0x80e, &value, false), -EINVAL);
    assert_int_equal(ops->msr_read(cpu[1], 0x80b, &value, false), -EINVAL);
    assert_int_equal(ops->msr_write(cpu[1], 0x80b, 1, false), -EINVAL);
    assert_int_equal(ops->msr_write(cpu[1], 0x80f, 0x1ff, false), 0);
    assert_int_equal(ops->msr_write(cpu[1], 0x83f, 0x77, false), 0);
    assert_int_equal(ops->irq_take(cpu[1]), 0x77);
    assert_int_equal(ops->msr_write(cpu[1], 0x80b, 0, false), 0);
    lapic_enable(cpu[0]);
    assert_int_equal(ops->msr_write(cpu[1], 0x830, 0x88, false), 0); /* to id 0 */
    assert_int_equal(ops->irq_take(cpu[0]), 0x88);
    assert_int_equal(ops->msr_write(cpu[1], 0x830, 0x99 | 1u << 11 | 2ull << 32, false), 0); /* to itself, logically */
    assert_int_equal(ops->irq_take(cpu[1]), 0x99);
    assert_int_equal(ops->msr_read(cpu[1], 0x830, &value, false), 0);
    assert_int_equal(value, 0x99 | 1u << 11 | 2ull << 32);
    assert_int_equal(ops->apic_base_set(cpu[1], 0xfee00000), 0);
    assert_int_equal(ops->apic_base_set(cpu[1], 0xfee00c00), -EINVAL);
    assert_int_equal(ops->apic_base_set(cpu[1], 0xfee00800), 0);
    atomic_store(&cpu[1]->is_running, false);
}

static void test_software_disable_masks(void **state)
{
    (void)state;
    lapic_enable(cpu[0]);
    reg_write(cpu[0], LREG_LVT_TIMER, 0x20);
    assert_int_equal(reg_read(cpu[0], LREG_LVT_TIMER), 0x20);
    reg_write(cpu[0], LREG_SVR, 0xff);
    assert_int_equal(reg_read(cpu[0], LREG_LVT_TIMER), 0x10020);
    reg_write(cpu[0], LREG_LVT_TIMER, 0x20);
    assert_int_equal(reg_read(cpu[0], LREG_LVT_TIMER), 0x10020);
}

static void test_error_lvt(void **state)
{
    (void)state;
    lapic_enable(cpu[0]);
    reg_write(cpu[0], LREG_LVT_ERROR, 0xfe);
    reg_write(cpu[0], LREG_ICR, 5 | 1u << 18);
    assert_int_equal(ops->irq_take(cpu[0]), 0xfe);
    assert_int_equal(reg_read(cpu[0], LREG_ESR), 0);
    reg_write(cpu[0], LREG_ESR, 0);
    assert_int_equal(reg_read(cpu[0], LREG_ESR), 0x20);
    reg_write(cpu[0], LREG_ESR, 0);
    assert_int_equal(reg_read(cpu[0], LREG_ESR), 0);
}

static void test_timer_oneshot(void **state)
{
    (void)state;
    lapic_enable(cpu[0]);
    reg_write(cpu[0], LREG_TIMER_DIVIDE, 0xb); /* 1 */
    reg_write(cpu[0], LREG_LVT_TIMER, 0x30);
    reg_write(cpu[0], LREG_TIMER_INIT, 500000000);
    assert_int_equal(reg_read(cpu[0], LREG_TIMER_CURRENT), 500000000);
    hand_clock_step_ns(2 * MS);
    assert_int_equal(reg_read(cpu[0], LREG_TIMER_CURRENT), 498000000);
    assert_int_equal(ops->irq_take(cpu[0]), -1);
    reg_write(cpu[0], LREG_TIMER_DIVIDE, 0x0); /* 2 */
    assert_int_equal(reg_read(cpu[0], LREG_TIMER_CURRENT), 498000000);
    reg_write(cpu[0], LREG_TIMER_INIT, 2500000);
    hand_clock_step_ns(5 * MS - 1);
    assert_int_equal(ops->irq_take(cpu[0]), -1);
    hand_clock_step_ns(1);
    assert_int_equal(ops->irq_take(cpu[0]), 0x30);
    assert_int_equal(reg_read(cpu[0], LREG_TIMER_CURRENT), 0);
    reg_write(cpu[0], LREG_EOI, 0);
    hand_clock_step_ns(1000 * MS);
    assert_int_equal(ops->irq_take(cpu[0]), -1);
}

static void test_timer_periodic(void **state)
{
    (void)state;
    lapic_enable(cpu[0]);
    reg_write(cpu[0], LREG_TIMER_DIVIDE, 0xb);
    reg_write(cpu[0], LREG_LVT_TIMER, 0x20030);
    reg_write(cpu[0], LREG_TIMER_INIT, 3000000);
    for (unsigned i = 0; i < 4; i++) {
        hand_clock_step_ns(3 * MS - 1);
        assert_int_equal(reg_read(cpu[0], LREG_TIMER_CURRENT), 1);
        assert_int_equal(ops->irq_take(cpu[0]), -1);
        hand_clock_step_ns(1);
        assert_int_equal(reg_read(cpu[0], LREG_TIMER_CURRENT), 3000000);
        assert_int_equal(ops->irq_take(cpu[0]), 0x30);
        reg_write(cpu[0], LREG_EOI, 0);
    }
    reg_write(cpu[0], LREG_TIMER_INIT, 0);
    hand_clock_step_ns(1000 * MS);
    assert_int_equal(ops->irq_take(cpu[0]), -1);
}

/* The TSC is the host's and goes on by itself: the timer expires on the clock, not before the TSC can be there. */
static void test_tsc_deadline(void **state)
{
    (void)state;
    uint64_t value = 1;
    lapic_enable(cpu[0]);
    assert_int_equal(ops->msr_write(cpu[0], MSR_TSC_DEADLINE, 12345, false), 0); /* ignored in another mode */
    assert_int_equal(ops->msr_read(cpu[0], MSR_TSC_DEADLINE, &value, false), 0);
    assert_int_equal(value, 0);
    reg_write(cpu[0], LREG_LVT_TIMER, 0x40031);
    uint64_t before = vcpu_tsc(cpu[0]), deadline = before + time_ns_to_tsc(cpu[0], 3600000 * MS);
    assert_int_equal(ops->msr_write(cpu[0], MSR_TSC_DEADLINE, deadline, false), 0);
    uint64_t after = vcpu_tsc(cpu[0]);
    assert_int_equal(ops->msr_read(cpu[0], MSR_TSC_DEADLINE, &value, false), 0);
    assert_int_equal(value, deadline);
    uint64_t soonest = time_tsc_to_ns(cpu[0], deadline - after), latest = time_tsc_to_ns(cpu[0], deadline - before) + 1;
    hand_clock_step_ns(soonest);
    assert_int_equal(ops->irq_take(cpu[0]), -1);
    hand_clock_step_ns(latest - soonest);
    assert_int_equal(ops->irq_take(cpu[0]), 0x31);
    assert_int_equal(ops->msr_read(cpu[0], MSR_TSC_DEADLINE, &value, false), 0);
    assert_int_equal(value, 0);
    reg_write(cpu[0], LREG_EOI, 0);
    assert_int_equal(ops->msr_write(cpu[0], MSR_TSC_DEADLINE, 1, false), 0); /* past: at once */
    assert_int_equal(ops->irq_take(cpu[0]), 0x31);
}

static void test_state_round_trip(void **state)
{
    (void)state;
    uint8_t a[LAPIC_PAGE_BYTES], b[LAPIC_PAGE_BYTES];
    lapic_enable(cpu[1]);
    reg_write(cpu[1], LREG_ICR, 0x45 | 1u << 18);
    reg_write(cpu[1], LREG_ICR, 0x87 | 1u << 18);
    assert_int_equal(ops->irq_take(cpu[1]), 0x87);
    lapic_state_get(cpu[1], a);
    ops->lapic_reset(cpu[1], false);
    assert_int_equal(ops->irq_peek(cpu[1]), -1);
    assert_int_equal(lapic_state_set(cpu[1], a), 0);
    lapic_state_get(cpu[1], b);
    assert_memory_equal(a, b, sizeof(a));
    reg_write(cpu[1], LREG_EOI, 0);
    assert_int_equal(ops->irq_take(cpu[1]), 0x45);
}

struct clock_page {
    uint32_t version, pad;
    uint64_t tsc, ns;
    uint32_t mul;
    int8_t shift;
    uint8_t flags;
};

/* What a guest reads from its page now. */
static uint64_t guest_ns(const struct clock_page *page)
{
    uint64_t ticks = vcpu_tsc(cpu[0]) - page->tsc;
    ticks = page->shift < 0 ? ticks >> -page->shift : ticks << page->shift;
    return page->ns + (uint64_t)((unsigned __int128)ticks * page->mul >> 32);
}

/* The VM's clock goes by the TSC like the guest's, or where that is not to be trusted by the test's clock, which stands. */
static void check_same_clock(const struct clock_page *page)
{
    uint64_t before = guest_ns(page), host = pvclock_now_ns(vm), after = guest_ns(page);
    if (page->flags & 1)
        assert_true(before <= host && host <= after);
    else
        assert_true(host == page->ns);
}

static uint64_t wall_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 * MS + (uint64_t)t.tv_nsec;
}

static void test_pv_clock(void **state)
{
    (void)state;
    struct clock_page page;
    uint64_t value;
    memset(ram, 0, sizeof(ram));
    assert_int_equal(ops->msr_write(cpu[0], 0x4b564d01, 0x1001, false), 0);
    ops->vcpu_run_enter(cpu[0]);
    memcpy(&page, ram + 0x1000, sizeof(page));
    assert_true(page.version >= 2 && !(page.version & 1));
    check_same_clock(&page);
    uint32_t version = page.version;
    ops->vcpu_run_enter(cpu[0]);
    uint64_t before = vcpu_tsc(cpu[0]);
    pvclock_set_ns(vm, 1000000 * MS);
    ops->vcpu_run_enter(cpu[0]);
    memcpy(&page, ram + 0x1000, sizeof(page));
    assert_true(page.version > version);
    check_same_clock(&page);
    uint64_t host = pvclock_now_ns(vm) - 1000000 * MS;
    assert_true(host <= time_tsc_to_ns(cpu[0], vcpu_tsc(cpu[0]) - before));
    uint64_t wall_before = wall_ns(), clock_before = pvclock_now_ns(vm);
    assert_int_equal(ops->msr_write(cpu[0], 0x11, 0x2000, false), 0);
    uint64_t wall_after = wall_ns(), clock_after = pvclock_now_ns(vm);
    uint32_t wall[3];
    memcpy(wall, ram + 0x2000, sizeof(wall));
    assert_true(!(wall[0] & 1) && wall[0]);
    uint64_t boot = wall[1] * (1000 * MS) + wall[2];
    assert_true(boot >= wall_before - clock_after && boot <= wall_after - clock_before);
    assert_int_equal(ops->msr_write(cpu[0], 0x4b564d03, 0x3003, false), -EINVAL);
    assert_int_equal(ops->msr_write(cpu[0], 0x4b564d03, 0x3001, false), 0);
    ops->vcpu_run_enter(cpu[0]);
    memcpy(&version, ram + 0x3008, 4);
    assert_true(version && !(version & 1));
    assert_int_equal(ops->msr_read(cpu[0], 0x4b564d05, &value, false), 0);
    assert_int_equal(value, 1);
    assert_int_equal(ops->msr_read(cpu[0], 0x4b564d02, &value, false), -ENOENT);
    assert_int_equal(pvclock_mark_stopped(cpu[0]), 0);
    ops->vcpu_run_enter(cpu[0]);
    memcpy(&page, ram + 0x1000, sizeof(page));
    assert_true(page.flags & 2);
    assert_int_equal(pvclock_mark_stopped(cpu[1]), -EINVAL);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_reset_values),  CASE(test_priorities),      CASE(test_destinations),           CASE(test_lowest_priority_rotates),
        CASE(test_init_sipi),     CASE(test_base_and_x2apic), CASE(test_software_disable_masks), CASE(test_error_lvt),
        CASE(test_timer_oneshot), CASE(test_timer_periodic),  CASE(test_tsc_deadline),           CASE(test_state_round_trip),
        CASE(test_pv_clock),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
