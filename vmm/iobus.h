/* SPDX-License-Identifier: MIT */
/*
 * Which device answers a port or an MMIO address. A short table of ranges; the device lock of the machine is held by every caller.
 */
#ifndef VITRINE_VMM_IOBUS_H
#define VITRINE_VMM_IOBUS_H

#include "base/types.h"

#define IOBUS_RANGES_MAX 48

/* One access of 1, 2, 4 or 8 bytes. A read comes with *value all ones (the floating bus) and the device overwrites it; excess high bits are cut. */
typedef void iobus_access_fn(void *device, uint64_t offset, unsigned bytes, bool is_write, uint64_t *value);

struct iobus_range {
    uint64_t start, bytes;
    iobus_access_fn *access;
    void *device;
};

struct iobus {
    struct iobus_range range[IOBUS_RANGES_MAX];
    unsigned n_ranges;
};

/* -ENOSPC when the table is full. The first range added wins where ranges overlap. */
int iobus_add(struct iobus *bus, uint64_t start, uint64_t bytes, iobus_access_fn *access, void *device);
void iobus_remove(struct iobus *bus, uint64_t start, void *device);
void iobus_access(struct iobus *bus, uint64_t address, unsigned bytes, bool is_write, void *data);

#endif
