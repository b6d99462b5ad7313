/* SPDX-License-Identifier: MIT */
/*
 * The PCI transport of virtio 1.x: capabilities, the common configuration structure, notification, interrupts by MSI-X or INTx.
 * Source: Virtual I/O Device (VIRTIO) Version 1.2, "Virtio Over PCI Bus". Not offered: legacy registers, the configuration-access window.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <string.h>

#include "vmm/acpi.h"
#include "vmm/virtio.h"

enum { BAR_COMMON = 0x0000, BAR_ISR = 0x1000, BAR_DEVICE = 0x2000, BAR_NOTIFY = 0x3000, BAR_MSIX = 0x4000, BAR_BYTES = 0x8000 };
enum { COMMON_BYTES = 56, ISR_QUEUE = 1, ISR_CONFIG = 2 };

static void virtio_set_intx(struct virtio *dev, bool level)
{
    if (level == dev->intx_level)
        return;
    dev->intx_level = level;
    dev->line->set(dev->line->machine, ACPI_PCI_GSI(dev->slot), level);
}

static void virtio_interrupt(struct virtio *dev, uint8_t isr, uint16_t vector)
{
    if (dev->msix.is_enabled) {
        msix_raise(&dev->msix, vector);
        return;
    }
    dev->isr |= isr;
    virtio_set_intx(dev, !(dev->pci.config[5] & 4)); /* command bit 10: INTx disabled */
}

void virtio_break(struct virtio *dev)
{
    if (dev->status & VIRTIO_CONFIG_S_NEEDS_RESET)
        return;
    dev->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    if (dev->status & VIRTIO_CONFIG_S_DRIVER_OK)
        virtio_interrupt(dev, ISR_CONFIG, dev->config_vector);
}

static bool virtio_is_live(const struct virtio *dev)
{
    return (dev->status & VIRTIO_CONFIG_S_DRIVER_OK) && !(dev->status & VIRTIO_CONFIG_S_NEEDS_RESET);
}

bool virtio_pop(struct virtio *dev, unsigned queue, struct virtq_chain *chain)
{
    int rc;

    if (!virtio_is_live(dev))
        return false;
    rc = virtq_pop(&dev->q[queue], dev->ram, chain);
    if (rc < 0)
        virtio_break(dev);
    return rc > 0;
}

void virtio_push(struct virtio *dev, unsigned queue, uint16_t head, uint32_t written_bytes)
{
    if (virtio_is_live(dev) && dev->q[queue].is_enabled)
        virtq_push(&dev->q[queue], head, written_bytes);
}

void virtio_signal(struct virtio *dev, unsigned queue)
{
    if (virtio_is_live(dev) && virtq_needs_interrupt(&dev->q[queue]))
        virtio_interrupt(dev, ISR_QUEUE, dev->q[queue].vector);
}

bool virtio_arm(struct virtio *dev, unsigned queue)
{
    return virtio_is_live(dev) && virtq_arm(&dev->q[queue]);
}

static void virtio_reset_locked(struct virtio *dev)
{
    dev->status = 0; /* before the device is asked: from here on its threads find nothing to pop */
    if (dev->ops->reset)
        dev->ops->reset(dev);
    dev->accepted = 0;
    dev->offered_select = dev->accepted_select = 0;
    dev->queue_select = 0;
    dev->config_vector = 0xffff;
    dev->isr = 0;
    virtio_set_intx(dev, false);
    dev->msix.pending = 0;
    for (unsigned i = 0; i < dev->n_queues; i++)
        virtq_reset(&dev->q[i], VIRTQ_SIZE_MAX);
}

void virtio_reset(struct virtio *dev)
{
    pthread_mutex_lock(&dev->lock);
    virtio_reset_locked(dev);
    msix_reset(&dev->msix);
    pthread_mutex_unlock(&dev->lock);
}

static void virtio_write_status(struct virtio *dev, uint8_t value)
{
    uint64_t version = 1ull << VIRTIO_F_VERSION_1;

    if (value == 0) {
        virtio_reset_locked(dev);
        return;
    }
    /* Refused by not taking the bit: features we never offered, or a driver of the legacy interface. */
    if ((value & ~dev->status & VIRTIO_CONFIG_S_FEATURES_OK) && ((dev->accepted & ~dev->offered) || !(dev->accepted & version)))
        value &= ~VIRTIO_CONFIG_S_FEATURES_OK;
    dev->status = value | (dev->status & VIRTIO_CONFIG_S_NEEDS_RESET);
    if (virtio_is_live(dev))
        for (unsigned i = 0; i < dev->n_queues; i++)
            dev->ops->notify(dev, i); /* what the driver queued before DRIVER_OK */
}

static void virtio_write_half(uint64_t *field, unsigned shift, unsigned bytes, uint64_t value)
{
    uint64_t mask = bytes == 8 ? ~0ull : 0xffffffffull << shift;

    *field = (*field & ~mask) | (value << shift & mask);
}

static void virtio_write_queue(struct virtio *dev, struct virtq *q, unsigned offset, unsigned bytes, uint64_t value)
{
    unsigned shift = offset & 4 ? 32 : 0;

    if (offset == VIRTIO_PCI_COMMON_Q_MSIX) {
        q->vector = value < dev->msix.n_vectors ? (uint16_t)value : 0xffff;
        return;
    }
    if (q->is_enabled)
        return; /* a live queue cannot be moved */
    switch (offset) {
    case VIRTIO_PCI_COMMON_Q_SIZE:
        q->size = (uint16_t)value;
        break;
    case VIRTIO_PCI_COMMON_Q_ENABLE:
        if (value == 1 && virtq_enable(q, dev->ram, dev->accepted & 1ull << VIRTIO_RING_F_EVENT_IDX) != 0)
            virtio_break(dev);
        break;
    case VIRTIO_PCI_COMMON_Q_DESCLO:
    case VIRTIO_PCI_COMMON_Q_DESCHI:
        virtio_write_half(&q->desc_gpa, shift, bytes, value);
        break;
    case VIRTIO_PCI_COMMON_Q_AVAILLO:
    case VIRTIO_PCI_COMMON_Q_AVAILHI:
        virtio_write_half(&q->avail_gpa, shift, bytes, value);
        break;
    case VIRTIO_PCI_COMMON_Q_USEDLO:
    case VIRTIO_PCI_COMMON_Q_USEDHI:
        virtio_write_half(&q->used_gpa, shift, bytes, value);
        break;
    default:
        break;
    }
}

static void virtio_write_common(struct virtio *dev, unsigned offset, unsigned bytes, uint64_t value)
{
    switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT:
        dev->offered_select = (uint32_t)value;
        break;
    case VIRTIO_PCI_COMMON_GFSELECT:
        dev->accepted_select = (uint32_t)value;
        break;
    case VIRTIO_PCI_COMMON_GF:
        if (dev->accepted_select < 2 && !(dev->status & VIRTIO_CONFIG_S_FEATURES_OK))
            virtio_write_half(&dev->accepted, dev->accepted_select * 32, 4, (uint32_t)value);
        break;
    case VIRTIO_PCI_COMMON_MSIX:
        dev->config_vector = value < dev->msix.n_vectors ? (uint16_t)value : 0xffff;
        break;
    case VIRTIO_PCI_COMMON_STATUS:
        virtio_write_status(dev, (uint8_t)value);
        break;
    case VIRTIO_PCI_COMMON_Q_SELECT:
        dev->queue_select = (uint16_t)value;
        break;
    default:
        if (offset > VIRTIO_PCI_COMMON_Q_SELECT && dev->queue_select < dev->n_queues)
            virtio_write_queue(dev, &dev->q[dev->queue_select], offset, bytes, value);
        break;
    }
}

/* A snapshot of the whole structure; the caller cuts out what was asked for. */
static void virtio_read_common(const struct virtio *dev, uint8_t *regs)
{
    pci_put(regs, VIRTIO_PCI_COMMON_DFSELECT, dev->offered_select, 4);
    pci_put(regs, VIRTIO_PCI_COMMON_DF, dev->offered_select < 2 ? dev->offered >> dev->offered_select * 32 : 0, 4);
    pci_put(regs, VIRTIO_PCI_COMMON_GFSELECT, dev->accepted_select, 4);
    pci_put(regs, VIRTIO_PCI_COMMON_GF, dev->accepted_select < 2 ? dev->accepted >> dev->accepted_select * 32 : 0, 4);
    pci_put(regs, VIRTIO_PCI_COMMON_MSIX, dev->config_vector, 2);
    pci_put(regs, VIRTIO_PCI_COMMON_NUMQ, dev->n_queues, 2);
    regs[VIRTIO_PCI_COMMON_STATUS] = dev->status;
    pci_put(regs, VIRTIO_PCI_COMMON_Q_SELECT, dev->queue_select, 2);
    if (dev->queue_select < dev->n_queues) {
        const struct virtq *q = &dev->q[dev->queue_select];

        pci_put(regs, VIRTIO_PCI_COMMON_Q_SIZE, q->size, 2);
        pci_put(regs, VIRTIO_PCI_COMMON_Q_MSIX, q->vector, 2);
        pci_put(regs, VIRTIO_PCI_COMMON_Q_ENABLE, q->is_enabled, 2);
        pci_put(regs, VIRTIO_PCI_COMMON_Q_NOFF, dev->queue_select, 2);
        pci_put(regs, VIRTIO_PCI_COMMON_Q_DESCLO, q->desc_gpa, 8);
        pci_put(regs, VIRTIO_PCI_COMMON_Q_AVAILLO, q->avail_gpa, 8);
        pci_put(regs, VIRTIO_PCI_COMMON_Q_USEDLO, q->used_gpa, 8);
    }
}

static void virtio_read_bytes(const uint8_t *from, unsigned size, uint64_t offset, unsigned bytes, uint64_t *value)
{
    *value = 0;
    if (offset < size)
        memcpy(value, from + offset, bytes < size - offset ? bytes : size - offset);
}

static void virtio_read_bar(struct virtio *dev, uint64_t offset, unsigned bytes, uint64_t *value)
{
    uint8_t regs[COMMON_BYTES] = { 0 };

    if (offset < BAR_ISR) {
        virtio_read_common(dev, regs);
        virtio_read_bytes(regs, sizeof(regs), offset, bytes, value);
    } else if (offset < BAR_DEVICE) {
        *value = dev->isr; /* reading acknowledges */
        dev->isr = 0;
        virtio_set_intx(dev, false);
    } else if (offset < BAR_NOTIFY) {
        virtio_read_bytes(dev->config, dev->config_bytes, offset - BAR_DEVICE, bytes, value);
    }
}

static void virtio_write_bar(struct virtio *dev, uint64_t offset, unsigned bytes, uint64_t value)
{
    if (offset < COMMON_BYTES)
        virtio_write_common(dev, (unsigned)offset, bytes, value);
    else if (offset >= BAR_NOTIFY && (uint16_t)value < dev->n_queues && virtio_is_live(dev))
        dev->ops->notify(dev, (uint16_t)value);
}

static void virtio_bar_access(void *device, uint64_t offset, unsigned bytes, bool is_write, uint64_t *value)
{
    struct virtio *dev = device;

    pthread_mutex_lock(&dev->lock);
    if (offset >= BAR_MSIX)
        msix_table_access(&dev->msix, offset - BAR_MSIX, bytes, is_write, value);
    else if (is_write)
        virtio_write_bar(dev, offset, bytes, *value);
    else
        virtio_read_bar(dev, offset, bytes, value);
    pthread_mutex_unlock(&dev->lock);
}

static void virtio_config_written(void *device)
{
    struct virtio *dev = device;

    pthread_mutex_lock(&dev->lock);
    msix_config_written(&dev->msix, &dev->pci);
    if (dev->msix.is_enabled || (dev->pci.config[5] & 4))
        virtio_set_intx(dev, false);
    else if (dev->isr)
        virtio_set_intx(dev, true);
    pthread_mutex_unlock(&dev->lock);
}

static void virtio_add_cap(struct virtio *dev, uint8_t type, uint32_t offset, uint32_t bytes)
{
    unsigned size = type == VIRTIO_PCI_CAP_NOTIFY_CFG ? 20 : 16; /* the extra dword, notify_off_multiplier, stays 0: one address for all queues */
    unsigned cap = pci_device_add_cap(&dev->pci, 0x09, size);

    dev->pci.config[cap + 2] = (uint8_t)size;
    dev->pci.config[cap + 3] = type;
    pci_put(dev->pci.config, cap + 8, offset, 4);
    pci_put(dev->pci.config, cap + 12, bytes, 4);
}

int virtio_init(struct virtio *dev, const struct virtio_type *type, const struct virtio_ops *ops, void *device, struct pci *pci, const struct ram *ram,
                const struct line_ops *line)
{
    struct pci_ids ids = { .vendor = 0x1af4, .device = 0x1040 + type->id, .subsystem_vendor = 0x1af4, .subsystem = 0x1040 + type->id };
    int slot;

    ids.class_code = type->class_code;
    ids.revision = 1;
    dev->ops = ops;
    dev->device = device;
    dev->ram = ram;
    dev->line = line;
    dev->n_queues = type->n_queues;
    dev->offered = type->features | 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_RING_F_EVENT_IDX;
    pci_device_init(&dev->pci, &ids);
    dev->pci.device = dev;
    dev->pci.bar_bytes = BAR_BYTES;
    dev->pci.bar_access = virtio_bar_access;
    dev->pci.config_written = virtio_config_written;
    virtio_add_cap(dev, VIRTIO_PCI_CAP_COMMON_CFG, BAR_COMMON, COMMON_BYTES);
    virtio_add_cap(dev, VIRTIO_PCI_CAP_NOTIFY_CFG, BAR_NOTIFY, 4);
    virtio_add_cap(dev, VIRTIO_PCI_CAP_ISR_CFG, BAR_ISR, 4);
    virtio_add_cap(dev, VIRTIO_PCI_CAP_DEVICE_CFG, BAR_DEVICE, 0x1000);
    msix_init(&dev->msix, line, &dev->pci, type->n_queues + 1, BAR_MSIX);
    slot = pci_add(pci, &dev->pci);
    if (slot < 0)
        return slot;
    dev->slot = (unsigned)slot;
    pthread_mutex_init(&dev->lock, NULL);
    virtio_reset(dev);
    return 0;
}

void virtio_fini(struct virtio *dev)
{
    pthread_mutex_destroy(&dev->lock);
}
