/* SPDX-License-Identifier: MIT */
/*
 * What all kernel formats share: reading files, the zero page, the memory map, the initrd's place, and the page tables and GDT of the 64-bit entry.
 * Source: Linux documentation, "The Linux/x86 Boot Protocol", "Zero Page". See load.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vmm/acpi.h"
#include "vmm/load_priv.h"

#define LOAD_FILE_MAX (1ull << 32)

static int load_fd_read(struct load_file *file, int fd)
{
    size_t size = 1 << 20;
    struct stat st;
    uint8_t *bigger;
    ssize_t n;

    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0)
        size = (size_t)st.st_size + 1; /* one more, so that the end is seen without growing */
    for (;;) {
        if (size > LOAD_FILE_MAX)
            return -EFBIG;
        bigger = realloc(file->bytes, size);
        if (!bigger)
            return -ENOMEM;
        file->bytes = bigger;
        while (file->n < size) {
            n = read(fd, file->bytes + file->n, size - file->n);
            if (n < 0 && errno == EINTR)
                continue;
            if (n < 0)
                return -errno;
            if (n == 0)
                return file->n ? 0 : -ENODATA;
            file->n += (size_t)n;
        }
        size *= 2;
    }
}

int load_file_read(struct load_file *file, const char *what, const char *path, struct vmm_error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc;

    *file = (struct load_file){ 0 };
    if (fd < 0)
        return error_set(error, -errno, "cannot read %s '%s': %s", what, path, strerror(errno));
    rc = load_fd_read(file, fd);
    close(fd);
    if (rc != 0) {
        load_file_free(file);
        return error_set(error, rc, "cannot read %s '%s': %s", what, path, rc == -ENODATA ? "the file is empty" : strerror(-rc));
    }
    return 0;
}

void load_file_free(struct load_file *file)
{
    free(file->bytes);
    *file = (struct load_file){ 0 };
}

int load_too_small(const struct ram *ram, const struct load_images *images, gpa_t need, struct vmm_error *error)
{
    uint64_t have = ram_low_end(ram);

    return error_set(error, -ENOMEM, "%llu MiB of memory are too little for kernel '%s'%s: at least %llu MiB are needed", (unsigned long long)(have >> 20),
                     images->kernel_name, images->initrd.n ? " and its initrd" : "", (unsigned long long)((need + 0xfffff) >> 20));
}

static int load_initrd(const struct ram *ram, const struct load_images *images, const struct load_kernel *kernel, struct boot_params *params,
                       struct vmm_error *error)
{
    uint64_t top = ram_low_end(ram), bytes = images->initrd.n;
    gpa_t start;

    if (bytes == 0)
        return 0;
    if (top > kernel->initrd_max + 1)
        top = kernel->initrd_max + 1;
    start = (top - bytes) & ~PAGE_OFFSET_MASK;
    if (bytes > top || start < kernel->end) {
        if (top < ram_low_end(ram))
            return error_set(error, -EFBIG, "initrd '%s' is too large for this kernel: it must end below %llu MiB", images->initrd_name,
                             (unsigned long long)(top >> 20));
        return load_too_small(ram, images, kernel->end + bytes + PAGE_BYTES, error);
    }
    memcpy(ram_find(ram, start, bytes), images->initrd.bytes, bytes);
    params->hdr.ramdisk_image = (uint32_t)start;
    params->ext_ramdisk_image = (uint32_t)(start >> 32);
    params->hdr.ramdisk_size = (uint32_t)bytes;
    params->ext_ramdisk_size = (uint32_t)(bytes >> 32);
    return 0;
}

static int load_cmdline(const struct ram *ram, const struct load_images *images, const struct load_kernel *kernel, struct boot_params *params,
                        struct vmm_error *error)
{
    size_t n = strlen(images->cmdline);
    uint64_t max = kernel->cmdline_max < LOAD_CMDLINE_MAX - 1 ? kernel->cmdline_max : LOAD_CMDLINE_MAX - 1;

    if (n > max)
        return error_set(error, -E2BIG, "the kernel command line has %zu characters and kernel '%s' takes at most %llu", n, images->kernel_name,
                         (unsigned long long)max);
    memcpy(ram_find(ram, LOAD_CMDLINE, n + 1), images->cmdline, n + 1);
    params->hdr.cmd_line_ptr = LOAD_CMDLINE;
    return 0;
}

static void load_e820_add(struct boot_params *params, gpa_t start, gpa_t end, uint32_t type)
{
    if (start < end)
        params->e820_table[params->e820_entries++] = (struct boot_e820_entry){ .addr = start, .size = end - start, .type = type };
}

static void load_e820(const struct ram *ram, struct boot_params *params)
{
    enum { E820_RAM = 1, E820_RESERVED = 2 };

    load_e820_add(params, 0, LOAD_LOW_RAM_END, E820_RAM);
    load_e820_add(params, LOAD_LOW_RAM_END, 0xa0000, E820_RESERVED);
    load_e820_add(params, ACPI_BASE, LOAD_HIGH_START, E820_RESERVED);
    load_e820_add(params, LOAD_HIGH_START, ram_low_end(ram), E820_RAM);
    for (unsigned i = 1; i < ram->n_pieces; i++)
        load_e820_add(params, ram->piece[i].gpa, ram->piece[i].gpa + ram->piece[i].bytes, E820_RAM);
}

static void load_page_tables(const struct ram *ram)
{
    uint64_t *table = ram_find(ram, LOAD_PAGE_TABLES, 6 * PAGE_BYTES);

    memset(table, 0, 6 * PAGE_BYTES);
    table[0] = (LOAD_PAGE_TABLES + PAGE_BYTES) | 3; /* present, writable */
    for (unsigned i = 0; i < 4; i++)
        table[512 + i] = (LOAD_PAGE_TABLES + (2 + i) * PAGE_BYTES) | 3;
    for (uint64_t i = 0; i < 4 * 512; i++)
        table[1024 + i] = i << 21 | 0x83; /* 2 MiB page */
}

/* Selectors 0x10 and 0x18 are the protocol's __BOOT_CS and __BOOT_DS; 0x20 is the task register's. */
static uint16_t load_gdt(const struct ram *ram)
{
    static const uint64_t gdt[] = { 0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00008b0000000067, 0 };

    memcpy(ram_find(ram, LOAD_GDT, sizeof(gdt)), gdt, sizeof(gdt));
    return sizeof(gdt) - 1;
}

int load_linux(const struct ram *ram, const struct load_images *images, struct load_entry *entry, struct vmm_error *error)
{
    struct boot_params *params = ram_find(ram, LOAD_BOOT_PARAMS, sizeof(*params));
    struct load_kernel kernel = { 0 };
    int rc;

    if (!params || ram_low_end(ram) <= LOAD_HIGH_START)
        return load_too_small(ram, images, 2 * LOAD_HIGH_START, error);
    memset(params, 0, sizeof(*params));
    rc = load_bzimage(ram, images, params, &kernel, error);
    if (rc == -ENOEXEC)
        rc = load_elf(ram, images, params, &kernel, error);
    if (rc == -ENOEXEC)
        return error_set(error, rc, "kernel '%s' is neither a bzImage nor an ELF kernel", images->kernel_name);
    if (rc == 0)
        rc = load_initrd(ram, images, &kernel, params, error);
    if (rc == 0)
        rc = load_cmdline(ram, images, &kernel, params, error);
    if (rc != 0)
        return rc;

    params->acpi_rsdp_addr = images->rsdp;
    load_e820(ram, params);
    load_page_tables(ram);
    entry->gdt_limit = load_gdt(ram);
    entry->gdt = LOAD_GDT;
    entry->cr3 = LOAD_PAGE_TABLES;
    entry->rsi = LOAD_BOOT_PARAMS;
    entry->rip = kernel.entry;
    return 0;
}
