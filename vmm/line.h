/* SPDX-License-Identifier: MIT */
/*
 * Interrupt lines and message-signalled interrupts as devices see them, and the requests a device may make of the machine. The machine fills the
 * table; devices never hold the VM's fd. Every function may be called from any thread and takes no lock.
 */
#ifndef VITRINE_VMM_LINE_H
#define VITRINE_VMM_LINE_H

#include "base/types.h"

struct line_ops {
    void *machine;
    void (*set)(void *machine, unsigned gsi, bool level);
    void (*msi)(void *machine, uint64_t address, uint32_t data);
    void (*power_off)(void *machine);
    void (*reset)(void *machine);
};

#endif
