/* SPDX-License-Identifier: MIT */
/*
 * MSI-X of one PCI device: its vector table, masks and pending bits. The lock of the device that owns it is held by every caller.
 */
#ifndef VITRINE_VMM_MSIX_H
#define VITRINE_VMM_MSIX_H

#include "vmm/line.h"
#include "vmm/pci.h"

#define MSIX_VECTORS_MAX 4
#define MSIX_TABLE_BYTES 0x1000 /* of the BAR; the pending bits follow after it in as much */

struct msix {
    const struct line_ops *line;
    unsigned n_vectors, cap; /* cap: offset in the device's configuration space */
    bool is_enabled, is_masked;
    uint32_t table[MSIX_VECTORS_MAX][4];
    uint32_t pending;
};

void msix_init(struct msix *msix, const struct line_ops *line, struct pci_device *pci, unsigned n_vectors, uint32_t table_offset);
void msix_reset(struct msix *msix);
void msix_config_written(struct msix *msix, const struct pci_device *pci);
void msix_table_access(struct msix *msix, uint64_t offset, unsigned bytes, bool is_write, uint64_t *value);
void msix_raise(struct msix *msix, unsigned vector); /* vectors out of range, such as "none", do nothing */

#endif
