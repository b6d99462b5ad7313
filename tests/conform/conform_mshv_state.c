/* SPDX-License-Identifier: MIT */
/*
 * What conform_mshv.c's client sets up beside registers: routes and eventfds in their form, VP states, CPUID, features taken away.
 */
#include "tests/conform/mshv_client.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "transport/inproc.h"

/* ---- routes and eventfds ---- */

static void test_routing(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, 7);
    assert_int_equal(call(m.pt, INITIALIZE, NULL), 0);
    static uint32_t table[2 + 4 * 4097];
    memset(table, 0, sizeof table);
    table[0] = 24; /* as one client begins: nothing but zeroes */
    for (uint32_t i = 0; i < 24; i++)
        table[2 + 4 * i] = i;
    assert_int_equal(call(m.pt, SET_ROUTING, table), 0);
    table[2 + 4] = 0;
    assert_int_equal(call(m.pt, SET_ROUTING, table), -EINVAL); /* twice */
    table[2 + 4] = 4096;
    assert_int_equal(call(m.pt, SET_ROUTING, table), -EINVAL);
    table[2 + 4] = 4095;
    assert_int_equal(call(m.pt, SET_ROUTING, table), 0);
    table[2 + 4 + 2] = 1;
    assert_int_equal(call(m.pt, SET_ROUTING, table), -EINVAL);
    table[2 + 4 + 2] = 0;
    table[1] = 1;
    assert_int_equal(call(m.pt, SET_ROUTING, table), -EINVAL);
    table[1] = 0;
    table[0] = 4097;
    assert_int_equal(call(m.pt, SET_ROUTING, table), -EINVAL);
    table[0] = 0;
    assert_int_equal(call(m.pt, SET_ROUTING, table), 0);
    machine_close(&m);
}

static void test_irqfd_form(void **state)
{
    (void)state;
    struct machine m;
    int fd = eventfd(0, EFD_NONBLOCK), ack = eventfd(0, EFD_NONBLOCK);
    machine_open(&m, 7);
    assert_int_equal(call(m.pt, INITIALIZE, NULL), 0);
    int32_t in[4] = { fd, 0, 9, 0 };
    assert_int_equal(call(m.pt, IRQFD, in), 0); /* no route is needed */
    in[2] = 10;
    assert_int_equal(call(m.pt, IRQFD, in), -EBUSY);
    in[3] = 1;
    assert_int_equal(call(m.pt, IRQFD, in), 0); /* taking back what there is not */
    in[2] = 9;
    assert_int_equal(call(m.pt, IRQFD, in), 0);
    in[3] = 4;
    assert_int_equal(call(m.pt, IRQFD, in), -EINVAL);
    in[1] = ack;
    in[3] = 2;
    assert_int_equal(call(m.pt, IRQFD, in), -EINVAL); /* no level to acknowledge */
    uint32_t table[6] = { 1, 0, 9, 0xfee00000, 0, 0x8041 };
    assert_int_equal(call(m.pt, SET_ROUTING, table), 0);
    assert_int_equal(call(m.pt, IRQFD, in), 0);
    in[0] = -1;
    in[3] = 0;
    assert_int_equal(call(m.pt, IRQFD, in), -EBADF);
    in[0] = m.dev;
    assert_int_equal(call(m.pt, IRQFD, in), -EINVAL);
    close(fd);
    close(ack);
    machine_close(&m);
}

static void test_ioeventfd_form(void **state)
{
    struct machine mm, *m = &mm;
    int fd = eventfd(0, EFD_NONBLOCK);
    const struct doorbell good = { 0x5a, HOLE_AT, 4, fd, 1, 0 };
    struct doorbell d = good;
    (void)state;
    machine_create(m, "\xf4", 1);
    assert_int_equal(call(m->pt, IOEVENTFD, &d), 0);
    assert_int_equal(call(m->pt, IOEVENTFD, &d), -EEXIST);
    d.reserved = 1;
    assert_int_equal(call(m->pt, IOEVENTFD, &d), -EINVAL);
    d = good, d.flags = 8;
    assert_int_equal(call(m->pt, IOEVENTFD, &d), -EINVAL);
    d = good, d.flags = 2;
    assert_int_equal(call(m->pt, IOEVENTFD, &d), -EOPNOTSUPP);
    d = good, d.bytes = 3;
    assert_int_equal(call(m->pt, IOEVENTFD, &d), -EINVAL);
    d = good, d.address = ~1ull;
    assert_int_equal(call(m->pt, IOEVENTFD, &d), -EINVAL);
    d = good, d.fd = -1;
    assert_int_equal(call(m->pt, IOEVENTFD, &d), -EBADF);
    d = good, d.flags = 4;
    assert_int_equal(call(m->pt, IOEVENTFD, &d), -ENOENT);
    d = good, d.flags = 5;
    assert_int_equal(call(m->pt, IOEVENTFD, &d), 0);
    assert_int_equal(call(m->pt, IOEVENTFD, &d), -ENOENT);
    close(fd);
    machine_close(m);
}

/* ---- states ---- */

static int state_call(int fd, unsigned long request, uint8_t type, uint32_t *bytes, void *at)
{
    struct {
        uint8_t type, reserved[3];
        uint32_t bytes;
        uint64_t address;
    } in = { type, { 0 }, *bytes, (uint64_t)(uintptr_t)at };
    int r = call(fd, request, &in);
    *bytes = in.bytes;
    return r;
}

static void test_lapic_state(void **state)
{
    (void)state;
    static const struct {
        uint32_t at, value;
    } changes[] = { { 16, 0x1ff }, { 140, 0x700 }, { 144, 0x400 }, { 84 + 4, 0x8000 /* vector 0x2f is requested */ } };
    struct machine mm, *m = &mm;
    machine_create(m, "\xf4", 1);
    uint8_t *page = m->ram + 0x10000, *copy = m->ram + 0x12000;
    uint32_t bytes = 4096, word;
    assert_int_equal(state_call(m->vp[0], GET_STATE, 0, &bytes, page), 0);
    assert_int_equal(bytes, 4096);
    memcpy(&word, page + 148, 4);
    assert_int_equal(word, 0x10000); /* errors, masked by reset */
    for (unsigned i = 0; i < sizeof changes / sizeof changes[0]; i++)
        memcpy(page + changes[i].at, &changes[i].value, 4);
    assert_int_equal(state_call(m->vp[0], SET_STATE, 0, &bytes, page), 0);
    assert_int_equal(state_call(m->vp[0], GET_STATE, 0, &bytes, copy), 0);
    assert_memory_equal(page, copy, 4096);

    assert_int_equal(state_call(m->vp[0], GET_STATE, 5, &bytes, page), -EINVAL);
    assert_int_equal(state_call(m->vp[0], GET_STATE, 0, &bytes, page + 1), -EINVAL);
    assert_int_equal(state_call(m->vp[0], GET_STATE, 0, &bytes, (void *)0x1000), -EFAULT);
    bytes = 100;
    assert_int_equal(state_call(m->vp[0], GET_STATE, 0, &bytes, page), -EINVAL);
    bytes = 0;
    assert_int_equal(state_call(m->vp[0], GET_STATE, 0, &bytes, page), -EINVAL);
    machine_close(m);
}

static uint32_t lapic_count(struct machine *m)
{
    uint32_t bytes = 4096, count;
    assert_int_equal(state_call(m->vp[0], GET_STATE, 0, &bytes, m->ram + 0x10000), 0);
    memcpy(&count, m->ram + 0x10000 + 164, 4);
    return count;
}

/* Its timer counts, but not while time stands still. */
static void test_lapic_frozen(void **state)
{
    (void)state;
    static const uint32_t begin[2] = { 0x7fffffff, 0x7fffffff }, divide_by_1 = 0xb;
    struct machine mm, *m = &mm;
    uint64_t on = 1, off = 0;
    uint32_t bytes = 4096;
    int error;
    machine_create(m, "\xf4", 1);
    lapic_count(m);
    memcpy(m->ram + 0x10000 + 160, begin, 8);
    memcpy(m->ram + 0x10000 + 168, &divide_by_1, 4);
    assert_int_equal(state_call(m->vp[0], SET_STATE, 0, &bytes, m->ram + 0x10000), 0);
    uint32_t first = lapic_count(m), second;
    while ((second = lapic_count(m)) == first)
        ;
    assert_true(second < first);
    assert_int_equal(property(m->pt, 0x45, 0x30003, &on, &error), 0);
    uint32_t frozen = lapic_count(m);
    usleep(20000);
    assert_int_equal(lapic_count(m), frozen);
    assert_int_equal(property(m->pt, 0x45, 0x30003, &off, &error), 0);
    while ((second = lapic_count(m)) == frozen)
        ;
    assert_true(second < frozen);
    machine_close(m);
}

static void test_xsave_state(void **state)
{
    (void)state;
    struct machine mm, *m = &mm;
    const struct value xmm = { 0x1234, 0x5678 };
    uint32_t bytes = 4096;
    uint64_t max = 0, states = 0, xcomp;
    int error;
    machine_create(m, "\xf4", 1);
    uint8_t *page = m->ram + 0x10000;
    assert_int_equal(reg_set_wide(m->vp[0], 0, 0x30003, xmm), 0);
    assert_int_equal(state_call(m->vp[0], GET_STATE, 1, &bytes, page), 0);
    assert_int_equal(property(m->pt, 0x44, 0x60008, &max, &error), 0);
    assert_true(max >= 576 && max <= 4096);
    assert_int_equal(max, bytes);
    assert_int_equal(property(m->pt, 0x44, 0x60007, &states, &error), 0);
    memcpy(&xcomp, page + 520, 8);
    assert_int_equal(xcomp, 1ull << 63 | states);
    assert_memory_equal(page + 160 + 48, &xmm, 16);
    assert_int_equal(reg_set_wide(m->vp[0], 0, 0x30003, (struct value){ 0, 0 }), 0);
    bytes = 4096;
    assert_int_equal(state_call(m->vp[0], SET_STATE, 1, &bytes, page), 0);
    assert_int_equal(reg_get(m->vp[0], 0, 0x30003), 0x1234);
    page[527] = 0; /* the other format */
    bytes = 4096;
    assert_int_equal(state_call(m->vp[0], SET_STATE, 1, &bytes, page), -EINVAL);
    machine_close(m);
}

/* ---- CPUID, MSRs ---- */

static void cpuid_get(int fd, unsigned vp, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    uint32_t in[12] = { 0, 0, vp, 0, 0, 0, leaf, subleaf };
    int error;
    assert_int_equal(hypercall(fd, 0xf4, 1, in, sizeof in, out, 16, &error, NULL), 0);
}

/* Of EAX; is_subleaf: only that part of the leaf. bytes: clients send two sizes. */
static unsigned cpuid_override(int fd, uint32_t vp, const uint32_t leaf[2], bool is_subleaf, uint32_t value, uint32_t mask, unsigned bytes, int *error)
{
    uint32_t in[16] = { 0, 0, vp, 2, leaf[0], leaf[1], is_subleaf | 1 << 8, value, mask };
    return hypercall(fd, 0x91, 0, in, bytes, NULL, 0, error, NULL);
}

static void test_cpuid(void **state)
{
    (void)state;
    static const uint32_t basic[2] = { 1, 0 }, hypervisor[2] = { 0x40000000, 0 }, cache[2] = { 4, 7 }, brand[2] = { 0x80000002, 0 };
    struct machine mm, *m = &mm;
    uint32_t out[4], before[4];
    int error;
    machine_create(m, "\xf4", 1);
    cpuid_get(m->vp[0], 0, 0x40000000, 0, out);
    assert_true(out[1] != 0x4b4d564b); /* not KVM's */
    cpuid_get(m->vp[0], 0, 1, 0, before);
    assert_int_equal(cpuid_override(m->vp[0], 0, basic, false, 0x1234, 0xffff, 64, &error), 0);
    cpuid_get(m->vp[0], 0, 1, 0, out);
    assert_int_equal(out[0], (before[0] & 0xffff0000) | 0x1234);
    assert_int_equal(out[3], before[3]);
    assert_int_equal(cpuid_override(m->vp[0], 0, hypervisor, false, 0x40000005, ~0u, 60, &error), 0);
    cpuid_get(m->vp[0], 0, 0x40000000, 0, out);
    assert_int_equal(out[0], 0x40000005);
    assert_int_equal(out[1], 0);
    assert_int_equal(cpuid_override(m->vp[0], 0, cache, true, 0x77, ~0u, 64, &error), 0);
    cpuid_get(m->vp[0], 0, 4, 7, out);
    assert_int_equal(out[0], 0x77);
    /* of all, and of one that comes later */
    assert_int_equal(cpuid_override(m->pt, ~0u, brand, false, 0x41414141, ~0u, 64, &error), 0);
    m->vp[1] = vp_create(m, 1);
    for (unsigned vp = 0; vp < 2; vp++) {
        cpuid_get(m->vp[vp], vp, 0x80000002, 0, out);
        assert_int_equal(out[0], 0x41414141);
    }
    cpuid_get(m->vp[1], 1, 1, 0, out);
    assert_int_equal(out[1] >> 24, 1); /* its APIC id */
    assert_int_equal(cpuid_override(m->pt, 5, basic, false, 0, 0, 64, &error), 0xe);
    assert_int_equal(error, -EINVAL);
    machine_close(m);
}

static void test_unknown_msr(void **state)
{
    static const uint8_t code[] = { 0x66, 0xb9, 0x34, 0x12, 0x00, 0x0f, 0x0f, 0x32, 0xee };
    struct machine mm, *m = &mm;
    uint64_t value = 1;
    int error;
    (void)state;
    machine_create(m, code, sizeof code);
    memcpy(m->ram + 13 * 4, "\x00\x20\x00\x00", 4); /* #GP */
    m->ram[0x2000] = 0xee;
    reg_set(m->vp[0], 0, 0x20004, 0x8000);
    assert_int_equal(run(m), 0);
    assert_int_equal(P(24, 8), 0x2000);
    assert_int_equal(property(m->pt, 0x45, 0x50017, &value, &error), 0);
    reg_set(m->vp[0], 0, R_RIP, CODE_AT);
    assert_int_equal(run(m), 0);
    assert_int_equal(P(24, 8), CODE_AT + 8);
    assert_int_equal(P(48, 8), 0);
    machine_close(m);
}

/* What is taken away at creation is not there, in CPUID and in the properties. */
static void test_features(void **state)
{
    (void)state;
    struct machine mm, *m = &mm;
    uint64_t host = 0, left = 0, longer[8] = { 0xf, 0, 2, 1ull << 7, 0, 0, 0, 1ull << 2 };
    uint32_t out[4];
    int error;
    machine_open(m, 7);
    vitrine_close(m->pt);
    m->pt = call(m->dev, CREATE_PARTITION, longer);
    assert_int_equal(call(m->pt, INITIALIZE, NULL), 0);
    m->vp[0] = vp_create(m, 0);
    assert_int_equal(property(m->dev, 0x44, 0x6000a, &host, &error), 0);
    assert_true(host & 1); /* SSE3: what runs this has it */
    assert_int_equal(property(m->pt, 0x44, 0x6000a, &left, &error), 0);
    assert_int_equal(left, host & ~(1ull << 7));
    assert_int_equal(property(m->pt, 0x44, 0x60002, &left, &error), 0);
    assert_int_equal(left & 1ull << 2, 0);
    assert_int_equal(property(m->pt, 0x44, 0x60007, &left, &error), 0);
    assert_int_equal(left & 4, 0);
    cpuid_get(m->vp[0], 0, 1, 0, out);
    assert_int_equal(out[2] & (1u << 23 | 1u << 28), 0); /* POPCNT, AVX */
    uint64_t in[3] = { 0, 0x90009, 0 }, banks[2];
    assert_int_equal(hypercall(m->dev, 0x101, 0, in, sizeof in, banks, sizeof banks, &error, NULL), 0);
    assert_int_equal(banks[0] & 0xffff, 1);
    in[1] = 0x90007;
    assert_int_equal(hypercall(m->dev, 0x101, 0, in, sizeof in, banks, sizeof banks, &error, NULL), 6);
    assert_int_equal(error, -EIO);
    machine_close(m);
}

const struct CMUnitTest mshv_state_tests[] = {
    cmocka_unit_test(test_lapic_frozen), cmocka_unit_test(test_ioeventfd_form), cmocka_unit_test(test_routing),
    cmocka_unit_test(test_irqfd_form),   cmocka_unit_test(test_lapic_state),    cmocka_unit_test(test_xsave_state),
    cmocka_unit_test(test_cpuid),        cmocka_unit_test(test_features),       cmocka_unit_test(test_unknown_msr),
};
const size_t mshv_state_test_count = sizeof mshv_state_tests / sizeof mshv_state_tests[0];
