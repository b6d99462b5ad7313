/* SPDX-License-Identifier: MIT */
/*
 * The kernel loader over images that the test builds: places, boot parameters, and a sentence for each kind of bad file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vmm/acpi.h"
#include "vmm/load.h"

#define MIB (1ull << 20)
#define BODY_BYTES 4096u
#define SETUP_BYTES (5 * 512u)

static struct ram ram;
static struct load_images images;
static struct load_entry entry;
static struct vmm_error error;

static struct setup_header *header(void)
{
    return (struct setup_header *)(images.kernel.bytes + 0x1f1);
}

static void make_bzimage(void)
{
    images.kernel.n = SETUP_BYTES + BODY_BYTES;
    images.kernel.bytes = calloc(1, images.kernel.n);
    header()->setup_sects = 4;
    header()->syssize = BODY_BYTES / 16;
    header()->jump = 0x6aeb;
    header()->header = 0x53726448;
    header()->version = 0x20f;
    header()->xloadflags = XLF_KERNEL_64;
    header()->initrd_addr_max = 0x7fffffff;
    header()->kernel_alignment = 0x200000;
    header()->relocatable_kernel = 1;
    header()->cmdline_size = 2047;
    header()->pref_address = 0x1000000;
    header()->init_size = 8 * MIB;
    images.kernel.bytes[SETUP_BYTES] = 0xaa;
}

static void make_elf(void)
{
    Elf64_Ehdr eh = { .e_type = ET_EXEC, .e_machine = EM_X86_64, .e_entry = 0x1000010, .e_phoff = sizeof(eh), .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 1 };
    Elf64_Phdr ph = { .p_type = PT_LOAD, .p_offset = 4096, .p_paddr = 0x1000000, .p_vaddr = 0xffffffff81000000, .p_filesz = 4096, .p_memsz = 16384 };

    memcpy(eh.e_ident, ELFMAG, SELFMAG);
    eh.e_ident[EI_CLASS] = ELFCLASS64;
    images.kernel.n = 8192;
    images.kernel.bytes = calloc(1, images.kernel.n);
    memcpy(images.kernel.bytes, &eh, sizeof(eh));
    memcpy(images.kernel.bytes + sizeof(eh), &ph, sizeof(ph));
    images.kernel.bytes[4096] = 0x55;
}

static int setup_mib(uint64_t mib)
{
    images = (struct load_images){ .kernel_name = "k", .initrd_name = "i", .cmdline = "console=ttyS0", .rsdp = ACPI_BASE };
    return ram_init(&ram, mib * MIB, true, &error);
}

static int setup(void **state)
{
    (void)state;
    return setup_mib(64);
}

static int teardown(void **state)
{
    (void)state;
    ram_fini(&ram);
    load_file_free(&images.kernel);
    load_file_free(&images.initrd);
    return 0;
}

static const struct boot_params *params(void)
{
    return ram_find(&ram, entry.rsi, sizeof(struct boot_params));
}

static void expect_error(int code, const char *text)
{
    error.text[0] = '\0';
    assert_int_equal(load_linux(&ram, &images, &entry, &error), code);
    if (!strstr(error.text, text))
        fail_msg("'%s' is not in '%s'", text, error.text);
}

static void test_bzimage(void **state)
{
    uint64_t covered = 0;

    (void)state;
    make_bzimage();
    images.initrd.n = 5000;
    images.initrd.bytes = malloc(5000);
    memset(images.initrd.bytes, 0x77, 5000);
    assert_int_equal(load_linux(&ram, &images, &entry, &error), 0);
    assert_int_equal(entry.rip, 0x1000200);
    assert_int_equal(*(uint8_t *)ram_find(&ram, 0x1000000, 1), 0xaa);
    assert_int_equal(params()->hdr.type_of_loader, 0xff);
    assert_int_equal(params()->hdr.ramdisk_size, 5000);
    assert_int_equal(params()->hdr.ramdisk_image, 64 * MIB - 8192);
    assert_int_equal(*(uint8_t *)ram_find(&ram, params()->hdr.ramdisk_image + 4999, 1), 0x77);
    assert_string_equal(ram_find(&ram, params()->hdr.cmd_line_ptr, 1), "console=ttyS0");
    assert_int_equal(params()->acpi_rsdp_addr, ACPI_BASE);
    assert_int_equal(params()->sentinel, 0);
    for (unsigned i = 0; i < params()->e820_entries; i++) {
        assert_true(params()->e820_table[i].addr >= covered); /* sorted, no overlap */
        covered = params()->e820_table[i].addr + params()->e820_table[i].size;
    }
    assert_int_equal(covered, 64 * MIB);
}

static void test_bzimage_moves_down(void **state)
{
    (void)state;
    assert_int_equal(setup_mib(20), 0);
    make_bzimage();
    assert_int_equal(load_linux(&ram, &images, &entry, &error), 0);
    assert_int_equal(entry.rip, 0x200200); /* the preferred 16 MiB + 8 MiB do not fit */
    header()->relocatable_kernel = 0;
    expect_error(-ENOMEM, "at least 24 MiB");
    teardown(state);
}

static void test_bzimage_bad(void **state)
{
    (void)state;
    make_bzimage();
    header()->syssize = 1 << 20;
    expect_error(-EINVAL, "cut off");
    header()->syssize = 0;
    header()->setup_sects = 64;
    expect_error(-EINVAL, "setup code");
    header()->setup_sects = 4;
    header()->version = 0x20b;
    expect_error(-EINVAL, "64-bit");
    header()->version = 0x20f;
    header()->pref_address = ~0ull - 4096;
    header()->relocatable_kernel = 0;
    expect_error(-EINVAL, "out of range");
    header()->pref_address = 0x1000000;
    header()->init_size = 0xffffffff;
    expect_error(-ENOMEM, "too little");
    header()->init_size = 8 * MIB;
    header()->cmdline_size = 4;
    expect_error(-E2BIG, "command line");
    header()->cmdline_size = 2047;
    images.initrd.n = 48 * MIB;
    images.initrd.bytes = calloc(1, images.initrd.n);
    expect_error(-ENOMEM, "and its initrd");
    images.kernel.n = 0x210;
    expect_error(-ENOEXEC, "neither");
}

static void test_elf(void **state)
{
    (void)state;
    make_elf();
    memset(ram_find(&ram, 0x1001000, 4096), 0xff, 4096);
    assert_int_equal(load_linux(&ram, &images, &entry, &error), 0);
    assert_int_equal(entry.rip, 0x1000010);
    assert_int_equal(*(uint8_t *)ram_find(&ram, 0x1000000, 1), 0x55);
    assert_int_equal(*(uint8_t *)ram_find(&ram, 0x1001000, 1), 0); /* bss */
    assert_int_equal(params()->hdr.header, 0x53726448);
}

static void test_elf_bad(void **state)
{
    Elf64_Ehdr *eh;
    Elf64_Phdr *ph;

    (void)state;
    make_elf();
    eh = (Elf64_Ehdr *)images.kernel.bytes;
    ph = (Elf64_Phdr *)(eh + 1);
    ph->p_offset = ~0ull - 10;
    expect_error(-EINVAL, "outside the file");
    ph->p_offset = 4096;
    ph->p_filesz = 4097;
    expect_error(-EINVAL, "outside the file");
    ph->p_filesz = 4096;
    ph->p_paddr = 0x1000;
    expect_error(-EINVAL, "out of range");
    ph->p_paddr = 0x1000000;
    ph->p_memsz = 1ull << 31;
    expect_error(-ENOMEM, "too little");
    ph->p_memsz = 16384;
    eh->e_phoff = ~0ull - 20;
    expect_error(-EINVAL, "outside the file");
    eh->e_phoff = sizeof(*eh);
    eh->e_entry = 0x2000000;
    expect_error(-EINVAL, "entry point");
    eh->e_machine = EM_AARCH64;
    expect_error(-EINVAL, "not for x86-64");
}

static void test_files(void **state)
{
    struct load_file file;

    (void)state;
    assert_int_equal(load_file_read(&file, "kernel", "/nonexistent", &error), -ENOENT);
    assert_string_equal(error.text, "cannot read kernel '/nonexistent': No such file or directory");
    assert_int_equal(load_file_read(&file, "kernel", "/", &error), -EISDIR);
    assert_int_equal(load_file_read(&file, "initrd", "/dev/null", &error), -ENODATA);
    assert_int_equal(load_file_read(&file, "kernel", "/proc/self/maps", &error), 0);
    assert_true(file.n > 0);
    load_file_free(&file);
}

static void test_acpi_checksums(void **state)
{
    const uint8_t *rsdp, *table;
    uint8_t sum = 0;
    uint64_t xsdt;
    uint32_t length;

    (void)state;
    assert_int_equal(acpi_build(&ram, 3), ACPI_BASE);
    rsdp = ram_find(&ram, ACPI_BASE, 36);
    for (unsigned i = 0; i < 36; i++)
        sum += rsdp[i];
    assert_int_equal(sum, 0);
    memcpy(&xsdt, rsdp + 24, 8);
    table = ram_find(&ram, xsdt, 36);
    memcpy(&length, table + 4, 4);
    assert_int_equal(length, 36 + 2 * 8);
    for (uint32_t i = 0; i < length; i++)
        sum += table[i];
    assert_int_equal(sum, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bzimage, setup, teardown),        cmocka_unit_test(test_bzimage_moves_down),
        cmocka_unit_test_setup_teardown(test_bzimage_bad, setup, teardown),    cmocka_unit_test_setup_teardown(test_elf, setup, teardown),
        cmocka_unit_test_setup_teardown(test_elf_bad, setup, teardown),        cmocka_unit_test(test_files),
        cmocka_unit_test_setup_teardown(test_acpi_checksums, setup, teardown),
    };

    return cmocka_run_group_tests_name("loader", tests, NULL, NULL);
}
