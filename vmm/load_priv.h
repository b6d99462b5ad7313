/* SPDX-License-Identifier: MIT */
/*
 * Between the loader's files: what a kernel format reports and the zero page all of them fill.
 */
#ifndef VITRINE_VMM_LOAD_PRIV_H
#define VITRINE_VMM_LOAD_PRIV_H

#include <asm/bootparam.h>

#include "vmm/load.h"

struct load_kernel {
    gpa_t start, end; /* memory the kernel needs, including what it clears itself */
    gpa_t entry;
    gpa_t initrd_max; /* last byte an initrd may have */
    uint64_t cmdline_max;
};

/* Each: 0, -ENOEXEC if the file is of another format (no sentence), other -errno with a sentence. */
int load_bzimage(const struct ram *ram, const struct load_images *images, struct boot_params *params, struct load_kernel *kernel, struct vmm_error *error);
int load_elf(const struct ram *ram, const struct load_images *images, struct boot_params *params, struct load_kernel *kernel, struct vmm_error *error);

int load_too_small(const struct ram *ram, const struct load_images *images, gpa_t need, struct vmm_error *error);

#endif
