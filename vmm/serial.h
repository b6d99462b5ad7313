/* SPDX-License-Identifier: MIT */
/*
 * A 16550A UART at one I/O range: the guest's console. Every call is made with the machine's device lock held.
 */
#ifndef VITRINE_VMM_SERIAL_H
#define VITRINE_VMM_SERIAL_H

#include "vmm/iobus.h"
#include "vmm/line.h"

#define SERIAL_PORT 0x3f8
#define SERIAL_IRQ 4

struct serial {
    const struct line_ops *line;
    void (*output)(void *sink, uint8_t byte);
    void (*room)(void *sink); /* the input ring was full and has room again */
    void *sink;
    uint8_t ier, lcr, mcr, scr, dll, dlm, msr_delta;
    bool has_fifo, is_tx_pending, irq_level;
    uint8_t loop_byte;
    bool has_loop_byte;
    unsigned idle_polls; /* LSR reads in a row: shows a guest that reads by polling */
    uint8_t in[4096];
    unsigned in_head, in_tail; /* free running */
};

void serial_init(struct serial *s, const struct line_ops *line);
void serial_reset(struct serial *s);                                   /* registers only: typed-ahead input survives a restart */
unsigned serial_room(const struct serial *s);                          /* bytes serial_input would take now */
void serial_input(struct serial *s, const uint8_t *bytes, unsigned n); /* n <= serial_room */
iobus_access_fn serial_access;

#endif
