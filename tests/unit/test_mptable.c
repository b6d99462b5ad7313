/* SPDX-License-Identifier: MIT */
/*
 * The MP table as a guest's kernel reads it: found in the BIOS area, checksums, one walk over its entries that counts and compares with the ACPI routes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "vmm/acpi.h"
#include "vmm/mptable.h"
#include "vmm/vmm.h"

static struct ram ram;
static struct vmm_error error;

static int setup(void **state)
{
    (void)state;
    return ram_init(&ram, 2 << 20, true, &error);
}

static int teardown(void **state)
{
    (void)state;
    ram_fini(&ram);
    return 0;
}

static uint8_t sum(const uint8_t *p, size_t n)
{
    uint8_t total = 0;

    while (n--)
        total += *p++;
    return total;
}

static uint32_t get(const uint8_t *p, unsigned bytes)
{
    uint32_t value = 0;

    memcpy(&value, p, bytes);
    return value;
}

/* As guests do: a 16-byte aligned "_MP_" in the last 64 KiB below 1 MiB. */
static const uint8_t *find_table(void)
{
    for (gpa_t gpa = 0xf0000; gpa < 0x100000; gpa += 16) {
        const uint8_t *p = ram_find(&ram, gpa, 16);

        if (memcmp(p, "_MP_", 4) != 0)
            continue;
        assert_int_equal(p[8], 1);
        assert_int_equal(p[9], 4);
        assert_int_equal(sum(p, 16), 0);
        assert_int_equal(get(p + 11, 4), 0);
        return ram_find(&ram, get(p + 4, 4), 44);
    }
    fail_msg("no floating pointer");
    return NULL;
}

static void check_table(unsigned n_cpus)
{
    unsigned n[5] = { 0 }, pci = 0, isa = 0, last_type = 0;
    const uint8_t *table, *p, *end;

    assert_int_equal(mptable_build(&ram, n_cpus, 0x000506e3, 0x1f8bfbff), MPTABLE_BASE);
    table = find_table();
    assert_memory_equal(table, "PCMP", 4);
    assert_int_equal(table[6], 4);
    assert_int_equal(sum(table, get(table + 4, 2)), 0);
    assert_int_equal(get(table + 36, 4), 0xfee00000);
    end = table + get(table + 4, 2);
    for (p = table + 44; p < end; p += p[0] == 0 ? 20 : 8) {
        assert_in_range(p[0], last_type, 4); /* sorted by type */
        last_type = p[0];
        switch (p[0]) {
        case 0:
            assert_int_equal(p[1], n[0]);
            assert_int_equal(p[3], n[0] == 0 ? 3 : 1);
            assert_int_equal(get(p + 4, 4), 0x6e3);
            assert_int_equal(get(p + 8, 4), 0x1f8bfbff);
            break;
        case 1:
            assert_memory_equal(p + 2, n[1] == 0 ? "PCI   " : "ISA   ", 6);
            assert_int_equal(p[1], n[1]);
            break;
        case 2:
            assert_int_equal(p[3] & 1, 1);
            assert_int_equal(get(p + 4, 4), ACPI_IOAPIC_ADDRESS);
            break;
        case 3:
            assert_int_equal(p[1], 0);
            assert_int_equal(p[7], p[4] == 0 ? ACPI_PCI_GSI(p[5] >> 2) : p[5]);
            assert_int_equal(get(p + 2, 2), p[4] == 0 ? 0xf : p[5] == 9 ? 0xd : 0);
            *(p[4] == 0 ? &pci : &isa) += 1;
            break;
        default:
            assert_int_equal(p[1], p[7] == 0 ? 3 : 1);
            assert_int_equal(p[6], 0xff);
            break;
        }
        n[p[0]]++;
    }
    assert_ptr_equal(p, end);
    assert_int_equal(n[0], n_cpus);
    assert_int_equal(n[1], 2);
    assert_int_equal(n[2], 1);
    assert_int_equal(isa, 15);
    assert_int_equal(pci, ACPI_PCI_SLOTS);
    assert_int_equal(n[4], 2);
    assert_int_equal(get(table + 34, 2), n[0] + n[1] + n[2] + n[3] + n[4]);
}

static void test_mptable(void **state)
{
    (void)state;
    check_table(1);
    check_table(3);
    check_table(VMM_CPUS_MAX);
}

static void test_mptable_beside_acpi(void **state)
{
    (void)state;
    assert_int_equal(mptable_build(&ram, 2, 1, 1), MPTABLE_BASE);
    assert_int_equal(acpi_build(&ram, 2), ACPI_BASE);
    assert_int_equal(sum(find_table(), get(find_table() + 4, 2)), 0);
}

static void test_mptable_no_room(void **state)
{
    struct ram small;

    (void)state;
    assert_int_equal(ram_init(&small, 0x90000, true, &error), 0);
    assert_int_equal(mptable_build(&small, 1, 1, 1), 0);
    ram_fini(&small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_mptable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mptable_beside_acpi, setup, teardown),
        cmocka_unit_test(test_mptable_no_room),
    };

    return cmocka_run_group_tests_name("mptable", tests, NULL, NULL);
}
