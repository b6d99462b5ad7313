/* SPDX-License-Identifier: MIT */
/*
 * Puts a Linux kernel (bzImage or ELF vmlinux), its initrd and its boot parameters into guest memory and says in which state the first CPU starts.
 * Pure over guest memory: no KVM, no lock. Called by machine.c at every start of the guest.
 */
#ifndef VITRINE_VMM_LOAD_H
#define VITRINE_VMM_LOAD_H

#include "vmm/ram.h"

/* Where the loader keeps its own things, all below 640 KiB. */
#define LOAD_GDT 0x500ull
#define LOAD_BOOT_PARAMS 0x7000ull
#define LOAD_PAGE_TABLES 0x9000ull /* PML4, PDPT, four PDs: 4 GiB identity-mapped by 2 MiB pages */
#define LOAD_CMDLINE 0x20000ull
#define LOAD_CMDLINE_MAX 0x10000ull
#define LOAD_LOW_RAM_END 0x9fc00ull
#define LOAD_HIGH_START 0x100000ull

struct load_entry {
    gpa_t rip, rsi, cr3, gdt;
    uint16_t gdt_limit;
};

/* A file in memory. */
struct load_file {
    uint8_t *bytes;
    size_t n;
};

/* -errno with a sentence "cannot read <what> '<path>': reason". Directories, empty files and files that change under our feet are refused. */
int load_file_read(struct load_file *file, const char *what, const char *path, struct vmm_error *error);
void load_file_free(struct load_file *file);

struct load_images {
    const char *kernel_name, *initrd_name; /* for messages */
    struct load_file kernel, initrd;       /* initrd.n 0: none */
    const char *cmdline;
    gpa_t rsdp;
};

int load_linux(const struct ram *ram, const struct load_images *images, struct load_entry *entry, struct vmm_error *error);

#endif
