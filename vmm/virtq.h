/* SPDX-License-Identifier: MIT */
/*
 * The device's side of a split virtqueue: take a chain of buffers, give it back. Everything the guest wrote is checked here; a broken ring is an
 * error, never a stray access. The lock of the device that owns the queue is held by every caller.
 */
#ifndef VITRINE_VMM_VIRTQ_H
#define VITRINE_VMM_VIRTQ_H

#include <linux/virtio_ring.h>
#include <sys/uio.h>

#include "vmm/ram.h"

#define VIRTQ_SIZE_MAX 256
#define VIRTQ_IOV_MAX 260

struct virtq {
    uint16_t size, size_max, vector;
    bool is_enabled, has_event_idx;
    gpa_t desc_gpa, avail_gpa, used_gpa;
    const struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint16_t last_avail, used_idx, signalled;
};

/* iov[0, n_out) the device reads, iov[n_out, n_out + n_in) it writes. */
struct virtq_chain {
    uint16_t head;
    unsigned n_out, n_in;
    size_t out_bytes, in_bytes;
    struct iovec iov[VIRTQ_IOV_MAX];
};

void virtq_reset(struct virtq *q, uint16_t size_max);
int virtq_enable(struct virtq *q, const struct ram *ram, bool has_event_idx);     /* -EINVAL: size, alignment or address */
int virtq_pop(struct virtq *q, const struct ram *ram, struct virtq_chain *chain); /* 1 a chain, 0 empty, -EINVAL a broken ring */
void virtq_push(struct virtq *q, uint16_t head, uint32_t written_bytes);
bool virtq_arm(struct virtq *q);             /* asks for a notification; true: more has come meanwhile, look again */
bool virtq_needs_interrupt(struct virtq *q); /* after pushes: does the driver want to hear of them? */

#endif
