/* SPDX-License-Identifier: MIT */
/*
 * 16550A UART. Transmission takes no time; received bytes wait in a ring that stands for the far end of the wire, so a FIFO clear by the guest
 * loses nothing. Source: PC16550D data sheet, "Registers". Caller and lock: see serial.h.
 */
#include <string.h>

#include "vmm/serial.h"

enum { IER_RX = 1, IER_TX = 2, IER_MSR = 8 };
enum { LSR_DATA = 0x01, LSR_TX_EMPTY = 0x60 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10 };
enum { MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };
enum { LCR_DLAB = 0x80 };
enum { IIR_NONE = 1, IIR_TX = 2, IIR_RX = 4, IIR_MSR = 0 };

#define SERIAL_POLLS_SHOW_READER 16

void serial_init(struct serial *s, const struct line_ops *line)
{
    memset(s, 0, sizeof(*s));
    s->line = line;
    serial_reset(s);
}

void serial_reset(struct serial *s)
{
    s->ier = s->lcr = s->mcr = s->scr = s->dlm = s->msr_delta = 0;
    s->dll = 1; /* 115200 baud */
    s->has_fifo = s->is_tx_pending = s->irq_level = s->has_loop_byte = false;
    s->idle_polls = 0;
}

/*
 * Input is shown only to a guest that reads it: receive interrupts enabled, or the line status polled with nothing sent in between. Drivers read
 * and drop a byte while they probe the chip, which would eat the first byte of piped input.
 */
static bool serial_has_data(const struct serial *s)
{
    if (s->mcr & MCR_LOOP)
        return s->has_loop_byte;
    return s->in_head != s->in_tail && ((s->ier & IER_RX) || s->idle_polls >= SERIAL_POLLS_SHOW_READER);
}

static uint8_t serial_pending(const struct serial *s)
{
    if ((s->ier & IER_RX) && serial_has_data(s))
        return IIR_RX;
    if ((s->ier & IER_TX) && s->is_tx_pending)
        return IIR_TX;
    if ((s->ier & IER_MSR) && s->msr_delta)
        return IIR_MSR;
    return IIR_NONE;
}

static void serial_update_irq(struct serial *s)
{
    bool level = serial_pending(s) != IIR_NONE;

    if (level == s->irq_level)
        return;
    s->irq_level = level;
    s->line->set(s->line->machine, SERIAL_IRQ, level);
}

static uint8_t serial_msr(const struct serial *s)
{
    uint8_t lines = MSR_CTS | MSR_DSR | MSR_DCD;

    if (s->mcr & MCR_LOOP) {
        lines = (s->mcr & MCR_DTR ? MSR_DSR : 0) | (s->mcr & MCR_RTS ? MSR_CTS : 0);
        lines |= (s->mcr & MCR_OUT1 ? MSR_RI : 0) | (s->mcr & MCR_OUT2 ? MSR_DCD : 0);
    }
    return lines | s->msr_delta;
}

static uint8_t serial_read_data(struct serial *s)
{
    bool was_full = serial_room(s) == 0;
    uint8_t byte;

    if (!serial_has_data(s))
        return 0;
    if (s->mcr & MCR_LOOP) {
        s->has_loop_byte = false;
        return s->loop_byte;
    }
    byte = s->in[s->in_head++ % sizeof(s->in)];
    if (was_full && s->room)
        s->room(s->sink);
    return byte;
}

static void serial_write_data(struct serial *s, uint8_t byte)
{
    if (s->mcr & MCR_LOOP) {
        s->loop_byte = byte;
        s->has_loop_byte = true;
    } else if (s->output) {
        s->output(s->sink, byte);
    }
    s->is_tx_pending = true;
}

static uint8_t serial_read(struct serial *s, unsigned reg)
{
    uint8_t value;

    if (reg == 5) {
        s->idle_polls++;
        return LSR_TX_EMPTY | (serial_has_data(s) ? LSR_DATA : 0);
    }
    switch (reg) {
    case 0:
        /* idle_polls stays: a polling reader takes a run of bytes without waiting again. */
        return s->lcr & LCR_DLAB ? s->dll : serial_read_data(s);
    case 1:
        return s->lcr & LCR_DLAB ? s->dlm : s->ier;
    case 2:
        value = serial_pending(s);
        if (value == IIR_TX)
            s->is_tx_pending = false;
        return value | (s->has_fifo ? 0xc0 : 0);
    case 3:
        return s->lcr;
    case 4:
        return s->mcr;
    case 6:
        value = serial_msr(s);
        s->msr_delta = 0;
        return value;
    default:
        return s->scr;
    }
}

static void serial_write(struct serial *s, unsigned reg, uint8_t value)
{
    s->idle_polls = 0;
    switch (reg) {
    case 0:
        if (s->lcr & LCR_DLAB)
            s->dll = value;
        else
            serial_write_data(s, value);
        break;
    case 1:
        if (s->lcr & LCR_DLAB) {
            s->dlm = value;
            break;
        }
        if ((value & IER_TX) && !(s->ier & IER_TX))
            s->is_tx_pending = true; /* the transmitter is always empty */
        s->ier = value & 0x0f;
        break;
    case 2:
        s->has_fifo = value & 1;
        break;
    case 3:
        s->lcr = value;
        break;
    case 4:
        s->mcr = value & 0x1f;
        s->has_loop_byte = false;
        break;
    case 7:
        s->scr = value;
        break;
    default: /* line and modem status are read-only */
        break;
    }
}

void serial_access(void *device, uint64_t offset, unsigned bytes, bool is_write, uint64_t *value)
{
    struct serial *s = device;

    (void)bytes;
    if (is_write)
        serial_write(s, offset & 7, (uint8_t)*value);
    else
        *value = serial_read(s, offset & 7);
    serial_update_irq(s);
}

unsigned serial_room(const struct serial *s)
{
    return sizeof(s->in) - (s->in_tail - s->in_head);
}

void serial_input(struct serial *s, const uint8_t *bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        s->in[s->in_tail++ % sizeof(s->in)] = bytes[i];
    serial_update_irq(s);
}
