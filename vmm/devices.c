/* SPDX-License-Identifier: MIT */
/*
 * Which devices the machine has and where they answer; interrupt lines that several of them share. Called by machine.c while no vCPU runs.
 */
#include <string.h>
#include <unistd.h>

#include "vmm/machine.h"

/* Level-triggered lines are wired together: up while anyone holds them up. Callers report changes only. */
static void devices_line_set(void *machine, unsigned gsi, bool level)
{
    struct machine *m = machine;
    struct kvm_irq_level irq = { .irq = gsi };

    pthread_mutex_lock(&m->line_lock);
    m->line_users[gsi] += level ? 1 : -1;
    irq.level = m->line_users[gsi] != 0;
    if (m->vm_fd >= 0)
        m->config->port->ioctl(m->vm_fd, KVM_IRQ_LINE, &irq);
    pthread_mutex_unlock(&m->line_lock);
}

static void devices_msi(void *machine, uint64_t address, uint32_t data)
{
    struct machine *m = machine;
    struct kvm_msi msi = { .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data };

    if (m->vm_fd >= 0)
        m->config->port->ioctl(m->vm_fd, KVM_SIGNAL_MSI, &msi); /* a nonsense address is the guest's loss */
}

static void devices_power_off(void *machine)
{
    machine_request_end(machine, END_POWER_OFF);
}

static void devices_restart(void *machine)
{
    machine_request_end(machine, END_RESET);
}

static void devices_serial_output(void *sink, uint8_t byte)
{
    struct machine *m = sink;
    enum watch_event event = console_output(&m->console, byte);

    if (event == WATCH_PANIC) {
        pthread_mutex_lock(&m->end_lock);
        if (!m->panic_ns)
            m->panic_ns = watch_now_ns();
        pthread_mutex_unlock(&m->end_lock);
    } else if (event == WATCH_PANIC_END) {
        machine_request_end(m, END_PANIC);
    }
    if (m->console.error)
        machine_fail(m, "cannot write to the console: %s", strerror(m->console.error));
}

static void devices_serial_room(void *sink)
{
    struct machine *m = sink;
    uint64_t one = 1;

    (void)!write(m->wake_fd, &one, sizeof(one));
}

static void devices_create_platform(struct machine *m)
{
    m->line = (struct line_ops){ .machine = m, .set = devices_line_set, .msi = devices_msi, .power_off = devices_power_off, .reset = devices_restart };
    serial_init(&m->serial, &m->line);
    m->serial.output = devices_serial_output;
    m->serial.room = devices_serial_room;
    m->serial.sink = m;
    rtc_init(&m->rtc, m->config->mem_bytes);
    i8042_init(&m->i8042, &m->line);
    pm_init(&m->pm, &m->line);
    iobus_add(&m->pio, SERIAL_PORT, 8, serial_access, &m->serial);
    iobus_add(&m->pio, RTC_PORT, 2, rtc_access, &m->rtc);
    iobus_add(&m->pio, I8042_PORT_DATA, 1, i8042_data_access, &m->i8042);
    iobus_add(&m->pio, I8042_PORT_COMMAND, 1, i8042_command_access, &m->i8042);
    iobus_add(&m->pio, I8042_PORT_FAST, 1, i8042_fast_access, &m->i8042);
    iobus_add(&m->pio, PM_EVENT_PORT, PM_BYTES, pm_access, &m->pm);
    iobus_add(&m->pio, PM_RESET_PORT, 1, pm_reset_access, &m->pm); /* before the bridge: it lies inside its ports */
    iobus_add(&m->pio, PCI_CONFIG_PORT, 8, pci_access, &m->pci);
    pci_init(&m->pci, &m->mmio);
}

int devices_create(struct machine *m, struct vmm_error *error)
{
    const struct vmm_config *config = m->config;
    int rc;

    devices_create_platform(m);
    rc = virtio_rng_create(&m->rng, &m->pci, &m->ram, &m->line, error);
    if (rc != 0)
        return rc;
    if (config->net == VMM_NET_USER) {
        rc = virtio_net_create(&m->net, &m->pci, &m->ram, &m->line, error);
        if (rc != 0)
            return rc;
    }
    for (unsigned i = 0; i < config->n_disks; i++) {
        rc = virtio_blk_create(&m->blk[i], config->disk[i].path, config->disk[i].is_readonly, i, &m->pci, &m->ram, &m->line, error);
        if (rc != 0)
            return rc;
        m->n_blk++;
    }
    m->outcome->stats.devices = 4 + m->pci.n_slots; /* serial, clock, keyboard controller, power management; then the bus */
    return 0;
}

void devices_reset(struct machine *m)
{
    for (unsigned i = 0; i < m->n_blk; i++)
        virtio_blk_reset(m->blk[i]);
    if (m->net)
        virtio_net_reset(m->net);
    virtio_rng_reset(m->rng);
    pci_reset(&m->pci);
    serial_reset(&m->serial);
    i8042_init(&m->i8042, &m->line);
    pm_init(&m->pm, &m->line);
    memset(m->line_users, 0, sizeof(m->line_users));
}

void devices_destroy(struct machine *m)
{
    for (unsigned i = 0; i < m->n_blk; i++)
        virtio_blk_destroy(m->blk[i]);
    virtio_net_destroy(m->net);
    virtio_rng_destroy(m->rng);
}
