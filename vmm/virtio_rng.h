/* SPDX-License-Identifier: MIT */
/*
 * Entropy device: the host's getrandom for the guest. No thread of its own.
 */
#ifndef VITRINE_VMM_VIRTIO_RNG_H
#define VITRINE_VMM_VIRTIO_RNG_H

#include "vmm/error.h"
#include "vmm/virtio.h"

struct virtio_rng;

int virtio_rng_create(struct virtio_rng **out, struct pci *pci, const struct ram *ram, const struct line_ops *line, struct vmm_error *error);
void virtio_rng_destroy(struct virtio_rng *rng);
void virtio_rng_reset(struct virtio_rng *rng);

#endif
