/* SPDX-License-Identifier: MIT */
/*
 * Creates a VM through the port: checks the ABI, chips, memory slots, vCPUs. Everything here is undone and done again when the guest restarts, which
 * gives it chips and CPUs as they are after power-on. Called by machine.c while no vCPU runs.
 */
#include <errno.h>
#include <string.h>

#include "vmm/machine.h"

#define KVM_VM_TSS 0xfffbd000ul /* three pages that old Intel CPUs need for real mode; below the BIOS, in no slot */
#define KVM_VM_IDENTITY 0xfffbc000ull

static int kvm_vm_error(struct machine *m, const char *what, struct vmm_error *error)
{
    int code = errno;

    return error_set(error, -code, "%s of %s failed: %s", what, m->config->device, strerror(code));
}

static int kvm_vm_has(struct machine *m, long extension)
{
    int rc = m->config->port->ioctl(m->dev_fd, KVM_CHECK_EXTENSION, (void *)extension);

    return rc < 0 ? 0 : rc;
}

static int kvm_vm_open(struct machine *m, struct vmm_error *error)
{
    const struct port *port = m->config->port;
    int version, rc;

    m->dev_fd = port->open(m->config->device);
    if (m->dev_fd < 0)
        return error_set(error, -errno, "cannot open %s: %s", m->config->device, strerror(errno));
    version = port->ioctl(m->dev_fd, KVM_GET_API_VERSION, NULL);
    if (version != KVM_API_VERSION)
        return error_set(error, -EPROTO, "%s does not speak the KVM ABI (version %d, need %d)", m->config->device, version, KVM_API_VERSION);
    if (!kvm_vm_has(m, KVM_CAP_IRQCHIP) || !kvm_vm_has(m, KVM_CAP_USER_MEMORY) || !kvm_vm_has(m, KVM_CAP_EXT_CPUID))
        return error_set(error, -ENOTSUP, "%s lacks interrupt controllers, user memory or CPUID calls", m->config->device);
    rc = kvm_vm_has(m, KVM_CAP_MAX_VCPUS);
    if (rc > 0 && (unsigned)rc < m->config->cpus)
        return error_set(error, -EINVAL, "%s runs at most %d CPUs in a VM, not %u", m->config->device, rc, m->config->cpus);
    m->has_tsc_deadline = kvm_vm_has(m, KVM_CAP_TSC_DEADLINE_TIMER);
    rc = port->ioctl(m->dev_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (rc < (int)sizeof(struct kvm_run))
        return kvm_vm_error(m, "KVM_GET_VCPU_MMAP_SIZE", error);
    m->run_bytes = (size_t)rc;
    return 0;
}

static int kvm_vm_create_chips(struct machine *m, struct vmm_error *error)
{
    const struct port *port = m->config->port;
    struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
    uint64_t identity = KVM_VM_IDENTITY;

    if (kvm_vm_has(m, KVM_CAP_SET_TSS_ADDR) && port->ioctl(m->vm_fd, KVM_SET_TSS_ADDR, (void *)KVM_VM_TSS) != 0)
        return kvm_vm_error(m, "KVM_SET_TSS_ADDR", error);
    if (kvm_vm_has(m, KVM_CAP_SET_IDENTITY_MAP_ADDR) && port->ioctl(m->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) != 0)
        return kvm_vm_error(m, "KVM_SET_IDENTITY_MAP_ADDR", error);
    if (port->ioctl(m->vm_fd, KVM_CREATE_IRQCHIP, NULL) != 0)
        return kvm_vm_error(m, "KVM_CREATE_IRQCHIP", error);
    if (port->ioctl(m->vm_fd, KVM_CREATE_PIT2, &pit) != 0)
        return kvm_vm_error(m, "KVM_CREATE_PIT2", error);
    return 0;
}

static int kvm_vm_add_memory(struct machine *m, struct vmm_error *error)
{
    for (unsigned i = 0; i < m->ram.n_pieces; i++) {
        const struct ram_piece *piece = &m->ram.piece[i];
        struct kvm_userspace_memory_region region = { .slot = i, .guest_phys_addr = piece->gpa, .memory_size = piece->bytes };

        region.userspace_addr = (uint64_t)(uintptr_t)piece->hva;
        if (m->config->port->ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) != 0)
            return error_set(error, -errno, "%s refuses %llu MiB of guest memory: %s", m->config->device, (unsigned long long)(piece->bytes >> 20),
                             strerror(errno));
    }
    m->outcome->stats.slots = m->ram.n_pieces;
    for (unsigned i = 0; i < m->ram.n_pieces; i++)
        m->outcome->stats.slot[i] = (struct vmm_slot_stats){ m->ram.piece[i].gpa, m->ram.piece[i].bytes, m->ram.piece[i].hva };
    return 0;
}

int kvm_vm_create(struct machine *m, struct vmm_error *error)
{
    int rc = kvm_vm_open(m, error);

    if (rc != 0)
        return rc;
    m->vm_fd = m->config->port->ioctl(m->dev_fd, KVM_CREATE_VM, NULL);
    if (m->vm_fd < 0)
        return kvm_vm_error(m, "KVM_CREATE_VM", error);
    rc = kvm_vm_create_chips(m, error);
    if (rc == 0)
        rc = kvm_vm_add_memory(m, error);
    for (unsigned i = 0; i < m->config->cpus && rc == 0; i++)
        rc = cpu_create(m, i, error);
    return rc;
}

void kvm_vm_destroy(struct machine *m)
{
    int vm_fd;

    while (m->n_cpus)
        cpu_destroy(&m->cpu[--m->n_cpus]);
    pthread_mutex_lock(&m->line_lock);
    vm_fd = m->vm_fd;
    m->vm_fd = -1;
    pthread_mutex_unlock(&m->line_lock);
    if (vm_fd >= 0)
        m->config->port->close(vm_fd);
    if (m->dev_fd >= 0)
        m->config->port->close(m->dev_fd);
    m->dev_fd = -1;
}
