/* SPDX-License-Identifier: MIT */
/*
 * The two cascaded 8259A interrupt controllers of a PC, ports 0x20-21, 0xa0-a1 and the ELCR at 0x4d0-4d1. Inputs are set by core's routing from any
 * thread; the vCPU whose LINT0 passes INTR on acknowledges. One mutex guards both chips; notifiers and kicks run without it (Intel 8259A data sheet).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "chip/chip_priv.h"

#define CASCADE_PIN 2
#define N_REGIONS 3

struct pic {
    struct vm *vm;
    pthread_mutex_t lock;
    struct pic_state chip[2]; /* master, slave */
    uint32_t sources[16];     /* bit n: source n holds the input high */
    uint32_t acked;           /* inputs whose notifiers pic_unlock runs */
    bool must_notify;
    _Atomic bool intr; /* master's INT output */
    struct bus_region region[N_REGIONS];
};

/* Offset from the highest-priority input to the first one set, 8 if none. */
static unsigned pic_priority(const struct pic_state *s, unsigned mask)
{
    unsigned n = 0;
    if (!mask)
        return 8;
    while (!(mask >> ((n + s->priority_add) & 7) & 1))
        n++;
    return n;
}

/* The input to interrupt with now, or -1. */
static int pic_pending(const struct pic *p, unsigned which)
{
    const struct pic_state *s = &p->chip[which];
    unsigned want = pic_priority(s, s->irr & ~s->imr);
    unsigned in_service = s->isr;
    if (want == 8)
        return -1;
    if (s->special_mask)
        in_service &= ~s->imr;
    if (s->special_fully_nested_mode && which == 0)
        in_service &= ~(1u << CASCADE_PIN);
    return want < pic_priority(s, in_service) ? (int)((want + s->priority_add) & 7) : -1;
}

/* Edge or level on one chip's input. > 0 taken, 0 was already requested, -1 masked. */
static int pic_input(struct pic_state *s, unsigned pin, bool level)
{
    uint8_t bit = (uint8_t)(1u << pin);
    int result = 1;
    if (s->elcr & bit) {
        result = !level || !(s->irr & bit);
        s->irr = level ? s->irr | bit : s->irr & ~bit;
    } else if (level && !(s->last_irr & bit)) {
        result = !(s->irr & bit);
        s->irr |= bit;
    }
    s->last_irr = level ? s->last_irr | bit : s->last_irr & ~bit;
    return s->imr & bit ? -1 : result;
}

static void pic_update(struct pic *p)
{
    bool slave_out = pic_pending(p, 1) >= 0;
    if (slave_out)
        pic_input(&p->chip[0], CASCADE_PIN, false); /* a new edge even if the slave never dropped its output */
    pic_input(&p->chip[0], CASCADE_PIN, slave_out);
    if (!slave_out && !(p->chip[0].elcr & 1 << CASCADE_PIN))
        p->chip[0].irr &= (uint8_t) ~(1u << CASCADE_PIN);
    bool intr = pic_pending(p, 0) >= 0;
    if (intr && !atomic_load(&p->intr))
        p->must_notify = true;
    atomic_store(&p->intr, intr);
}

static void pic_notify(struct vm *vm)
{
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        struct vcpu *v = vm_vcpu(vm, i);
        struct lapic *l = v ? lapic_of(v) : NULL;
        if (l && atomic_load(&l->takes_pic)) {
            vcpu_request(v, VREQ_EVENT);
            return;
        }
    }
}

static void pic_unlock(struct pic *p)
{
    uint32_t acked = p->acked;
    bool must_notify = p->must_notify;
    p->acked = 0;
    p->must_notify = false;
    pthread_mutex_unlock(&p->lock);
    if (must_notify)
        pic_notify(p->vm);
    for (; acked; acked &= acked - 1) {
        unsigned pin = (unsigned)__builtin_ctz(acked);
        irq_ack_pin(p->vm, pin < 8 ? IRQ_ROUTE_PIC_MASTER : IRQ_ROUTE_PIC_SLAVE, pin & 7);
    }
}

int pic_set(struct vm *vm, unsigned pin, unsigned source, bool level)
{
    struct pic *p = vm->pic;
    if (!p || pin >= 16)
        return -1;
    pthread_mutex_lock(&p->lock);
    p->sources[pin] = (p->sources[pin] & ~(1u << source)) | (uint32_t)level << source;
    int result = pic_input(&p->chip[pin / 8], pin & 7, p->sources[pin] != 0);
    pic_update(p);
    pic_unlock(p);
    return result;
}

bool pic_has_intr(struct vm *vm)
{
    struct pic *p = vm->pic;
    return p && atomic_load_explicit(&p->intr, memory_order_acquire);
}

static void pic_end(struct pic *p, unsigned which, unsigned pin)
{
    p->chip[which].isr &= (uint8_t) ~(1u << pin);
    p->acked |= 1u << (8 * which + pin);
}

static void pic_in_service(struct pic *p, unsigned which, unsigned pin)
{
    struct pic_state *s = &p->chip[which];
    uint8_t bit = (uint8_t)(1u << pin);
    s->isr |= bit;
    /* A level input requests as long as it is high. */
    if (!(s->elcr & bit))
        s->irr &= (uint8_t)~bit;
    if (s->auto_eoi) {
        if (s->rotate_on_auto_eoi)
            s->priority_add = (pin + 1) & 7;
        pic_end(p, which, pin);
    }
}

/* The vector of an INTA cycle, which takes the interrupt unless it is only a look. A request that has gone gives the spurious input 7. */
static int pic_vector(struct pic *p, bool is_taking)
{
    int pin = pic_pending(p, 0);
    if (pin < 0)
        return p->chip[0].irq_base + 7;
    if (pin != CASCADE_PIN) {
        if (is_taking)
            pic_in_service(p, 0, (unsigned)pin);
        return p->chip[0].irq_base + pin;
    }
    int slave_pin = pic_pending(p, 1);
    if (is_taking) {
        if (slave_pin >= 0)
            pic_in_service(p, 1, (unsigned)slave_pin);
        pic_in_service(p, 0, CASCADE_PIN);
    }
    return p->chip[1].irq_base + (slave_pin >= 0 ? slave_pin : 7);
}

int pic_peek(struct vm *vm)
{
    struct pic *p = vm->pic;
    if (!pic_has_intr(vm))
        return -1;
    pthread_mutex_lock(&p->lock);
    int vector = atomic_load(&p->intr) ? pic_vector(p, false) : -1;
    pic_unlock(p);
    return vector;
}

int pic_take(struct vm *vm)
{
    struct pic *p = vm->pic;
    int vector = -1;
    if (!pic_has_intr(vm))
        return -1;
    pthread_mutex_lock(&p->lock);
    if (atomic_load(&p->intr)) {
        vector = pic_vector(p, true);
        atomic_store(&p->intr, false); /* so that what is left is seen as new */
        pic_update(p);
    }
    pic_unlock(p);
    return vector;
}

static void pic_icw1(struct pic *p, unsigned which, uint8_t value)
{
    struct pic_state *s = &p->chip[which];
    /* What was in the edge latches is lost: whoever waits for its acknowledge must not wait for ever. */
    p->acked |= (uint32_t)((s->irr & ~s->elcr) | s->isr) << (8 * which);
    s->irr &= s->elcr;
    s->isr = s->imr = s->last_irr = 0;
    s->priority_add = 0;
    s->special_mask = s->read_reg_select = s->poll = 0;
    s->init4 = value & 1;
    if (!s->init4)
        s->special_fully_nested_mode = s->auto_eoi = 0;
    s->rotate_on_auto_eoi = 0;
    s->init_state = 1;
}

static void pic_ocw2(struct pic *p, unsigned which, uint8_t value)
{
    struct pic_state *s = &p->chip[which];
    unsigned command = value >> 5, pin = value & 7;
    switch (command) {
    case 0: /* rotate in automatic EOI mode: clear, set */
    case 4:
        s->rotate_on_auto_eoi = command >> 2;
        break;
    case 1: /* non-specific EOI, and with rotation */
    case 5: {
        unsigned n = pic_priority(s, s->isr);
        if (n == 8)
            break;
        pin = (n + s->priority_add) & 7;
        if (command == 5)
            s->priority_add = (pin + 1) & 7;
        pic_end(p, which, pin);
        break;
    }
    case 3: /* specific EOI, and with rotation */
    case 7:
        if (command == 7)
            s->priority_add = (pin + 1) & 7;
        pic_end(p, which, pin);
        break;
    case 6:
        s->priority_add = (pin + 1) & 7;
        break;
    }
}

static void pic_command(struct pic *p, unsigned which, uint8_t value)
{
    struct pic_state *s = &p->chip[which];
    if (value & 0x10) {
        pic_icw1(p, which, value);
    } else if (value & 0x08) {
        if (value & 0x04)
            s->poll = 1;
        if (value & 0x02)
            s->read_reg_select = value & 1;
        if (value & 0x40)
            s->special_mask = value >> 5 & 1;
    } else {
        pic_ocw2(p, which, value);
    }
}

static void pic_data(struct pic_state *s, uint8_t value)
{
    switch (s->init_state) {
    case 0:
        s->imr = value;
        break;
    case 1:
        s->irq_base = value & 0xf8;
        s->init_state = 2;
        break;
    case 2: /* ICW3: the wiring of a PC is fixed */
        s->init_state = s->init4 ? 3 : 0;
        break;
    default:
        s->special_fully_nested_mode = value >> 4 & 1;
        s->auto_eoi = value >> 1 & 1;
        s->init_state = 0;
    }
}

/* Poll mode: the read is the acknowledge. */
static uint8_t pic_poll_read(struct pic *p, unsigned which)
{
    int pin = pic_pending(p, which);
    p->chip[which].poll = 0;
    if (pin < 0)
        return 0;
    pic_in_service(p, which, (unsigned)pin);
    if (which == 1 && (p->chip[0].irr & 1 << CASCADE_PIN))
        pic_in_service(p, 0, CASCADE_PIN);
    return (uint8_t)(0x80 | pin);
}

static uint8_t pic_read_port(struct pic *p, unsigned port)
{
    if (port >= 0x4d0)
        return p->chip[port & 1].elcr;
    unsigned which = port >= 0xa0;
    struct pic_state *s = &p->chip[which];
    if (s->poll)
        return pic_poll_read(p, which);
    if (port & 1)
        return s->imr;
    return s->read_reg_select ? s->isr : s->irr;
}

static void pic_write_port(struct pic *p, unsigned port, uint8_t value)
{
    unsigned which = port >= 0x4d0 ? port & 1 : port >= 0xa0;
    struct pic_state *s = &p->chip[which];
    if (port >= 0x4d0) {
        s->elcr = value & s->elcr_mask;
        s->irr |= s->last_irr & s->elcr; /* an input that is high now requests */
    } else if (port & 1) {
        pic_data(s, value);
    } else {
        pic_command(p, which, value);
    }
}

/* A 16-bit access to the even port touches both. */
static int pic_io_read(struct bus_region *r, struct vcpu *v, uint64_t addr, unsigned bytes, void *data)
{
    struct pic *p = r->owner;
    (void)v;
    memset(data, 0xff, bytes);
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < bytes && addr + i < r->addr + r->bytes; i++)
        ((uint8_t *)data)[i] = pic_read_port(p, (unsigned)addr + i);
    pic_update(p);
    pic_unlock(p);
    return 0;
}

static int pic_io_write(struct bus_region *r, struct vcpu *v, uint64_t addr, unsigned bytes, const void *data)
{
    struct pic *p = r->owner;
    (void)v;
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < bytes && addr + i < r->addr + r->bytes; i++)
        pic_write_port(p, (unsigned)addr + i, ((const uint8_t *)data)[i]);
    pic_update(p);
    pic_unlock(p);
    return 0;
}

static const struct bus_ops pic_bus_ops = { .read = pic_io_read, .write = pic_io_write };

int pic_create(struct vm *vm)
{
    static const uint16_t port[N_REGIONS] = { 0x20, 0xa0, 0x4d0 };
    struct pic *p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->vm = vm;
    pthread_mutex_init(&p->lock, NULL);
    /* Timer, keyboard, cascade, RTC and FPU inputs are edge-triggered for good. */
    p->chip[0].elcr_mask = 0xf8;
    p->chip[1].elcr_mask = 0xde;
    vm->pic = p;
    for (unsigned i = 0; i < N_REGIONS; i++) {
        p->region[i] = (struct bus_region){ .addr = port[i], .bytes = 2, .ops = &pic_bus_ops, .owner = p };
        bus_add(&vm->pio, &p->region[i]);
    }
    return 0;
}

void pic_destroy(struct vm *vm)
{
    struct pic *p = vm->pic;
    if (!p)
        return;
    for (unsigned i = 0; i < N_REGIONS; i++)
        bus_remove(&vm->pio, &p->region[i]);
    vm->pic = NULL;
    pthread_mutex_destroy(&p->lock);
    free(p);
}

int pic_state_get(struct vm *vm, bool is_slave, struct pic_state *out)
{
    struct pic *p = vm->pic;
    if (!p)
        return -ENXIO;
    pthread_mutex_lock(&p->lock);
    *out = p->chip[is_slave];
    pic_unlock(p);
    return 0;
}

int pic_state_set(struct vm *vm, bool is_slave, const struct pic_state *in)
{
    struct pic *p = vm->pic;
    if (!p)
        return -ENXIO;
    pthread_mutex_lock(&p->lock);
    uint8_t elcr_mask = p->chip[is_slave].elcr_mask;
    p->chip[is_slave] = *in;
    p->chip[is_slave].elcr_mask = elcr_mask;
    p->chip[is_slave].priority_add &= 7;
    pic_update(p);
    pic_unlock(p);
    return 0;
}
