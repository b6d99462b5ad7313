/* SPDX-License-Identifier: MIT */
/*
 * Disk over a raw file or block device of the host, with an I/O thread of its own.
 */
#ifndef VITRINE_VMM_VIRTIO_BLK_H
#define VITRINE_VMM_VIRTIO_BLK_H

#include "vmm/error.h"
#include "vmm/virtio.h"

struct virtio_blk;

/* The file stays locked (flock) as long as the disk lives: shared for read-only, exclusive else. */
int virtio_blk_create(struct virtio_blk **out, const char *path, bool is_readonly, unsigned number, struct pci *pci, const struct ram *ram,
                      const struct line_ops *line, struct vmm_error *error);
void virtio_blk_destroy(struct virtio_blk *blk);
void virtio_blk_reset(struct virtio_blk *blk);

#endif
