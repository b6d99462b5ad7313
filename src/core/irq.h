/* SPDX-License-Identifier: MIT */
/*
 * Interrupt routing: a GSI to PIC pins, IOAPIC pins and MSIs; irqfds; notifiers on acknowledge (resample).
 */
#ifndef VITRINE_CORE_IRQ_H
#define VITRINE_CORE_IRQ_H

#include <pthread.h>

#include "base/types.h"

struct vm;

#define IRQ_GSI_MAX 4096
#define IRQ_SOURCE_CLIENT 0 /* KVM_IRQ_LINE */
#define IRQ_SOURCE_PIT 1
#define IRQ_SOURCE_RESAMPLE 2

enum irq_route_kind { IRQ_ROUTE_PIC_MASTER, IRQ_ROUTE_PIC_SLAVE, IRQ_ROUTE_IOAPIC, IRQ_ROUTE_MSI };

struct irq_route {
    uint32_t gsi;
    enum irq_route_kind kind;
    uint32_t pin;
    uint64_t msi_address;
    uint32_t msi_data;
};

struct irq_ack_notifier {
    uint32_t gsi;
    void (*acked)(struct irq_ack_notifier *n); /* called with no chip lock held */
    struct irq_ack_notifier *next;
};

struct irq_routing {
    pthread_rwlock_t lock;
    struct irq_route *route;
    unsigned n;
    uint32_t n_reserved; /* split controllers: GSIs below it are the pins of the client's IOAPICs, which want to know of EOIs */
    struct irq_ack_notifier *notifiers;
    void *irqfds; /* core/irqfd.c */
};

void irq_init(struct irq_routing *r);
void irq_fini(struct irq_routing *r);
/* The default of a PC: GSI 0-15 to PIC and IOAPIC, 16-23 to IOAPIC. */
int irq_set_default_routes(struct vm *vm);
int irq_set_routes(struct vm *vm, const struct irq_route *routes, unsigned n);
/* Sets a GSI's level for one source. Any thread. > 0 delivered to so many, 0 coalesced, -1 ignored; -ENXIO if no chip. */
int irq_set_level(struct vm *vm, uint32_t gsi, unsigned source, bool level);
/* The MSI that a GSI is routed to first; false if there is none. */
bool irq_find_msi(struct vm *vm, uint32_t gsi, uint64_t *address, uint32_t *data);
/* Runs the notifiers of a GSI; false: it has none. Any thread without a chip lock. */
bool irq_ack_gsi(struct vm *vm, uint32_t gsi);
/* True if an MSI route of a reserved GSI is `wanted`. Any thread without a chip lock. */
bool irq_any_reserved_msi(struct vm *vm, bool (*wanted)(void *arg, uint64_t address, uint32_t data), void *arg);
int irq_send_msi(struct vm *vm, uint64_t address, uint32_t data);
/* chip/ tells that a PIC or IOAPIC pin was acknowledged (EOI): runs the notifiers of the GSIs routed there. */
void irq_ack_pin(struct vm *vm, enum irq_route_kind kind, unsigned pin);
void irq_add_ack_notifier(struct vm *vm, struct irq_ack_notifier *n);
void irq_remove_ack_notifier(struct vm *vm, struct irq_ack_notifier *n);

#endif
