/* SPDX-License-Identifier: MIT */
/*
 * See msix.h. Source: PCI Local Bus Specification 3.0, "MSI-X Capability and Table Structures".
 */
#include <assert.h>
#include <string.h>

#include "vmm/msix.h"

enum { CONTROL_ENABLE = 0x80, CONTROL_MASK_ALL = 0x40 }; /* in the high byte of Message Control */
enum { ENTRY_ADDRESS, ENTRY_ADDRESS_HIGH, ENTRY_DATA, ENTRY_CONTROL };

void msix_reset(struct msix *msix)
{
    memset(msix->table, 0, sizeof(msix->table));
    for (unsigned i = 0; i < msix->n_vectors; i++)
        msix->table[i][ENTRY_CONTROL] = 1;
    msix->is_enabled = msix->is_masked = false;
    msix->pending = 0;
}

void msix_init(struct msix *msix, const struct line_ops *line, struct pci_device *pci, unsigned n_vectors, uint32_t table_offset)
{
    assert(n_vectors <= MSIX_VECTORS_MAX);
    msix->line = line;
    msix->n_vectors = n_vectors;
    msix->cap = pci_device_add_cap(pci, 0x11, 12);
    pci_put(pci->config, msix->cap + 2, n_vectors - 1, 2);
    pci_put(pci->config, msix->cap + 4, table_offset, 4); /* low bits 0: BAR 0 */
    pci_put(pci->config, msix->cap + 8, table_offset + MSIX_TABLE_BYTES, 4);
    pci->writable[msix->cap + 3] = CONTROL_ENABLE | CONTROL_MASK_ALL;
    msix_reset(msix);
}

static void msix_deliver(struct msix *msix)
{
    for (unsigned i = 0; i < msix->n_vectors; i++) {
        const uint32_t *entry = msix->table[i];

        if (!msix->is_enabled || msix->is_masked || !(msix->pending & 1u << i) || (entry[ENTRY_CONTROL] & 1))
            continue;
        msix->pending &= ~(1u << i);
        msix->line->msi(msix->line->machine, entry[ENTRY_ADDRESS] | (uint64_t)entry[ENTRY_ADDRESS_HIGH] << 32, entry[ENTRY_DATA]);
    }
}

void msix_config_written(struct msix *msix, const struct pci_device *pci)
{
    uint8_t control = pci->config[msix->cap + 3];

    msix->is_enabled = control & CONTROL_ENABLE;
    msix->is_masked = control & CONTROL_MASK_ALL;
    msix_deliver(msix);
}

/* Dwords and qwords, as the specification asks of software; other sizes do nothing. */
void msix_table_access(struct msix *msix, uint64_t offset, unsigned bytes, bool is_write, uint64_t *value)
{
    bool is_pending_bits = offset >= MSIX_TABLE_BYTES;

    if (bytes < 4 || offset % bytes)
        return;
    if (is_pending_bits) {
        if (!is_write)
            *value = offset == MSIX_TABLE_BYTES ? msix->pending : 0;
        return;
    }
    if (offset / 16 >= msix->n_vectors) {
        if (!is_write)
            *value = 0;
        return;
    }
    if (is_write) {
        memcpy((uint8_t *)msix->table + offset, value, bytes);
        msix_deliver(msix);
    } else {
        *value = 0;
        memcpy(value, (uint8_t *)msix->table + offset, bytes);
    }
}

void msix_raise(struct msix *msix, unsigned vector)
{
    if (vector >= msix->n_vectors)
        return;
    msix->pending |= 1u << vector;
    msix_deliver(msix);
}
