/* SPDX-License-Identifier: MIT */
/*
 * A client of /dev/mshv, written from what the interface is known to be and not from the front: each ioctl, hypercall, property and register that is served,
 * with its errors; the messages are conform_mshv_run.c's, what is set up beside registers conform_mshv_state.c's. In process; there is no host half.
 */
#include "tests/conform/mshv_client.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "transport/inproc.h"

/* ---- device and partition ---- */

static void test_create(void **state)
{
    (void)state;
    struct machine m;
    int error;
    machine_open(&m, 7);
    uint64_t bad_flags[2] = { 1ull << 40, 0 }, isolated[2] = { 7, 1 };
    assert_int_equal(call(m.dev, CREATE_PARTITION, bad_flags), -EINVAL);
    assert_int_equal(call(m.dev, CREATE_PARTITION, isolated), -EINVAL);
    assert_int_equal(call(m.dev, CREATE_PARTITION, NULL), -EFAULT);
    uint64_t longer[8] = { 0xf, 0, 2, 0, 0, 0, 0, 0 };
    int pt = call(m.dev, CREATE_PARTITION, longer);
    assert_true(pt >= 0);
    vitrine_close(pt);
    longer[2] = 3;
    assert_int_equal(call(m.dev, CREATE_PARTITION, longer), -EINVAL);
    longer[2] = 2 | 1ull << 16;
    assert_int_equal(call(m.dev, CREATE_PARTITION, longer), -EINVAL);
    longer[2] = 2;
    longer[6] = 1;
    assert_int_equal(call(m.dev, CREATE_PARTITION, longer), -EINVAL);
    assert_int_equal(call(m.dev, 0xb8ff, NULL), -ENOTTY);
    assert_int_equal(call(m.pt, CREATE_PARTITION, longer), -ENOTTY);
    /* before it is initialised */
    assert_int_equal(vp_create(&m, 0), -EIO);
    assert_int_equal(map(&m, 0, m.ram, RAM_BYTES, 3), -EIO);
    uint32_t name = R_RIP;
    struct value v;
    uint8_t in[20] = { 0 };
    memcpy(in + 16, &name, 4);
    assert_int_equal(hypercall(m.pt, 0x50, 1, in, sizeof in, &v, sizeof v, &error, NULL), 7);
    assert_int_equal(error, -EIO);
    assert_int_equal(call(m.pt, INITIALIZE, NULL), 0);
    assert_int_equal(call(m.pt, INITIALIZE, NULL), 0);
    assert_int_equal(vp_create(&m, 256), -EINVAL);
    m.vp[0] = vp_create(&m, 0);
    assert_true(m.vp[0] >= 0);
    assert_int_equal(vp_create(&m, 0), -EEXIST);
    vitrine_close(m.vp[0]);
    m.vp[0] = 0;
    assert_int_equal(vp_create(&m, 0), -EEXIST); /* it stays with the partition */
    m.vp[1] = vp_create(&m, 1);
    assert_int_equal(call(m.vp[1], INITIALIZE, NULL), -ENOTTY);
    /* a VP keeps the partition */
    vitrine_close(m.pt);
    assert_int_equal(reg_get(m.vp[1], 1, 0x8000c), 1);
    m.pt = call(m.dev, CREATE_PARTITION, (uint64_t[2]){ 7, 0 });
    machine_close(&m);
}

static void test_memory(void **state)
{
    (void)state;
    struct machine m;
    machine_open(&m, 7);
    assert_int_equal(call(m.pt, INITIALIZE, NULL), 0);
    assert_int_equal(map(&m, 0x1000, m.ram, 0x1000, 3), 0); /* one page at pfn 1 */
    assert_int_equal(map(&m, 0x1000, m.ram, 0x1000, 4), 0);
    assert_int_equal(map(&m, 0x1000, m.ram, 0x1000, 4), -EINVAL);
    assert_int_equal(map(&m, 0, m.ram, 0x4000, 3), 0);
    assert_int_equal(map(&m, 0x3000, m.ram, 0x4000, 3), -EEXIST);
    assert_int_equal(map(&m, 0x4000, m.ram, 0x4000, 2), 0); /* the same memory twice */
    assert_int_equal(map(&m, 0, m.ram, 0x3000, 4), -EINVAL);
    assert_int_equal(map(&m, 0, m.ram + 0x1000, 0x4000, 4), -EINVAL);
    assert_int_equal(map(&m, 0x1000, m.ram, 0x4000, 4), -EINVAL);
    assert_int_equal(map(&m, 0x10000, m.ram, 0, 3), -EINVAL);
    assert_int_equal(map(&m, 0x10000, m.ram, 0x800, 3), -EINVAL);
    assert_int_equal(map(&m, 0x10000, m.ram + 1, 0x1000, 3), -EINVAL);
    assert_int_equal(map(&m, 0x10000, m.ram, 0x1000, 8), -EINVAL);
    struct memory r = { 0x1000, 0x10, (uint64_t)(uintptr_t)m.ram, 3, { 1 } };
    assert_int_equal(call(m.pt, SET_MEMORY, &r), -EINVAL);
    void *gone = mmap(NULL, 0x1000, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(gone, 0x1000);
    assert_int_equal(map(&m, 0x10000, gone, 0x1000, 3), -EINVAL);
    for (unsigned i = 0; i < 100; i++) { /* more than one growth of the table */
        assert_int_equal(map(&m, 0x100000 + i * 0x2000, m.ram, 0x1000, 3), 0);
        if (i % 3 == 0)
            assert_int_equal(map(&m, 0x100000 + i * 0x2000, m.ram, 0x1000, 4), 0);
    }
    machine_close(&m);
}

static void test_properties(void **state)
{
    (void)state;
    struct machine m;
    uint64_t value = 0x6400ffb;
    int error;
    machine_open(&m, 7);
    assert_int_equal(property(m.pt, 0x45, 0x10001, &value, &error), 0);
    assert_int_equal(call(m.pt, INITIALIZE, NULL), 0);
    assert_int_equal(property(m.pt, 0x45, 0x10001, &value, &error), 7);
    assert_int_equal(error, -EIO);
    value = 1;
    assert_int_equal(property(m.pt, 0x45, 0x50017, &value, &error), 0);
    value = 9;
    assert_int_equal(property(m.pt, 0x44, 0x50017, &value, &error), 0);
    assert_int_equal(value, 1);
    value = 2;
    assert_int_equal(property(m.pt, 0x45, 0x50017, &value, &error), 0xa);
    assert_int_equal(property(m.pt, 0x45, 0x60009, &value, &error), 7); /* the host's */
    assert_int_equal(property(m.dev, 0x44, 0x60009, &value, &error), 0);
    assert_true(value > 100000000);
    assert_int_equal(property(m.dev, 0x44, 0x50017, &value, &error), 9); /* a partition's */
    assert_int_equal(property(m.pt, 0x44, 0x7777, &value, &error), 9);
    assert_int_equal(error, -EIO);
    assert_int_equal(property(m.dev, 0x45, 0x50017, &value, &error), 0);
    assert_int_equal(error, -EINVAL); /* may not be made there at all */
    m.vp[0] = vp_create(&m, 0);
    assert_int_equal(property(m.vp[0], 0x45, 0x50017, &value, &error), 0);
    assert_int_equal(error, -EINVAL);
    machine_close(&m);
}

static void test_hypercall_form(void **state)
{
    (void)state;
    struct machine m;
    uint64_t in[4] = { 0, 0x60009 }, out[2];
    int error;
    machine_open(&m, 7);
    assert_int_equal(call(m.pt, INITIALIZE, NULL), 0);
    struct hv good = { 0x44, 0, 16, 8, 0, { 0 }, (uint64_t)(uintptr_t)in, (uint64_t)(uintptr_t)out }, h;
    h = good;
    assert_int_equal(call(m.pt, HVCALL, &h), 0);
    h = good, h.status = 1;
    assert_int_equal(call(m.pt, HVCALL, &h), -EINVAL);
    h = good, h.reserved[5] = 1;
    assert_int_equal(call(m.pt, HVCALL, &h), -EINVAL);
    h = good, h.in = 0;
    assert_int_equal(call(m.pt, HVCALL, &h), -EINVAL);
    h = good, h.in_bytes = 4;
    assert_int_equal(call(m.pt, HVCALL, &h), -EINVAL);
    h = good, h.in_bytes = 4097;
    assert_int_equal(call(m.pt, HVCALL, &h), -EINVAL);
    h = good, h.out_bytes = 0;
    assert_int_equal(call(m.pt, HVCALL, &h), -EINVAL);
    h = good, h.out_bytes = 4097;
    assert_int_equal(call(m.pt, HVCALL, &h), -EINVAL);
    h = good, h.code = 0x40;
    assert_int_equal(call(m.pt, HVCALL, &h), -EINVAL);
    h = good, h.in = 8;
    assert_int_equal(call(m.pt, HVCALL, &h), -EFAULT);
    h = good, h.reps = 1; /* it repeats nothing */
    assert_int_equal(call(m.pt, HVCALL, &h), -EINVAL);
    assert_int_equal(h.status, 3);
    assert_int_equal(h.reps, 0);
    h = good, h.in_bytes = 8;
    assert_int_equal(call(m.pt, HVCALL, &h), -EINVAL);
    assert_int_equal(h.status, 3);
    assert_int_equal(hypercall(m.dev, 0x50, 1, in, 20, out, 16, &error, NULL), 0);
    assert_int_equal(error, -EINVAL);
    machine_close(&m);
}

/* ---- registers ---- */

static void test_registers(void **state)
{
    (void)state;
    struct machine mm, *m = &mm;
    machine_create(m, "\xf4", 1);
    static const uint32_t plain[] = { 0x20000, 0x20004, 0x2000f, 0x40001, 0x40002, 0x50000, 0x50003, 0x80002, 0x80004, 0x80006, 0x80008, 0x80009, 0x8000b };
    for (unsigned i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        uint64_t value = plain[i] == 0x80004 ? 0x0007040600070406 : 0x12345000 + i * 0x1000ull;
        assert_int_equal(reg_set(m->vp[0], 0, plain[i], value), 0);
        assert_int_equal(reg_get(m->vp[0], 0, plain[i]), value);
    }
    for (uint32_t name = 0x30000; name < 0x30018; name++) {
        const struct value want = { 0x1111 * name, name >= 0x30010 ? 0x3fff : 77 };
        struct value got = { 0 };
        assert_int_equal(reg_set_wide(m->vp[0], 0, name, want), 0);
        assert_int_equal(regs_get(m->vp[0], 0, &name, 1, &got, NULL), 0);
        assert_memory_equal(&got, &want, sizeof got);
    }
    for (uint32_t name = 0x60000; name < 0x60008; name++) {
        const struct value want = { 0x10000 * (name & 15), 0x8fff | 0x1234ull << 32 | (name == 0x60007 ? 0x8bull : 0x93ull) << 48 };
        struct value got = { 0 };
        assert_int_equal(reg_set_wide(m->vp[0], 0, name, want), 0);
        assert_int_equal(regs_get(m->vp[0], 0, &name, 1, &got, NULL), 0);
        assert_memory_equal(&got, &want, sizeof got);
    }
    const struct value idtr = { 0x3ffull << 48, 0x5000 };
    struct value got = { 0 };
    assert_int_equal(reg_set_wide(m->vp[0], 0, R_IDTR, idtr), 0);
    assert_int_equal(regs_get(m->vp[0], 0, &(uint32_t){ R_IDTR }, 1, &got, NULL), 0);
    assert_memory_equal(&got, &idtr, sizeof got);
    assert_int_equal(reg_get(m->vp[0], 0, 0), 1); /* EXPLICIT_SUSPEND of one that has not run */
    assert_int_equal(reg_get(m->vp[0], 0, 1), 0);
    assert_int_equal(reg_get(m->vp[0], 0, 0x41000), reg_get(m->vp[0], 0, 0x40000));
    /* values that no register takes */
    assert_int_equal(reg_set(m->vp[0], 0, 0x40004, 16), 0x50);
    assert_int_equal(reg_set(m->vp[0], 0, 0x40000, 1ull << 40), 0x50);
    assert_int_equal(reg_set(m->vp[0], 0, 0x40005, 0), 0x50);
    assert_int_equal(reg_set(m->vp[0], 0, 0x8000c, 5), 0x50);
    assert_int_equal(reg_set(m->vp[0], 0, 0x10006, 1), 5);
    assert_int_equal(reg_set(m->vp[0], 1, R_RAX, 1), 0xe);
    /* the first bad name ends the call; what was before it is done */
    uint8_t in[16 + 3 * 32] = { 0 };
    const uint32_t names[3] = { R_RAX, 0xdead, R_RBX };
    unsigned done;
    int error;
    for (unsigned i = 0; i < 3; i++) {
        memcpy(in + 16 + 32 * i, &names[i], 4);
        in[32 + 32 * i] = 0x77;
    }
    assert_int_equal(reg_set(m->vp[0], 0, R_RBX, 0), 0);
    assert_int_equal(hypercall(m->vp[0], 0x51, 3, in, sizeof in, NULL, 0, &error, &done), 5);
    assert_int_equal(error, -EINVAL);
    assert_int_equal(done, 1);
    assert_int_equal(reg_get(m->vp[0], 0, R_RAX), 0x77);
    assert_int_equal(reg_get(m->vp[0], 0, R_RBX), 0);
    machine_close(m);
}

static void test_reset_state(void **state)
{
    (void)state;
    struct machine m;
    struct value cs;
    machine_open(&m, 7);
    assert_int_equal(call(m.pt, INITIALIZE, NULL), 0);
    m.vp[0] = vp_create(&m, 0);
    m.vp[1] = vp_create(&m, 1);
    assert_int_equal(regs_get(m.vp[0], 0, &(uint32_t){ R_CS }, 1, &cs, NULL), 0);
    assert_int_equal(cs.low, 0xffff0000);
    assert_int_equal(cs.high >> 32 & 0xffff, 0xf000);
    assert_int_equal(reg_get(m.vp[0], 0, R_RIP), 0xfff0);
    assert_int_equal(reg_get(m.vp[0], 0, 4), 0);
    assert_int_equal(reg_get(m.vp[1], 1, 4), 1); /* waits for a start-up IPI */
    const volatile uint8_t *page = vitrine_mmap(4096, PROT_READ | PROT_WRITE, MAP_SHARED, m.vp[0], 0);
    assert_true(page != MAP_FAILED);
    assert_int_equal(page[2], 0);
    munmap((void *)(uintptr_t)page, 4096);
    machine_close(&m);
}

int main(void)
{
    struct CMUnitTest tests[64] = {
        cmocka_unit_test(test_create),         cmocka_unit_test(test_memory),    cmocka_unit_test(test_properties),
        cmocka_unit_test(test_hypercall_form), cmocka_unit_test(test_registers), cmocka_unit_test(test_reset_state),
    };
    size_t n = 6;
    for (size_t i = 0; i < mshv_run_test_count; i++)
        tests[n++] = mshv_run_tests[i];
    for (size_t i = 0; i < mshv_state_test_count; i++)
        tests[n++] = mshv_state_tests[i];
    return _cmocka_run_group_tests("mshv", tests, n, NULL, NULL);
}
