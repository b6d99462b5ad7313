/* SPDX-License-Identifier: MIT */
/*
 * LAPICs in process with PIC and IOAPIC in the client (KVM_CAP_SPLIT_IRQCHIP), and the two formats of APIC ids (KVM_CAP_X2APIC_API).
 */
#include "tests/conform/machine_today.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

PAYLOAD(chip);

#define LAPIC_ID 0x20
#define LAPIC_SVR 0xf0
#define LAPIC_IRR 0x200
#define LAPIC_LVT0 0x350
#define LVT_MASKED 0x10000u
#define LVT_EXTINT 0x700u
#define LEVEL 0x8000u

static uint32_t apic_get(struct machine *m, const struct peer *p, int vcpu, unsigned reg)
{
    struct kvm_lapic_state s;
    uint32_t value;
    (void)m;
    CALL(vcpu, KVM_GET_LAPIC, &s);
    memcpy(&value, s.regs + reg, 4);
    return value;
}

static void apic_set(struct machine *m, const struct peer *p, int vcpu, unsigned reg, uint32_t value)
{
    struct kvm_lapic_state s;
    (void)m;
    CALL(vcpu, KVM_GET_LAPIC, &s);
    memcpy(s.regs + reg, &value, 4);
    CALL(vcpu, KVM_SET_LAPIC, &s);
}
#define APIC(reg) apic_get(&m, p, m.vcpu, reg)

/* Past what the payload says to the PIC, which is ours, to its next OUT to a port of the test's. Other exits are failures. */
static unsigned run_to_port(struct machine *m, const struct peer *p)
{
    do
        machine_run(m, p, KVM_EXIT_IO, __FILE__, __LINE__);
    while (m->run->io.port < 0x10 || m->run->io.port > 0x1f);
    return m->run->io.port;
}

static void chip_ready(struct machine *m, const struct peer *p)
{
    machine_create(m, p, WITH_SPLIT);
    machine_load(m, p, payload_chip, PAYLOAD_BYTES(chip));
    REQUIRE_EQ(run_to_port(m, p), 0x10);
}

static int counted(struct machine *m, unsigned vector)
{
    return m->ram[DATA_AT + vector - 0x30];
}

static void route_msi(struct machine *m, const struct peer *p, uint32_t gsi, uint32_t data)
{
    struct {
        struct kvm_irq_routing head;
        struct kvm_irq_routing_entry e[1];
    } r = { { .nr = 1 }, { { .gsi = gsi, .type = KVM_IRQ_ROUTING_MSI, .u.msi = { .address_lo = 0xfee00000, .data = data } } } };
    CALL(m->vm, KVM_SET_GSI_ROUTING, &r);
}

static int set_line(struct machine *m, const struct peer *p, uint32_t gsi, uint32_t level)
{
    struct kvm_irq_level l = { .irq = gsi, .level = level };
    CALL(m->vm, KVM_IRQ_LINE_STATUS, &l);
    return (int)l.status;
}

static void split_calls(const struct peer *p)
{
    struct machine m, w;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_SPLIT_IRQCHIP);
    struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };
    CHECK_ERRNO(m.vm, KVM_ENABLE_CAP, &cap, EEXIST); /* it has a vCPU */
    w = m;
    w.vm = CALL(m.dev, KVM_CREATE_VM, 0);
    cap.args[0] = 4097;
    CHECK_ERRNO(w.vm, KVM_ENABLE_CAP, &cap, EINVAL);
    cap.args[0] = 24;
    CHECK_ERRNO(w.vm, KVM_ENABLE_CAP, &cap, 0);
    CHECK_ERRNO(w.vm, KVM_ENABLE_CAP, &cap, EEXIST);
    CHECK_ERRNO(w.vm, KVM_CREATE_IRQCHIP, 0, EEXIST);
    struct kvm_pit_config pit = { .flags = 0 };
    CHECK_ERRNO(w.vm, KVM_CREATE_PIT2, &pit, ENOENT);
    struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
    CHECK_ERRNO(w.vm, KVM_GET_IRQCHIP, &chip, ENXIO);
    CHECK_EQ(set_line(&w, p, 4, 1), -1); /* no route leads anywhere */
    struct {
        struct kvm_irq_routing head;
        struct kvm_irq_routing_entry e[1];
    } r = { { .nr = 1 }, { { .gsi = 4, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { .irqchip = KVM_IRQCHIP_IOAPIC, .pin = 4 } } } };
    CHECK_ERRNO(w.vm, KVM_SET_GSI_ROUTING, &r, EINVAL);
    int event = eventfd(0, EFD_CLOEXEC), other = eventfd(0, EFD_CLOEXEC);
    struct kvm_irqfd f = { .fd = (uint32_t)event, .gsi = 4, .flags = KVM_IRQFD_FLAG_RESAMPLE, .resamplefd = (uint32_t)other };
    CHECK_ERRNO(w.vm, KVM_IRQFD, &f, EINVAL);
    f.flags = 0;
    CHECK_ERRNO(w.vm, KVM_IRQFD, &f, 0);
    struct kvm_run *run;
    int ap = machine_add_vcpu(&w, p, 1, &run);
    struct kvm_mp_state state;
    CALL(ap, KVM_GET_MP_STATE, &state);
    CHECK_EQ(state.mp_state, KVM_MP_STATE_UNINITIALIZED);
    CHECK_EQ(apic_get(&w, p, ap, LAPIC_ID), 1u << 24);
    struct kvm_interrupt bad = { .irq = 256 };
    CHECK_ERRNO(ap, KVM_INTERRUPT, &bad, EINVAL);
}

/* The client's PIC: one acknowledged vector waits in the CPU until LINT0 and IF let it in. */
static void split_extint(const struct peer *p)
{
    struct machine m;
    chip_ready(&m, p);
    CHECK_EQ(m.run->if_flag, 0);
    CHECK_EQ(m.run->ready_for_interrupt_injection, 0);
    struct kvm_interrupt in = { .irq = 0x31 };
    CHECK_ERRNO(m.vcpu, KVM_INTERRUPT, &in, 0);
    CHECK_ERRNO(m.vcpu, KVM_INTERRUPT, &in, EEXIST);
    CHECK_EQ(run_to_port(&m, p), 0x11);
    CHECK_EQ(counted(&m, 0x31), 1);
    /* A masked LINT0 keeps it out, also from a CPU that has been woken by something else. */
    apic_set(&m, p, m.vcpu, LAPIC_LVT0, LVT_MASKED | LVT_EXTINT);
    in.irq = 0x32;
    CHECK_ERRNO(m.vcpu, KVM_INTERRUPT, &in, 0);
    struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x47 };
    CHECK_EQ(CALL(m.vm, KVM_SIGNAL_MSI, &msi), 1);
    CHECK_EQ(run_to_port(&m, p), 0x11);
    CHECK_EQ(counted(&m, 0x47), 1);
    CHECK_EQ(counted(&m, 0x32), 0);
    CHECK_ERRNO(m.vcpu, KVM_INTERRUPT, &in, EEXIST);
    apic_set(&m, p, m.vcpu, LAPIC_LVT0, LVT_EXTINT);
    CHECK_EQ(run_to_port(&m, p), 0x11);
    CHECK_EQ(counted(&m, 0x32), 1);
    CHECK_ERRNO(m.vcpu, KVM_INTERRUPT, &in, 0);
}

/* A window opens where the CPU and LINT0 would take the client's interrupt. */
static void split_window(const struct peer *p)
{
    struct machine m;
    chip_ready(&m, p);
    m.run->request_interrupt_window = 1;
    RUN_TO(KVM_EXIT_IRQ_WINDOW_OPEN);
    CHECK_EQ(m.run->if_flag, 1);
    CHECK_EQ(m.run->ready_for_interrupt_injection, 1);
    struct kvm_interrupt in = { .irq = 0x33 };
    CHECK_ERRNO(m.vcpu, KVM_INTERRUPT, &in, 0);
    m.run->request_interrupt_window = 0;
    CHECK_EQ(run_to_port(&m, p), 0x11);
    CHECK_EQ(counted(&m, 0x33), 1);
    apic_set(&m, p, m.vcpu, LAPIC_LVT0, LVT_MASKED | LVT_EXTINT);
    m.run->request_interrupt_window = 1;
    struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x47 };
    CHECK_EQ(CALL(m.vm, KVM_SIGNAL_MSI, &msi), 1);
    CHECK_EQ(run_to_port(&m, p), 0x11); /* no window */
    CHECK_EQ(counted(&m, 0x47), 1);
    CHECK_EQ(m.run->ready_for_interrupt_injection, 0);
}

static void run_to_eoi(struct machine *m, const struct peer *p, unsigned vector)
{
    machine_run(m, p, KVM_EXIT_IOAPIC_EOI, __FILE__, __LINE__);
    CHECK_EQ(m->run->eoi.vector, vector);
    CHECK_EQ(run_to_port(m, p), 0x11);
}

/* EOIs of the vectors that a reserved GSI has as level-triggered come to the client. */
static void split_eoi(const struct peer *p)
{
    struct machine m;
    chip_ready(&m, p);
    route_msi(&m, p, 2, LEVEL | 0x47);
    CHECK_EQ(set_line(&m, p, 2, 1), 1);
    run_to_eoi(&m, p, 0x47);
    CHECK_EQ(counted(&m, 0x47), 1);
    CHECK_EQ(set_line(&m, p, 2, 0), -1); /* an MSI has no end */
    /* An edge with that vector counts too: the route decides. */
    struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x47 };
    CHECK_EQ(CALL(m.vm, KVM_SIGNAL_MSI, &msi), 1);
    run_to_eoi(&m, p, 0x47);
    msi.data = LEVEL | 0x48;
    CHECK_EQ(CALL(m.vm, KVM_SIGNAL_MSI, &msi), 1);
    CHECK_EQ(run_to_port(&m, p), 0x11);
    CHECK_EQ(counted(&m, 0x48), 1);
    route_msi(&m, p, 2, 0x47); /* edge-triggered */
    CHECK_EQ(set_line(&m, p, 2, 1), 1);
    CHECK_EQ(run_to_port(&m, p), 0x11);
    route_msi(&m, p, 24, LEVEL | 0x49); /* no pin of the client's IOAPIC */
    CHECK_EQ(set_line(&m, p, 24, 1), 1);
    CHECK_EQ(run_to_port(&m, p), 0x11);
    CHECK_EQ(counted(&m, 0x49), 1);
}

/* An exit that a signal comes with is not lost: immediate_exit first, then the EOI. */
static void split_eoi_kept(const struct peer *p)
{
    struct machine m;
    chip_ready(&m, p);
    route_msi(&m, p, 23, LEVEL | 0x4a);
    int event = eventfd(0, EFD_CLOEXEC);
    struct kvm_irqfd f = { .fd = (uint32_t)event, .gsi = 23 };
    CHECK_ERRNO(m.vm, KVM_IRQFD, &f, 0);
    uint64_t one = 1;
    CHECK_EQ(write(event, &one, 8), 8);
    machine_run(&m, p, KVM_EXIT_IOAPIC_EOI, __FILE__, __LINE__); /* HLT waits for the irqfd */
    m.run->immediate_exit = 1;
    CHECK_ERRNO(m.vcpu, KVM_RUN, 0, EINTR);
    m.run->immediate_exit = 0;
    CHECK_EQ(run_to_port(&m, p), 0x11);
    CHECK_EQ(counted(&m, 0x4a), 1);
}

/* ---- APIC ids ----------------------------------------------------------------------------------------------------------------------------------- */

static void use_x2apic(struct machine *m, const struct peer *p, int vcpu)
{
    struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 e[200];
    } cpuid = { .head = { .nent = 200 }, .e = { { 0 } } };
    CALL(m->dev, KVM_GET_SUPPORTED_CPUID, &cpuid);
    CALL(vcpu, KVM_SET_CPUID2, &cpuid);
    struct kvm_sregs s;
    CALL(vcpu, KVM_GET_SREGS, &s);
    s.apic_base |= 0xc00;
    CALL(vcpu, KVM_SET_SREGS, &s);
    apic_set(m, p, vcpu, LAPIC_SVR, 0x1ff);
}

static int msi_to(struct machine *m, const struct peer *p, uint32_t dest, uint32_t vector)
{
    struct kvm_msi msi = { .address_lo = 0xfee00000 | (dest & 0xff) << 12, .address_hi = dest & 0xffffff00, .data = vector };
    return p->port->ioctl(m->vm, KVM_SIGNAL_MSI, &msi);
}

static bool is_pending(struct machine *m, const struct peer *p, int vcpu, unsigned vector)
{
    return apic_get(m, p, vcpu, LAPIC_IRR + vector / 32 * 16) >> (vector % 32) & 1;
}

static void apic_id_formats(const struct peer *p)
{
    struct machine m;
    struct kvm_run *run;
    struct kvm_lapic_state s;
    machine_create(&m, p, WITH_SPLIT);
    NEED(KVM_CAP_X2APIC_API);
    struct kvm_enable_cap cap = { .cap = KVM_CAP_X2APIC_API, .args = { 1u << 30 } };
    CHECK_ERRNO(m.vm, KVM_ENABLE_CAP, &cap, EINVAL);
    int far = machine_add_vcpu(&m, p, 300, &run);
    use_x2apic(&m, p, far);
    CHECK_EQ(apic_get(&m, p, far, LAPIC_ID), (uint32_t)300 << 24);
    apic_set(&m, p, far, LAPIC_ID, 7u << 24); /* no harm in it: that format has no room for all ids */
    CHECK_EQ(apic_get(&m, p, far, LAPIC_ID), (uint32_t)300 << 24);
    CHECK(msi_to(&m, p, 300, 0x51) <= 0);
    CHECK(!is_pending(&m, p, far, 0x51));

    cap.args[0] = KVM_X2APIC_API_USE_32BIT_IDS;
    CHECK_ERRNO(m.vm, KVM_ENABLE_CAP, &cap, 0);
    CHECK_EQ(apic_get(&m, p, far, LAPIC_ID), 300);
    CHECK_EQ(apic_get(&m, p, far, 0xd0), 300 / 16 << 16 | 1u << 300 % 16);
    CALL(far, KVM_GET_LAPIC, &s);
    CHECK_ERRNO(far, KVM_SET_LAPIC, &s, 0);
    memcpy(s.regs + LAPIC_ID, "\x07\0\0", 4);
    CHECK_ERRNO(far, KVM_SET_LAPIC, &s, EINVAL);
    CHECK_EQ(msi_to(&m, p, 300, 0x52), 1);
    CHECK(is_pending(&m, p, far, 0x52));
    struct kvm_msi msi = { .address_lo = 0xfee00000, .address_hi = 0x101, .data = 0x53 };
    CHECK_ERRNO(m.vm, KVM_SIGNAL_MSI, &msi, EINVAL);
    CHECK_EQ(APIC(LAPIC_ID), 0); /* an xAPIC's id stays where it was */
}

static void apic_broadcasts(const struct peer *p)
{
    struct machine m;
    struct kvm_run *run;
    machine_create(&m, p, WITH_SPLIT);
    NEED(KVM_CAP_X2APIC_API);
    int other = machine_add_vcpu(&m, p, 1, &run);
    use_x2apic(&m, p, m.vcpu);
    use_x2apic(&m, p, other);
    CHECK_EQ(msi_to(&m, p, 0xff, 0x51), 2);
    CHECK(is_pending(&m, p, m.vcpu, 0x51) && is_pending(&m, p, other, 0x51));
    struct kvm_enable_cap cap = { .cap = KVM_CAP_X2APIC_API, .args = { KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK } };
    CHECK_ERRNO(m.vm, KVM_ENABLE_CAP, &cap, 0);
    CHECK(msi_to(&m, p, 0xff, 0x52) <= 0); /* now that is an id like any other */
    CHECK(!is_pending(&m, p, m.vcpu, 0x52) && !is_pending(&m, p, other, 0x52));
    CHECK_EQ(msi_to(&m, p, 0xffffffff, 0x53), 2);
    CHECK(is_pending(&m, p, m.vcpu, 0x53) && is_pending(&m, p, other, 0x53));
}

static void far_vcpu_ids(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, WITH_SPLIT);
    unsigned long max = (unsigned long)NEED(KVM_CAP_MAX_VCPU_ID);
    CHECK_ERRNO(m.vm, KVM_CREATE_VCPU, max, EINVAL);
    CALL(m.vm, KVM_CREATE_VCPU, max - 1);
    CHECK_ERRNO(m.vm, KVM_CREATE_VCPU, max - 1, EEXIST);
}

const struct conform_case cases_today_split[] = {
    { "split_calls", split_calls },       { "split_extint", split_extint },       { "split_window", split_window },       { "split_eoi", split_eoi },
    { "split_eoi_kept", split_eoi_kept }, { "apic_id_formats", apic_id_formats }, { "apic_broadcasts", apic_broadcasts }, { "far_vcpu_ids", far_vcpu_ids },
};
const size_t n_cases_today_split = sizeof cases_today_split / sizeof *cases_today_split;
