/* SPDX-License-Identifier: MIT */
/*
 * What one exit costs: a guest in real mode that does nothing but OUT, or nothing but write where no memory is, driven by KVM_RUN on vitrine in process and,
 * if it opens, on the host's own device. Every exit is checked to be the one expected. Prints "EXIT engine kind nanoseconds round-trips", "SKIP engine reason"
 * or "FAIL engine reason"; exit 1 if something failed. Use: bench_exits [ROUND-TRIPS]. Started by bench/run; one thread, no lock.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "transport/inproc.h"
#include "vmm/port.h"

#define EXITS_CODE_GPA 0x1000u
#define EXITS_MMIO_SEGMENT 0x8000u
#define EXITS_PORT 0x1f0u
#define EXITS_MEM_BYTES 0x10000u
#define EXITS_DEFAULT 200000u
#define EXITS_WARM_UP 1000u

static const struct port exits_vitrine = {
    .name = "vitrine",
    .open = vitrine_open,
    .ioctl = vitrine_ioctl,
    .mmap = vitrine_mmap,
    .close = vitrine_close,
};

struct machine {
    const struct port *port;
    int kvm, vm, vcpu;
    size_t run_bytes;
    struct kvm_run *run;
    uint8_t *mem;
};

/* The data counts up, so that an exit lost or given twice is seen. */
static const uint8_t exits_code_pio[] = { 0xfe, 0xc0, 0xee, 0xeb, 0xfb };        /* 1: inc al; out dx, al; jmp 1b */
static const uint8_t exits_code_mmio[] = { 0xfe, 0xc0, 0x88, 0x07, 0xeb, 0xfa }; /* 1: inc al; mov [bx], al; jmp 1b */

static void machine_close(struct machine *m)
{
    if (m->run != MAP_FAILED)
        munmap(m->run, m->run_bytes);
    if (m->vcpu >= 0)
        m->port->close(m->vcpu);
    if (m->vm >= 0)
        m->port->close(m->vm);
    if (m->kvm >= 0)
        m->port->close(m->kvm);
    if (m->mem != MAP_FAILED)
        munmap(m->mem, EXITS_MEM_BYTES);
}

/* Name of the step that failed, or NULL. */
static const char *machine_open(struct machine *m, const struct port *port)
{
    struct kvm_userspace_memory_region region = { .memory_size = EXITS_MEM_BYTES };
    int bytes;

    *m = (struct machine){ .port = port, .kvm = -1, .vm = -1, .vcpu = -1, .run = MAP_FAILED };
    m->mem = mmap(NULL, EXITS_MEM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m->mem == MAP_FAILED)
        return "memory";
    m->kvm = port->open("/dev/kvm");
    if (m->kvm < 0)
        return "open /dev/kvm";
    m->vm = port->ioctl(m->kvm, KVM_CREATE_VM, NULL);
    if (m->vm < 0)
        return "KVM_CREATE_VM";
    region.userspace_addr = (uintptr_t)m->mem;
    if (port->ioctl(m->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return "KVM_SET_USER_MEMORY_REGION";
    m->vcpu = port->ioctl(m->vm, KVM_CREATE_VCPU, NULL);
    if (m->vcpu < 0)
        return "KVM_CREATE_VCPU";
    bytes = port->ioctl(m->kvm, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (bytes < (int)sizeof(*m->run))
        return "KVM_GET_VCPU_MMAP_SIZE";
    m->run_bytes = (size_t)bytes;
    m->run = port->mmap(m->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
    return m->run == MAP_FAILED ? "mmap of kvm_run" : NULL;
}

static const char *machine_load(struct machine *m, const uint8_t *code, size_t n)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs = { .rip = EXITS_CODE_GPA, .rsp = 0x8000, .rdx = EXITS_PORT, .rflags = 2 };

    memcpy(m->mem + EXITS_CODE_GPA, code, n);
    if (m->port->ioctl(m->vcpu, KVM_GET_SREGS, &sregs) < 0)
        return "KVM_GET_SREGS";
    sregs.cs.selector = 0;
    sregs.cs.base = 0;
    sregs.ds.selector = EXITS_MMIO_SEGMENT;
    sregs.ds.base = EXITS_MMIO_SEGMENT << 4;
    if (m->port->ioctl(m->vcpu, KVM_SET_SREGS, &sregs) < 0)
        return "KVM_SET_SREGS";
    return m->port->ioctl(m->vcpu, KVM_SET_REGS, &regs) < 0 ? "KVM_SET_REGS" : NULL;
}

static bool exit_is_expected(const struct kvm_run *run, bool is_mmio, uint8_t data)
{
    if (is_mmio)
        return run->exit_reason == KVM_EXIT_MMIO && run->mmio.is_write && run->mmio.len == 1 && run->mmio.phys_addr == EXITS_MMIO_SEGMENT << 4 &&
               run->mmio.data[0] == data;
    return run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_OUT && run->io.size == 1 && run->io.port == EXITS_PORT && run->io.count == 1 &&
           *((const uint8_t *)run + run->io.data_offset) == data;
}

/* Does n round trips; data is that of the exit before. */
static const char *machine_run(struct machine *m, bool is_mmio, unsigned n, uint8_t *data)
{
    for (unsigned i = 0; i < n; i++) {
        if (m->port->ioctl(m->vcpu, KVM_RUN, NULL) < 0) {
            if (errno != EINTR)
                return "KVM_RUN";
            i--;
            continue;
        }
        if (!exit_is_expected(m->run, is_mmio, ++*data)) {
            errno = 0;
            return "another exit than expected";
        }
    }
    return NULL;
}

static uint64_t exits_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static const char *exits_measure(const struct port *port, bool is_mmio, unsigned n)
{
    struct machine m;
    const char *failed = machine_open(&m, port);
    uint8_t data = 0;
    uint64_t start;

    if (!failed)
        failed = is_mmio ? machine_load(&m, exits_code_mmio, sizeof(exits_code_mmio)) : machine_load(&m, exits_code_pio, sizeof(exits_code_pio));
    if (!failed)
        failed = machine_run(&m, is_mmio, EXITS_WARM_UP, &data);
    start = exits_now_ns();
    if (!failed)
        failed = machine_run(&m, is_mmio, n, &data);
    if (!failed)
        printf("EXIT %s %s %.1f %u\n", port->name, is_mmio ? "mmio" : "pio", (double)(exits_now_ns() - start) / n, n);
    else if (m.run != MAP_FAILED && errno == 0)
        printf("FAIL %s %s: %s (reason %u)\n", port->name, is_mmio ? "mmio" : "pio", failed, m.run->exit_reason);
    else
        printf("FAIL %s %s: %s: %s\n", port->name, is_mmio ? "mmio" : "pio", failed, strerror(errno));
    machine_close(&m);
    return failed;
}

int main(int argc, char **argv)
{
    unsigned long n = argc > 1 ? strtoul(argv[1], NULL, 10) : EXITS_DEFAULT;
    bool is_failed;
    int fd;

    if (argc > 2 || n < 1 || n > 1000000000) {
        fprintf(stderr, "usage: bench_exits [ROUND-TRIPS]\n");
        return 2;
    }
    is_failed = exits_measure(&exits_vitrine, false, (unsigned)n) != NULL;
    is_failed |= exits_measure(&exits_vitrine, true, (unsigned)n) != NULL;
    fd = port_host.open("/dev/kvm");
    if (fd < 0) {
        printf("SKIP %s /dev/kvm: %s\n", port_host.name, strerror(errno));
        return is_failed;
    }
    port_host.close(fd);
    is_failed |= exits_measure(&port_host, false, (unsigned)n) != NULL;
    is_failed |= exits_measure(&port_host, true, (unsigned)n) != NULL;
    return is_failed;
}
