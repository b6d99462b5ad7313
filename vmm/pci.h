/* SPDX-License-Identifier: MIT */
/*
 * One PCI bus behind configuration mechanism 1: a host bridge in slot 0 and type-0 devices with at most one memory BAR each. The VMM plays firmware and
 * assigns the BARs. Device lock held by every caller.
 */
#ifndef VITRINE_VMM_PCI_H
#define VITRINE_VMM_PCI_H

#include "vmm/iobus.h"

#define PCI_CONFIG_PORT 0xcf8
#define PCI_SLOTS 32
#define PCI_CAPS_START 0x40

struct pci_device {
    uint8_t config[256], writable[256], initial[256];
    unsigned cap_end, cap_last; /* where the next capability goes, and the offset of the last one's link (0: none) */
    uint32_t bar_bytes;         /* power of two, or 0 */
    iobus_access_fn *bar_access;
    void (*config_written)(void *device); /* after every guest write; may be NULL */
    void *device;
    bool is_mapped;
    uint32_t mapped_at;
};

struct pci {
    struct iobus *mmio;
    uint32_t address, next_bar;
    struct pci_device bridge;
    struct pci_device *slot[PCI_SLOTS];
    unsigned n_slots;
};

struct pci_ids {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; /* 24 bits: class, subclass, interface */
    uint8_t revision;
};

void pci_init(struct pci *pci, struct iobus *mmio);
void pci_device_init(struct pci_device *dev, const struct pci_ids *ids);
/* Returns the offset of the new capability of `bytes` (including id and link), zero-filled but for those two. */
unsigned pci_device_add_cap(struct pci_device *dev, uint8_t id, unsigned bytes);
/* Gives the device a slot, a BAR and its INTA line. Returns the slot or -ENOSPC. The device must stay where it is. */
int pci_add(struct pci *pci, struct pci_device *dev);
void pci_reset(struct pci *pci); /* back to what the firmware left */
iobus_access_fn pci_access;

void pci_put(uint8_t *config, unsigned offset, uint64_t value, unsigned bytes);
uint32_t pci_get(const uint8_t *config, unsigned offset, unsigned bytes);

#endif
