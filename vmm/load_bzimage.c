/* SPDX-License-Identifier: MIT */
/*
 * The bzImage format by the 64-bit boot protocol. Source: Linux documentation, "The Linux/x86 Boot Protocol". Called by load.c.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "vmm/load_priv.h"

#define BZIMAGE_HDR_OFFSET 0x1f1
#define BZIMAGE_MAGIC 0x53726448 /* "HdrS" */
#define BZIMAGE_VERSION_64 0x20c
#define BZIMAGE_ENTRY_64 0x200
#define BZIMAGE_SECTOR_BYTES 512u

static int bzimage_corrupt(const struct load_images *images, const char *why, struct vmm_error *error)
{
    return error_set(error, -EINVAL, "kernel '%s' is not usable: %s", images->kernel_name, why);
}

/* Preferred address, or else the lowest legal one for a kernel that can move. */
static gpa_t bzimage_place(const struct ram *ram, const struct setup_header *hdr)
{
    uint64_t align = hdr->kernel_alignment ? hdr->kernel_alignment : 0x200000;
    gpa_t lowest = (LOAD_HIGH_START + align - 1) & ~(align - 1);

    if (hdr->relocatable_kernel && (align & (align - 1)) == 0 && hdr->pref_address + hdr->init_size > ram_low_end(ram) && lowest < hdr->pref_address)
        return lowest;
    return hdr->pref_address;
}

int load_bzimage(const struct ram *ram, const struct load_images *images, struct boot_params *params, struct load_kernel *kernel, struct vmm_error *error)
{
    const struct load_file *file = &images->kernel;
    struct setup_header *hdr = &params->hdr;
    uint64_t setup_bytes, body_bytes, need;
    size_t hdr_end;
    uint8_t *p;

    if (file->n < BZIMAGE_HDR_OFFSET + sizeof(*hdr) || memcmp(file->bytes + 0x202, "HdrS", 4) != 0)
        return -ENOEXEC;
    /* The header's own length: its short jump at 0x200 leads to the first byte after it. */
    hdr_end = 0x202 + file->bytes[0x201];
    if (hdr_end < BZIMAGE_HDR_OFFSET + offsetof(struct setup_header, cmdline_size))
        return bzimage_corrupt(images, "its setup header is too short", error);
    if (hdr_end > BZIMAGE_HDR_OFFSET + sizeof(*hdr))
        hdr_end = BZIMAGE_HDR_OFFSET + sizeof(*hdr);
    memcpy(hdr, file->bytes + BZIMAGE_HDR_OFFSET, hdr_end - BZIMAGE_HDR_OFFSET);
    if (hdr->header != BZIMAGE_MAGIC || hdr->version < BZIMAGE_VERSION_64 || !(hdr->xloadflags & XLF_KERNEL_64))
        return bzimage_corrupt(images, "it has no 64-bit entry point (boot protocol 2.12 or newer is needed)", error);

    setup_bytes = ((hdr->setup_sects ? hdr->setup_sects : 4u) + 1) * BZIMAGE_SECTOR_BYTES;
    if (setup_bytes >= file->n)
        return bzimage_corrupt(images, "the file ends inside its setup code", error);
    body_bytes = file->n - setup_bytes;
    /* syssize counts the body in 16-byte paragraphs; a file shorter than that was cut off. A few trailing bytes may be missing from padding. */
    if ((uint64_t)hdr->syssize * 16 > body_bytes + 4096)
        return bzimage_corrupt(images, "the file is cut off", error);

    need = hdr->init_size > body_bytes ? hdr->init_size : body_bytes;
    kernel->start = bzimage_place(ram, hdr);
    if (kernel->start < LOAD_HIGH_START || kernel->start > RAM_HOLE_START)
        return bzimage_corrupt(images, "its load address is out of range", error);
    kernel->end = kernel->start + need;
    p = ram_find(ram, kernel->start, need);
    if (!p)
        return load_too_small(ram, images, kernel->end, error);
    memcpy(p, file->bytes + setup_bytes, body_bytes);

    kernel->entry = kernel->start + BZIMAGE_ENTRY_64;
    kernel->initrd_max = hdr->initrd_addr_max;
    kernel->cmdline_max = hdr->cmdline_size ? hdr->cmdline_size : 255;
    hdr->type_of_loader = 0xff;
    hdr->loadflags |= LOADED_HIGH;
    hdr->code32_start = (uint32_t)kernel->start;
    return 0;
}
