/* SPDX-License-Identifier: MIT */
/*
 * What a virtio device is made of, whatever it does: a modern (1.x) PCI function, queues, features, status, interrupts. A device file supplies a
 * struct virtio_ops and calls back here. Lock order: machine's device lock, then struct virtio.lock; device threads take only the latter.
 */
#ifndef VITRINE_VMM_VIRTIO_H
#define VITRINE_VMM_VIRTIO_H

#include <pthread.h>

#include "vmm/line.h"
#include "vmm/msix.h"
#include "vmm/pci.h"
#include "vmm/virtq.h"

#define VIRTIO_QUEUES_MAX 2

struct virtio;

/* Called with virtio.lock held. */
struct virtio_ops {
    void (*notify)(struct virtio *dev, unsigned queue);
    void (*reset)(struct virtio *dev); /* returns when nothing of the device touches guest memory any more; may wait on the lock; may be NULL */
};

struct virtio {
    pthread_mutex_t lock;
    const struct virtio_ops *ops;
    void *device;
    const struct ram *ram;
    const struct line_ops *line;
    struct pci_device pci;
    struct msix msix;
    unsigned slot;

    uint64_t offered, accepted; /* features */
    uint32_t offered_select, accepted_select;
    uint8_t status, isr;
    bool intx_level;
    uint16_t queue_select, config_vector;
    unsigned n_queues;
    struct virtq q[VIRTIO_QUEUES_MAX];
    const void *config; /* device-specific, read-only to the guest */
    unsigned config_bytes;
};

struct virtio_type {
    uint16_t id; /* "Device Types" */
    uint32_t class_code;
    unsigned n_queues;
    uint64_t features; /* the transport's own are added */
};

int virtio_init(struct virtio *dev, const struct virtio_type *type, const struct virtio_ops *ops, void *device, struct pci *pci, const struct ram *ram,
                const struct line_ops *line);
void virtio_fini(struct virtio *dev);
void virtio_reset(struct virtio *dev); /* takes the lock */

/* With the lock held. virtio_pop also returns 0 when the ring is broken, after telling the driver that the device needs a reset. */
bool virtio_pop(struct virtio *dev, unsigned queue, struct virtq_chain *chain);
void virtio_push(struct virtio *dev, unsigned queue, uint16_t head, uint32_t written_bytes);
void virtio_signal(struct virtio *dev, unsigned queue); /* interrupt for what was pushed, if the driver wants one */
bool virtio_arm(struct virtio *dev, unsigned queue);
void virtio_break(struct virtio *dev); /* a request that makes no sense: DEVICE_NEEDS_RESET */

/* Copies between an iov list and a buffer, from `skip` bytes on; returns the bytes copied. */
size_t virtio_copy_from(const struct iovec *iov, unsigned n, size_t skip, void *buf, size_t bytes);
size_t virtio_copy_to(const struct iovec *iov, unsigned n, size_t skip, const void *buf, size_t bytes);

#endif
