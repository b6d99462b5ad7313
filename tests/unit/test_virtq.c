/* SPDX-License-Identifier: MIT */
/*
 * Split virtqueues against a driver that the test plays: good chains, indirect tables, event indices, and every way a ring can be broken.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "vmm/virtio.h"
#include "vmm/virtq.h"

enum { SIZE = 8, DESC = 0x1000, AVAIL = 0x2000, USED = 0x3000, DATA = 0x10000, INNER = 0x8000, RAM_BYTES = 0x100000 };

static struct ram ram;
static struct virtq q;
static struct virtq_chain chain;

static void *at(gpa_t gpa)
{
    return ram_find(&ram, gpa, 1);
}

static struct vring_desc *desc(unsigned i)
{
    return (struct vring_desc *)at(DESC) + i;
}

static void set_desc(struct vring_desc *d, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    *d = (struct vring_desc){ .addr = addr, .len = len, .flags = flags, .next = next };
}

static void offer(uint16_t head)
{
    struct vring_avail *avail = at(AVAIL);

    avail->ring[avail->idx % SIZE] = head;
    avail->idx++;
}

static int setup(void **state)
{
    struct vmm_error error;

    (void)state;
    if (ram_init(&ram, RAM_BYTES, true, &error) != 0)
        return -1;
    virtq_reset(&q, VIRTQ_SIZE_MAX);
    q.size = SIZE;
    q.desc_gpa = DESC;
    q.avail_gpa = AVAIL;
    q.used_gpa = USED;
    return virtq_enable(&q, &ram, false);
}

static int teardown(void **state)
{
    (void)state;
    ram_fini(&ram);
    return 0;
}

static void test_chain(void **state)
{
    struct vring_used *used = at(USED);

    (void)state;
    assert_int_equal(virtq_pop(&q, &ram, &chain), 0);
    set_desc(desc(3), DATA, 16, VRING_DESC_F_NEXT, 5);
    set_desc(desc(5), DATA + 16, 0, VRING_DESC_F_NEXT, 1); /* empty pieces are skipped */
    set_desc(desc(1), DATA + 512, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
    set_desc(desc(2), DATA + 1024, 1, VRING_DESC_F_WRITE, 0);
    offer(3);
    assert_int_equal(virtq_pop(&q, &ram, &chain), 1);
    assert_int_equal(chain.head, 3);
    assert_int_equal(chain.n_out, 1);
    assert_int_equal(chain.n_in, 2);
    assert_int_equal(chain.out_bytes, 16);
    assert_int_equal(chain.in_bytes, 513);
    assert_ptr_equal(chain.iov[1].iov_base, at(DATA + 512));
    assert_int_equal(virtq_pop(&q, &ram, &chain), 0);
    virtq_push(&q, 3, 513);
    assert_int_equal(used->idx, 1);
    assert_int_equal(used->ring[0].id, 3);
    assert_int_equal(used->ring[0].len, 513);
    assert_true(virtq_needs_interrupt(&q));
    assert_false(virtq_needs_interrupt(&q));
}

static void test_indirect(void **state)
{
    struct vring_desc *inner = at(INNER);

    (void)state;
    set_desc(&inner[0], DATA, 8, VRING_DESC_F_NEXT, 2);
    set_desc(&inner[2], DATA + 64, 8, VRING_DESC_F_WRITE, 0);
    set_desc(desc(0), INNER, 3 * 16, VRING_DESC_F_INDIRECT, 0);
    offer(0);
    assert_int_equal(virtq_pop(&q, &ram, &chain), 1);
    assert_int_equal(chain.n_out, 1);
    assert_int_equal(chain.n_in, 1);
}

static void expect_broken(void)
{
    offer(0);
    assert_int_equal(virtq_pop(&q, &ram, &chain), -EINVAL);
    q.last_avail++; /* the test goes on where a device would stop */
}

static void test_broken(void **state)
{
    struct vring_desc *inner = at(INNER);
    struct vring_avail *avail = at(AVAIL);

    (void)state;
    set_desc(desc(0), RAM_BYTES - 4, 8, 0, 0); /* past the end of memory */
    expect_broken();
    set_desc(desc(0), ~0ull - 3, 8, 0, 0); /* wraps */
    expect_broken();
    set_desc(desc(0), RAM_HOLE_START, 8, 0, 0); /* the hole */
    expect_broken();
    set_desc(desc(0), DATA, 0xffffffff, 0, 0);
    expect_broken();
    set_desc(desc(0), DATA, 8, VRING_DESC_F_NEXT, 0); /* a loop */
    expect_broken();
    set_desc(desc(0), DATA, 8, VRING_DESC_F_NEXT, SIZE); /* past the table */
    expect_broken();
    set_desc(desc(0), DATA, 8, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1); /* device reads after it writes */
    set_desc(desc(1), DATA, 8, 0, 0);
    expect_broken();
    set_desc(desc(0), INNER, 16, VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, 1);
    expect_broken();
    set_desc(desc(0), INNER, 24, VRING_DESC_F_INDIRECT, 0); /* not whole entries */
    expect_broken();
    set_desc(desc(0), INNER, 0, VRING_DESC_F_INDIRECT, 0);
    expect_broken();
    set_desc(desc(0), INNER, 16, VRING_DESC_F_INDIRECT, 0); /* indirect inside indirect */
    set_desc(&inner[0], INNER, 16, VRING_DESC_F_INDIRECT, 0);
    expect_broken();
    offer(SIZE); /* a head past the table */
    assert_int_equal(virtq_pop(&q, &ram, &chain), -EINVAL);
    avail->idx = q.last_avail + SIZE + 1; /* more than the ring holds */
    assert_int_equal(virtq_pop(&q, &ram, &chain), -EINVAL);
}

static void test_enable_checks(void **state)
{
    struct virtq bad = q;

    (void)state;
    bad.size = 6;
    assert_int_equal(virtq_enable(&bad, &ram, false), -EINVAL);
    bad = q;
    bad.size = 512;
    assert_int_equal(virtq_enable(&bad, &ram, false), -EINVAL);
    bad = q;
    bad.desc_gpa = DESC + 8;
    assert_int_equal(virtq_enable(&bad, &ram, false), -EINVAL);
    bad = q;
    bad.used_gpa = RAM_BYTES - 64;
    assert_int_equal(virtq_enable(&bad, &ram, false), -EINVAL);
    bad = q;
    bad.avail_gpa = ~0ull - 1;
    assert_int_equal(virtq_enable(&bad, &ram, false), -EINVAL);
}

static void test_event_idx(void **state)
{
    struct vring_avail *avail = at(AVAIL);
    struct vring_used *used = at(USED);

    (void)state;
    assert_int_equal(virtq_enable(&q, &ram, true), 0);
    set_desc(desc(0), DATA, 8, 0, 0);
    assert_false(virtq_arm(&q));
    offer(0);
    assert_true(virtq_arm(&q));
    avail->ring[SIZE] = 1; /* used_event: tell me after the second */
    assert_int_equal(virtq_pop(&q, &ram, &chain), 1);
    virtq_push(&q, 0, 0);
    assert_false(virtq_needs_interrupt(&q));
    offer(0);
    assert_int_equal(virtq_pop(&q, &ram, &chain), 1);
    virtq_push(&q, 0, 0);
    assert_true(virtq_needs_interrupt(&q));
    assert_false(virtq_arm(&q));
    assert_int_equal(*(uint16_t *)&used->ring[SIZE], 2); /* avail_event */
}

static void test_copy(void **state)
{
    char a[4] = "abc", b[4] = "def", out[8] = "";
    struct iovec iov[2] = { { a, 3 }, { b, 3 } };

    (void)state;
    assert_int_equal(virtio_copy_from(iov, 2, 2, out, 3), 3);
    assert_string_equal(out, "cde");
    assert_int_equal(virtio_copy_from(iov, 2, 5, out, 8), 1);
    assert_int_equal(virtio_copy_from(iov, 2, 6, out, 8), 0);
    assert_int_equal(virtio_copy_to(iov, 2, 2, "XY", 2), 2);
    assert_string_equal(a, "abX");
    assert_string_equal(b, "Yef");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_chain, setup, teardown),     cmocka_unit_test_setup_teardown(test_indirect, setup, teardown),
        cmocka_unit_test_setup_teardown(test_broken, setup, teardown),    cmocka_unit_test_setup_teardown(test_enable_checks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_event_idx, setup, teardown), cmocka_unit_test(test_copy),
    };

    return cmocka_run_group_tests_name("virtq", tests, NULL, NULL);
}
