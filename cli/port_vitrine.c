/* SPDX-License-Identifier: MIT */
/*
 * The port to vitrine's own engine: the KVM front in this process. No state, no lock. Chosen by boot.c unless --device names a real node.
 */
#include "cli/cli.h"
#include "transport/inproc.h"

const struct port port_vitrine = {
    .name = "vitrine",
    .open = vitrine_open,
    .ioctl = vitrine_ioctl,
    .mmap = vitrine_mmap,
    .close = vitrine_close,
};
