/* SPDX-License-Identifier: MIT */
/*
 * See iobus.h.
 */
#include <errno.h>
#include <string.h>

#include "vmm/iobus.h"

int iobus_add(struct iobus *bus, uint64_t start, uint64_t bytes, iobus_access_fn *access, void *device)
{
    if (bus->n_ranges == IOBUS_RANGES_MAX)
        return -ENOSPC;
    bus->range[bus->n_ranges++] = (struct iobus_range){ .start = start, .bytes = bytes, .access = access, .device = device };
    return 0;
}

void iobus_remove(struct iobus *bus, uint64_t start, void *device)
{
    for (unsigned i = 0; i < bus->n_ranges; i++) {
        if (bus->range[i].start != start || bus->range[i].device != device)
            continue;
        memmove(&bus->range[i], &bus->range[i + 1], (bus->n_ranges - i - 1) * sizeof(bus->range[0]));
        bus->n_ranges--;
        return;
    }
}

void iobus_access(struct iobus *bus, uint64_t address, unsigned bytes, bool is_write, void *data)
{
    uint64_t value = ~0ull;

    if (is_write) {
        value = 0;
        memcpy(&value, data, bytes);
    }
    for (unsigned i = 0; i < bus->n_ranges; i++) {
        struct iobus_range *r = &bus->range[i];

        if (address < r->start || address - r->start >= r->bytes)
            continue;
        r->access(r->device, address - r->start, bytes, is_write, &value);
        break;
    }
    if (!is_write)
        memcpy(data, &value, bytes);
}
