/* SPDX-License-Identifier: MIT */
/*
 * An uncompressed ELF kernel (vmlinux): its PT_LOAD segments go to their physical addresses and it is entered as a bzImage's 64-bit entry is.
 * Source: System V ABI, "Program Header"; Linux documentation, "64-bit BOOT PROTOCOL". Called by load.c.
 */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "vmm/load_priv.h"

static int elf_corrupt(const struct load_images *images, const char *why, struct vmm_error *error)
{
    return error_set(error, -EINVAL, "kernel '%s' is not usable: %s", images->kernel_name, why);
}

static int elf_load_segment(const struct ram *ram, const struct load_images *images, const Elf64_Phdr *ph, struct load_kernel *kernel, struct vmm_error *error)
{
    const struct load_file *file = &images->kernel;
    uint8_t *p;

    if (ph->p_filesz > ph->p_memsz || ph->p_offset > file->n || ph->p_filesz > file->n - ph->p_offset)
        return elf_corrupt(images, "a segment lies outside the file (is it cut off?)", error);
    if (ph->p_memsz == 0)
        return 0;
    if (ph->p_paddr < LOAD_HIGH_START || ph->p_paddr >= RAM_HOLE_START || ph->p_memsz > RAM_HOLE_START)
        return elf_corrupt(images, "a segment's physical address is out of range", error);
    p = ram_find(ram, ph->p_paddr, ph->p_memsz);
    if (!p)
        return load_too_small(ram, images, ph->p_paddr + ph->p_memsz, error);
    memcpy(p, file->bytes + ph->p_offset, ph->p_filesz);
    memset(p + ph->p_filesz, 0, ph->p_memsz - ph->p_filesz);
    if (ph->p_paddr < kernel->start)
        kernel->start = ph->p_paddr;
    if (ph->p_paddr + ph->p_memsz > kernel->end)
        kernel->end = ph->p_paddr + ph->p_memsz;
    return 0;
}

int load_elf(const struct ram *ram, const struct load_images *images, struct boot_params *params, struct load_kernel *kernel, struct vmm_error *error)
{
    const struct load_file *file = &images->kernel;
    Elf64_Ehdr eh;
    Elf64_Phdr ph;
    int rc;

    if (file->n < sizeof(eh) || memcmp(file->bytes, ELFMAG, SELFMAG) != 0)
        return -ENOEXEC;
    memcpy(&eh, file->bytes, sizeof(eh));
    if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_machine != EM_X86_64)
        return elf_corrupt(images, "it is an ELF file, but not for x86-64", error);
    if (eh.e_type != ET_EXEC && eh.e_type != ET_DYN)
        return elf_corrupt(images, "it is an ELF file, but not an executable", error);
    if (eh.e_phentsize != sizeof(ph) || eh.e_phoff > file->n || (uint64_t)eh.e_phnum * sizeof(ph) > file->n - eh.e_phoff)
        return elf_corrupt(images, "its program headers lie outside the file", error);

    kernel->start = RAM_HOLE_START;
    kernel->end = 0;
    for (unsigned i = 0; i < eh.e_phnum; i++) {
        memcpy(&ph, file->bytes + eh.e_phoff + i * sizeof(ph), sizeof(ph));
        if (ph.p_type != PT_LOAD)
            continue;
        rc = elf_load_segment(ram, images, &ph, kernel, error);
        if (rc != 0)
            return rc;
    }
    if (eh.e_entry < kernel->start || eh.e_entry >= kernel->end)
        return elf_corrupt(images, "its entry point lies in no segment", error);
    kernel->entry = eh.e_entry;
    kernel->initrd_max = 0x7fffffff;
    kernel->cmdline_max = 2047;
    params->hdr.boot_flag = 0xaa55;
    params->hdr.header = 0x53726448;
    params->hdr.type_of_loader = 0xff;
    params->hdr.loadflags = LOADED_HIGH;
    params->hdr.kernel_alignment = 0x1000000;
    return 0;
}
