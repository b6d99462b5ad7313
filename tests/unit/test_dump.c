/* SPDX-License-Identifier: MIT */
/*
 * ELF cores by vitrine_vm_dump of a guest of this process that does not run: without paging and with each format of page tables, what is mapped is found at its
 * linear address, and every physical byte is in the file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/real_guest.h"
#include "vitrine/inspect.h"

#define RAM_BYTES 0x800000u
#define TABLES_AT 0x10000u /* one page for each level */

static struct real_guest guest;
static struct vitrine_vm *vm;
static uint8_t *core;
static size_t core_bytes;

static int set_up(void **state)
{
    (void)state;
    real_guest_create(&guest, RAM_BYTES, "\xf4", 1, false);
    for (uint32_t at = 0x100000; at < RAM_BYTES; at += 4096)
        memcpy(guest.ram + at, &at, sizeof at);
    vm = real_guest_open();
    return vm ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    munmap(core, core_bytes);
    vitrine_vm_close(vm);
    real_guest_destroy(&guest);
    return 0;
}

static void dump(void)
{
    struct stat s;
    int fd = memfd_create("core", MFD_CLOEXEC);
    assert_int_equal(vitrine_vm_dump(vm, fd, VITRINE_DUMP_ELF, false, NULL, NULL), 0);
    assert_int_equal(fstat(fd, &s), 0);
    core_bytes = (size_t)s.st_size;
    core = mmap(NULL, core_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    assert_true(core != MAP_FAILED);
    close(fd);
}

/* The n-th load segment of the core; NULL: there is none. */
static const Elf64_Phdr *load(unsigned n)
{
    const Elf64_Ehdr *head = (const void *)core;
    const Elf64_Phdr *p = (const void *)(core + head->e_phoff);
    assert_memory_equal(head->e_ident, ELFMAG, SELFMAG);
    for (unsigned i = 0; i < head->e_phnum; i++)
        if (p[i].p_type == PT_LOAD && n-- == 0)
            return &p[i];
    return NULL;
}

static bool is_mapped(uint64_t gva)
{
    const Elf64_Phdr *p;
    for (unsigned i = 0; (p = load(i)); i++)
        if (gva >= p->p_vaddr && gva - p->p_vaddr < p->p_filesz)
            return true;
    return false;
}

static void assert_maps(uint64_t gva, uint64_t gpa)
{
    const Elf64_Phdr *p;
    unsigned i = 0;
    while ((p = load(i)) && (gva < p->p_vaddr || gva - p->p_vaddr >= p->p_filesz))
        i++;
    assert_non_null(p);
    assert_int_equal(p->p_paddr + (gva - p->p_vaddr), gpa);
    assert_memory_equal(core + p->p_offset + (gva - p->p_vaddr), guest.ram + gpa, 4096);
}

static void assert_all_physical(void)
{
    uint8_t *seen = calloc(1, RAM_BYTES);
    const Elf64_Phdr *p;
    for (unsigned i = 0; (p = load(i)); i++) {
        assert_true(p->p_paddr < RAM_BYTES && p->p_filesz <= RAM_BYTES - p->p_paddr && p->p_memsz == p->p_filesz);
        assert_memory_equal(core + p->p_offset, guest.ram + p->p_paddr, p->p_filesz);
        memset(seen + p->p_paddr, 1, p->p_filesz);
    }
    assert_null(memchr(seen, 0, RAM_BYTES));
    free(seen);
}

static void put64(unsigned table, unsigned i, uint64_t entry)
{
    memcpy(guest.ram + TABLES_AT + table * 4096 + i * 8, &entry, 8);
}

static void put32(unsigned table, unsigned i, uint32_t entry)
{
    memcpy(guest.ram + TABLES_AT + table * 4096 + i * 4, &entry, 4);
}

static uint64_t table(unsigned n)
{
    return TABLES_AT + n * 4096 + 3;
}

static void set_paging(uint64_t cr4, uint64_t efer)
{
    struct vitrine_regs r;
    assert_int_equal(vitrine_vcpu_get_regs(vm, 0, &r), 0);
    r.cr0 |= 0x80000001;
    r.cr3 = TABLES_AT;
    r.cr4 = cr4;
    r.efer = efer;
    assert_int_equal(vitrine_vcpu_set_regs(vm, 0, &r), 0);
}

static void test_identity(void **state)
{
    (void)state;
    dump();
    assert_maps(0, 0);
    assert_maps(0x345000, 0x345000);
    assert_null(load(1));
    assert_all_physical();
}

/* 2 MiB and 4 KiB pages, one that is no memory, a table that repeats itself, and one that is not there. */
static void test_four_levels(void **state)
{
    (void)state;
    put64(0, 511, table(1));
    put64(0, 1, 0x7fffff003);
    put64(1, 510, table(2));
    put64(1, 511, table(2));
    put64(2, 0, 0x200083);
    put64(2, 1, 0x400083 | 1ull << 63);
    put64(2, 2, table(3));
    put64(2, 3, 0xe0000083);
    put64(3, 0, 0x123003);
    put64(3, 1, 0x124003);
    put64(3, 7, 0x300003);
    set_paging(0x20, 0x500);
    dump();
    assert_maps(0xffffffff80000000, 0x200000);
    assert_maps(0xffffffff803ff000, 0x5ff000); /* both large pages are one segment */
    assert_int_equal(load(0)->p_filesz, 0x400000);
    assert_maps(0xffffffff80400000, 0x123000);
    assert_maps(0xffffffff80401000, 0x124000);
    assert_maps(0xffffffff80407000, 0x300000);
    assert_false(is_mapped(0xffffffff80402000));
    assert_false(is_mapped(0xffffffff80600000));
    assert_false(is_mapped(0xffffffffc0000000)); /* what repeats an entry is left out */
    assert_all_physical();
}

static void test_pae(void **state)
{
    (void)state;
    put64(0, 3, table(1) & ~2ull);
    put64(1, 0, table(2));
    put64(1, 511, 0x600083);
    put64(2, 511, 0x111003);
    set_paging(0x20, 0);
    dump();
    assert_maps(0xc01ff000, 0x111000);
    assert_maps(0xffe00000, 0x600000);
    assert_false(is_mapped(0xc0000000));
    assert_all_physical();
}

static void test_two_levels(void **state)
{
    (void)state;
    put32(0, 768, 0x400083); /* 4 MiB */
    put32(0, 769, (uint32_t)table(1));
    put32(1, 1023, 0x222003);
    set_paging(0x10, 0);
    dump();
    assert_maps(0xc0000000, 0x400000);
    assert_maps(0xc03ff000, 0x7ff000);
    assert_maps(0xc07ff000, 0x222000);
    assert_false(is_mapped(0xc0400000));
    assert_all_physical();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_identity, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_four_levels, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_pae, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_two_levels, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
