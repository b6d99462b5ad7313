/* SPDX-License-Identifier: MIT */
/*
 * See pci.h. Source: PCI Local Bus Specification 3.0, "Configuration Space" and "Configuration Mechanism #1".
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "vmm/acpi.h"
#include "vmm/pci.h"

enum { CFG_COMMAND = 0x04, CFG_STATUS = 0x06, CFG_BAR0 = 0x10, CFG_CAP = 0x34, CFG_LINE = 0x3c, CFG_PIN = 0x3d };
enum { COMMAND_IO = 1, COMMAND_MEMORY = 2, COMMAND_MASTER = 4, COMMAND_INTX_OFF = 0x400, STATUS_CAPS = 0x10 };

void pci_put(uint8_t *config, unsigned offset, uint64_t value, unsigned bytes)
{
    memcpy(config + offset, &value, bytes);
}

uint32_t pci_get(const uint8_t *config, unsigned offset, unsigned bytes)
{
    uint32_t value = 0;

    memcpy(&value, config + offset, bytes);
    return value;
}

void pci_device_init(struct pci_device *dev, const struct pci_ids *ids)
{
    memset(dev, 0, sizeof(*dev));
    pci_put(dev->config, 0x00, ids->vendor, 2);
    pci_put(dev->config, 0x02, ids->device, 2);
    dev->config[0x08] = ids->revision;
    pci_put(dev->config, 0x09, ids->class_code, 3);
    pci_put(dev->config, 0x2c, ids->subsystem_vendor, 2);
    pci_put(dev->config, 0x2e, ids->subsystem, 2);
    pci_put(dev->writable, CFG_COMMAND, COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_OFF, 2);
    dev->writable[0x0c] = 0xff; /* cache line size and interrupt line are scratch for software */
    dev->writable[CFG_LINE] = 0xff;
    dev->cap_end = PCI_CAPS_START;
}

unsigned pci_device_add_cap(struct pci_device *dev, uint8_t id, unsigned bytes)
{
    unsigned at = dev->cap_end;

    assert(at + bytes <= sizeof(dev->config));
    dev->config[dev->cap_last ? dev->cap_last : CFG_CAP] = (uint8_t)at;
    dev->config[CFG_STATUS] |= STATUS_CAPS;
    dev->config[at] = id;
    dev->cap_last = at + 1;
    dev->cap_end = (at + bytes + 3) & ~3u;
    return at;
}

static void pci_map(struct pci *pci, struct pci_device *dev)
{
    uint32_t address = pci_get(dev->config, CFG_BAR0, 4) & ~15u;
    bool wanted = dev->bar_bytes && (dev->config[CFG_COMMAND] & COMMAND_MEMORY) && address >= ACPI_PCI_WINDOW && address < ACPI_PCI_WINDOW_END;

    if (dev->is_mapped && (!wanted || address != dev->mapped_at)) {
        iobus_remove(pci->mmio, dev->mapped_at, dev->device);
        dev->is_mapped = false;
    }
    if (wanted && !dev->is_mapped) {
        dev->is_mapped = iobus_add(pci->mmio, address, dev->bar_bytes, dev->bar_access, dev->device) == 0;
        dev->mapped_at = address;
    }
}

int pci_add(struct pci *pci, struct pci_device *dev)
{
    unsigned slot = pci->n_slots;

    if (slot == PCI_SLOTS)
        return -ENOSPC;
    if (dev->bar_bytes) {
        pci->next_bar = (pci->next_bar + dev->bar_bytes - 1) & ~(dev->bar_bytes - 1);
        pci_put(dev->config, CFG_BAR0, pci->next_bar, 4);
        pci_put(dev->writable, CFG_BAR0, ~(dev->bar_bytes - 1), 4);
        pci->next_bar += dev->bar_bytes;
        dev->config[CFG_COMMAND] |= COMMAND_MEMORY;
        dev->config[CFG_PIN] = 1;
        dev->config[CFG_LINE] = (uint8_t)ACPI_PCI_GSI(slot);
    }
    memcpy(dev->initial, dev->config, sizeof(dev->config));
    pci->slot[slot] = dev;
    pci->n_slots++;
    pci_map(pci, dev);
    return (int)slot;
}

void pci_init(struct pci *pci, struct iobus *mmio)
{
    static const struct pci_ids bridge = { .vendor = 0x1b36, .device = 0x0008, .class_code = 0x060000 };

    memset(pci, 0, sizeof(*pci));
    pci->mmio = mmio;
    pci->next_bar = ACPI_PCI_WINDOW;
    pci_device_init(&pci->bridge, &bridge);
    pci_add(pci, &pci->bridge);
}

void pci_reset(struct pci *pci)
{
    pci->address = 0;
    for (unsigned i = 0; i < pci->n_slots; i++) {
        struct pci_device *dev = pci->slot[i];

        memcpy(dev->config, dev->initial, sizeof(dev->config));
        pci_map(pci, dev);
        if (dev->config_written)
            dev->config_written(dev->device);
    }
}

static void pci_config_write(struct pci *pci, struct pci_device *dev, unsigned offset, unsigned bytes, uint64_t value)
{
    for (unsigned i = 0; i < bytes; i++, value >>= 8) {
        uint8_t mask = dev->writable[offset + i];

        dev->config[offset + i] = (uint8_t)((dev->config[offset + i] & ~mask) | ((uint8_t)value & mask));
    }
    if (offset <= CFG_BAR0 + 3)
        pci_map(pci, dev);
    if (dev->config_written)
        dev->config_written(dev->device);
}

void pci_access(void *device, uint64_t offset, unsigned bytes, bool is_write, uint64_t *value)
{
    struct pci *pci = device;
    unsigned slot = pci->address >> 11 & 31, reg = (pci->address & 0xfc) + (offset & 3);
    /* Bus 0, function 0, enabled; anything else does not answer. */
    bool is_ours = (pci->address & 0x80ff0700) == 0x80000000 && slot < pci->n_slots;

    if (offset < 4) {
        if (offset != 0 || bytes != 4)
            return;
        if (is_write)
            pci->address = (uint32_t)*value & 0x80fffffc;
        else
            *value = pci->address;
        return;
    }
    if (!is_ours || bytes > 4 || (offset & 3) + bytes > 4)
        return;
    if (is_write)
        pci_config_write(pci, pci->slot[slot], reg, bytes, *value);
    else
        *value = pci_get(pci->slot[slot]->config, reg, bytes);
}
