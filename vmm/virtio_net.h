/* SPDX-License-Identifier: MIT */
/*
 * Network card on user-mode networking, with a thread of its own.
 */
#ifndef VITRINE_VMM_VIRTIO_NET_H
#define VITRINE_VMM_VIRTIO_NET_H

#include "vmm/error.h"
#include "vmm/virtio.h"

struct virtio_net;

int virtio_net_create(struct virtio_net **out, struct pci *pci, const struct ram *ram, const struct line_ops *line, struct vmm_error *error);
void virtio_net_destroy(struct virtio_net *net);
void virtio_net_reset(struct virtio_net *net);

#endif
