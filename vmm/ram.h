/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM as the VMM sees it: at most two pieces around the hole below 4 GiB, and the one checked way from a guest-physical range to a pointer.
 * Read-only after ram_init, so no lock; the bytes belong to the guest and may change at any moment.
 */
#ifndef VITRINE_VMM_RAM_H
#define VITRINE_VMM_RAM_H

#include <stdint.h>

#include "base/types.h"
#include "vmm/error.h"

#define RAM_HOLE_START 0xc0000000ull /* PCI windows, IOAPIC, LAPIC live above */
#define RAM_HOLE_END 0x100000000ull

struct ram_piece {
    gpa_t gpa;
    uint64_t bytes;
    hva_t hva;
    int fd; /* the file that it is, for other processes to map, or -1 */
};

struct ram {
    struct ram_piece piece[2];
    unsigned n_pieces;
};

/* -errno with a sentence. `bytes` is a multiple of a page. is_private: other processes cannot map it, and the host has huge pages for it more often. */
int ram_init(struct ram *ram, uint64_t bytes, bool is_private, struct vmm_error *error);
void ram_fini(struct ram *ram);

/* Pointer to [gpa, gpa + bytes) if all of it is RAM in one piece, else NULL. bytes 0 gives NULL. */
void *ram_find(const struct ram *ram, gpa_t gpa, uint64_t bytes);

/* End of the piece that begins at 0. */
uint64_t ram_low_end(const struct ram *ram);

#endif
