/* SPDX-License-Identifier: MIT */
/*
 * src/introspect on memory that the test fills: walks of every paging format with each way to fail (SDM vol. 3A, "Paging"), copies that end where memory ends.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "core/parts.h"
#include "core/vm.h"
#include "introspect/memory.h"
#include "introspect/walk.h"
#include "x86/regs.h"

#define RAM_BYTES 0x100000u
#define P 1ull
#define W 2ull
#define U 4ull
#define PS 0x80ull
#define NX (1ull << 63)

static struct vm *vm;
static uint8_t *ram;

static int set_up(void **state)
{
    (void)state;
    const struct engine_ops *engine = vm_parts()->engine;
    ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return ram == MAP_FAILED || vm_create(engine, NULL, &vm) || vm_set_memslot(vm, 0, 0, 0, RAM_BYTES, ram) ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    vm_put(vm);
    munmap(ram, RAM_BYTES);
    return 0;
}

static void put64(gpa_t at, uint64_t value)
{
    memcpy(ram + at, &value, 8);
}

static void put32(gpa_t at, uint32_t value)
{
    memcpy(ram + at, &value, 4);
}

static struct look_walk walk(const struct look_paging *p, gva_t gva)
{
    struct look_walk w;
    look_walk(vm, p, gva, &w);
    return w;
}

static void assert_maps(const struct look_paging *p, gva_t gva, gpa_t gpa, unsigned level, uint64_t page_bytes)
{
    struct look_walk w = walk(p, gva);
    assert_int_equal(w.result, WALK_OK);
    assert_int_equal(w.gpa, gpa);
    assert_int_equal(w.level, level);
    assert_int_equal(w.page_bytes, page_bytes);
}

static void assert_fails(const struct look_paging *p, gva_t gva, enum look_walk_result why, unsigned level, uint64_t entry)
{
    struct look_walk w = walk(p, gva);
    assert_int_equal(w.result, why);
    assert_int_equal(w.level, level);
    assert_int_equal(w.entry, entry);
}

static void test_no_paging(void **state)
{
    (void)state;
    struct look_paging p = { .cr0 = CR0_PE };
    assert_maps(&p, 0x12345678, 0x12345678, 0, 4096);
    assert_maps(&p, 0x112345678, 0x12345678, 0, 4096); /* 32 bits outside of long mode */
}

static void test_four_levels(void **state)
{
    (void)state;
    struct look_paging p = { .cr0 = CR0_PE | CR0_PG, .cr3 = 0x1000 | 5 /* a PCID */, .cr4 = CR4_PAE, .efer = EFER_LME | EFER_LMA | EFER_NXE };
    memset(ram, 0, 0x10000);
    put64(0x1000 + 8 * 256, 0x2000 | P | W | U);
    put64(0x2000, 0x3000 | P | W);
    put64(0x2000 + 8, 0x40000000 | P | PS | W | NX); /* 1 GiB */
    put64(0x3000, 0x4000 | P | U);
    put64(0x3000 + 8, 0xe00000 | P | PS | W | U); /* 2 MiB */
    put64(0x4000, 0x7000 | P | W | U);
    put64(0x4000 + 16, 0x200000000 | P);
    put64(0x3000 + 24, 0x7ffff000 | P); /* a table where there is no memory */
    gva_t base = 0xffff800000000000;
    assert_maps(&p, base + 0x123, 0x7123, 1, 4096);
    struct look_walk w = walk(&p, base);
    assert_false(w.is_writeable); /* one level says no */
    assert_false(w.is_user);
    assert_true(w.is_executable);
    assert_maps(&p, base + 0x2000, 0x200000000, 1, 4096);
    assert_maps(&p, base + 0x212345, 0xe12345, 2, 2 << 20);
    assert_maps(&p, base + 0x40001234, 0x40001234, 3, 1 << 30);
    assert_false(walk(&p, base + 0x40001234).is_executable);
    assert_fails(&p, base + 0x1000, WALK_NOT_PRESENT, 1, 0);
    assert_fails(&p, base + 0x400000, WALK_NOT_PRESENT, 2, 0);
    assert_fails(&p, 0, WALK_NOT_PRESENT, 4, 0);
    assert_fails(&p, 1ull << 47, WALK_NOT_CANONICAL, 0, 0);
    assert_fails(&p, base + 0x600000, WALK_NO_MEMORY, 1, 0);
    p.efer &= ~(uint64_t)EFER_NXE;
    assert_fails(&p, base + 0x40000000, WALK_RESERVED, 3, 0x40000000 | P | PS | W | NX);
    p.cr3 = 0x10000000;
    assert_fails(&p, base, WALK_NO_MEMORY, 4, 0);
}

static void test_five_levels(void **state)
{
    (void)state;
    struct look_paging p = { .cr0 = CR0_PE | CR0_PG, .cr3 = 0x8000, .cr4 = CR4_PAE | CR4_LA57, .efer = EFER_LME | EFER_LMA };
    memset(ram, 0, 0x10000);
    put64(0x8000 + 8, 0x1000 | P);
    put64(0x1000, 0x2000 | P);
    put64(0x2000, 0x40000000 | P | PS);
    assert_maps(&p, (1ull << 48) + 5, 0x40000005, 3, 1 << 30);
    assert_fails(&p, 1ull << 56, WALK_NOT_CANONICAL, 0, 0);
    assert_fails(&p, 0, WALK_NOT_PRESENT, 5, 0);
}

static void test_pae(void **state)
{
    (void)state;
    struct look_paging p = { .cr0 = CR0_PE | CR0_PG, .cr3 = 0x20, .cr4 = CR4_PAE, .pdpte = { 0x1000 | P, 0, 0, 0x2000 | P } };
    memset(ram, 0, 0x10000);
    put64(0x1000, 0x3000 | P | W | U);
    put64(0x3000 + 8, 0x5000 | P | W | U);
    put64(0x2000 + 8 * 511, 0x400000 | P | PS);
    assert_maps(&p, 0x1abc, 0x5abc, 1, 4096);
    assert_true(walk(&p, 0x1abc).is_user); /* the registers grant everything */
    assert_maps(&p, 0xffe00010, 0x400010, 2, 2 << 20);
    assert_fails(&p, 0x40000000, WALK_NOT_PRESENT, 3, 0);
}

static void test_two_levels(void **state)
{
    (void)state;
    struct look_paging p = { .cr0 = CR0_PE | CR0_PG, .cr3 = 0x1000, .cr4 = CR4_PSE };
    memset(ram, 0, 0x10000);
    put32(0x1000, 0x2000 | P | U);
    put32(0x1000 + 4, 0x00c12000 | P | PS); /* bits 13-20: bits 32-39 of the address */
    put32(0x2000 + 8, 0x6000 | P | U | W);
    assert_maps(&p, 0x2fff, 0x6fff, 1, 4096);
    assert_false(walk(&p, 0x2fff).is_writeable);
    assert_maps(&p, 0x400010, 0x0900c00010, 2, 4 << 20);
    p.cr4 = 0; /* PS means nothing: a table */
    assert_fails(&p, 0x400010, WALK_NO_MEMORY, 1, 0);
}

static void test_memory(void **state)
{
    (void)state;
    uint8_t bytes[0x2000], back[0x2000];
    struct memslot slot[2];
    memset(bytes, 0x5a, sizeof bytes);
    assert_int_equal(look_memory_write(vm, 0x10ff0, bytes, 0x1020), 0x1020);
    assert_int_equal(look_memory_read(vm, 0x10ff0, back, 0x1020), 0x1020);
    assert_memory_equal(bytes, back, 0x1020);
    assert_int_equal(ram[0x10fef] | ram[0x12010], 0);
    assert_int_equal(look_memory_read(vm, RAM_BYTES - 0x800, back, sizeof back), 0x800);
    assert_int_equal(look_memory_write(vm, RAM_BYTES - 0x1800, bytes, sizeof bytes), 0x1800);
    assert_int_equal(look_memory_read(vm, RAM_BYTES, back, 1), -EFAULT);
    assert_int_equal(look_memory_read(vm, ~0ull, back, 16), -EFAULT);
    assert_int_equal(look_memory_read(vm, RAM_BYTES, back, 0), 0);
    assert_int_equal(vm_set_memslot(vm, 1 << 16, MEMSLOT_LOG_DIRTY, 0x200000, 0x1000, ram), 0);
    assert_int_equal(look_memory_slots(vm, slot, 1), 2);
    assert_int_equal(look_memory_slots(vm, slot, 2), 2);
    assert_int_equal(slot[1].gpa, 0x200000);
    assert_null((void *)(uintptr_t)slot[1].dirty);
    assert_int_equal(vm_set_memslot(vm, 1 << 16, 0, 0, 0, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_no_paging), cmocka_unit_test(test_four_levels), cmocka_unit_test(test_five_levels),
                                        cmocka_unit_test(test_pae),       cmocka_unit_test(test_two_levels),  cmocka_unit_test(test_memory) };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
