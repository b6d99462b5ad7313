/* SPDX-License-Identifier: MIT */
/*
 * The in-process interrupt controllers and clocks of a PC: what lib puts into vm->chip. State access for fronts is in state.h.
 *
 * Lock order, outermost first: core's routing lock, pic, ioapic, lapic (never two of them at once), pit, timer queue. vcpu_request may be called under any
 * of them. irq_ack_pin is called with none held, because an acknowledge notifier may raise or lower a line again.
 */
#ifndef VITRINE_CHIP_PC_H
#define VITRINE_CHIP_PC_H

#include "core/vm.h"

extern const struct chip_ops pc_chip_ops;

#endif
