/* SPDX-License-Identifier: MIT */
/*
 * Random calls to the KVM front: known requests with random, edge and unreadable arguments on fds of the right and the wrong kind. Nothing is judged but that
 * the process lives, keeps errno's rule (-1 with an errno, or >= 0) and ends in time. KVM_RUN is called with immediate_exit, so no guest code runs. A batch
 * runs in a child; VITRINE_FUZZ_SECONDS says how long (default 3), VITRINE_FUZZ_SEED repeats a batch. Sources of requests: <linux/kvm.h> and the 2007 table.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/conform/client2007.h"
#include "transport/inproc.h"

#define CALLS_PER_BATCH 3000
#define BATCH_SECONDS 60
#define FIXED_BATCHES 20

static const unsigned long requests[] = {
    KVM_GET_API_VERSION,
    KVM_CREATE_VM,
    KVM_GET_MSR_INDEX_LIST,
    KVM_CHECK_EXTENSION,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_GET_SUPPORTED_CPUID,
    KVM_GET_EMULATED_CPUID,
    KVM_GET_MSR_FEATURE_INDEX_LIST,
    KVM_X86_GET_MCE_CAP_SUPPORTED,
    KVM_CREATE_VCPU,
    KVM_GET_DIRTY_LOG,
    KVM_CLEAR_DIRTY_LOG,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SET_TSS_ADDR,
    KVM_SET_IDENTITY_MAP_ADDR,
    KVM_CREATE_IRQCHIP,
    KVM_IRQ_LINE,
    KVM_IRQ_LINE_STATUS,
    KVM_GET_IRQCHIP,
    KVM_SET_IRQCHIP,
    KVM_CREATE_PIT2,
    KVM_GET_PIT2,
    KVM_SET_PIT2,
    KVM_SET_GSI_ROUTING,
    KVM_SIGNAL_MSI,
    KVM_IRQFD,
    KVM_IOEVENTFD,
    KVM_REGISTER_COALESCED_MMIO,
    KVM_UNREGISTER_COALESCED_MMIO,
    KVM_GET_CLOCK,
    KVM_SET_CLOCK,
    KVM_ENABLE_CAP,
    KVM_X86_SET_MSR_FILTER,
    KVM_SET_BOOT_CPU_ID,
    KVM_SET_NR_MMU_PAGES,
    KVM_GET_REGS,
    KVM_SET_REGS,
    KVM_GET_SREGS,
    KVM_SET_SREGS,
    KVM_GET_SREGS2,
    KVM_SET_SREGS2,
    KVM_GET_FPU,
    KVM_SET_FPU,
    KVM_GET_XSAVE,
    KVM_SET_XSAVE,
    KVM_GET_XSAVE2,
    KVM_GET_XCRS,
    KVM_SET_XCRS,
    KVM_GET_DEBUGREGS,
    KVM_SET_DEBUGREGS,
    KVM_GET_VCPU_EVENTS,
    KVM_SET_VCPU_EVENTS,
    KVM_GET_MP_STATE,
    KVM_SET_MP_STATE,
    KVM_GET_LAPIC,
    KVM_SET_LAPIC,
    KVM_GET_MSRS,
    KVM_SET_MSRS,
    KVM_GET_TSC_KHZ,
    KVM_SET_TSC_KHZ,
    KVM_SET_CPUID2,
    KVM_GET_CPUID2,
    KVM_SET_CPUID,
    KVM_NMI,
    KVM_SMI,
    KVM_INTERRUPT,
    KVM_TRANSLATE,
    KVM_SET_SIGNAL_MASK,
    KVM_SET_GUEST_DEBUG,
    KVM_TPR_ACCESS_REPORTING,
    KVM_SET_VAPIC_ADDR,
    KVM_X86_SETUP_MCE,
    KVM_KVMCLOCK_CTRL,
    KVM_RUN,
    SET_MEMORY_REGION,
    SET_MEMORY_ALIAS,
    DEBUG_GUEST,
};

static uint64_t state;

static uint64_t fuzz_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static uint64_t fuzz_number(void)
{
    static const uint64_t edges[] = { 0, 1, 2, 3, 4, 8, 0xfff, 0x1000, 0x2000, 0x80000, 0xfee00000, 0x7fffffff, 0xffffffff, 1ull << 47, ~0ull << 12, ~0ull };
    return fuzz_random() % 2 ? edges[fuzz_random() % (sizeof edges / sizeof *edges)] : fuzz_random() >> (fuzz_random() % 64);
}

static void *fuzz_argument(uint8_t *page)
{
    switch (fuzz_random() % 8) {
    case 0:
        return (void *)(uintptr_t)fuzz_number();
    case 1:
        return page + 4096 - 8 * (fuzz_random() % 8); /* runs into the unreadable page */
    default:
        for (unsigned i = 0; i < 4096; i += 8) {
            uint64_t value = i > 64 && fuzz_random() % 4 ? 0 : fuzz_number();
            if (fuzz_random() % 4 == 0)
                value = (value & 0xffffffff) << 32 | (fuzz_number() & 0xffffffff);
            memcpy(page + i, &value, 8);
        }
        return page;
    }
}

/* KVM_RUN must not enter the guest, whatever was written to the page. */
static void fuzz_call(const int *fd, unsigned n, struct kvm_run *run, uint8_t *page)
{
    unsigned long request = requests[fuzz_random() % (sizeof requests / sizeof *requests)];
    if (fuzz_random() % 32 == 0)
        request ^= 1ul << (fuzz_random() % 32);
    if (request == KVM_CREATE_VM) /* fds would run out */
        return;
    run->immediate_exit = 1;
    int kind = fuzz_random() % 16 == 0 ? (int)(fuzz_random() % n) : request >> 7 & 1 ? 2 : (request >> 6 & 1 ? 1 : 0);
    void *argument = request == KVM_RUN && fuzz_random() % 8 ? NULL : fuzz_argument(page);
    errno = 0;
    int got = vitrine_ioctl(fd[kind], request, argument);
    if ((got < 0) != (got == -1) || (got == -1 && (errno <= 0 || errno >= 4096))) {
        printf("# request %#lx returned %d, errno %d\n", request, got, errno);
        exit(1);
    }
    if (got > 2 && request == KVM_CREATE_VCPU)
        vitrine_close(got);
}

static void fuzz_batch(void)
{
    alarm(BATCH_SECONDS);
    uint8_t *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(page + 4096, 4096, PROT_NONE);
    int fd[3];
    fd[0] = vitrine_open("/dev/kvm");
    fd[1] = vitrine_ioctl(fd[0], KVM_CREATE_VM, NULL);
    if (fuzz_random() % 2)
        vitrine_ioctl(fd[1], KVM_CREATE_IRQCHIP, NULL);
    fd[2] = vitrine_ioctl(fd[1], KVM_CREATE_VCPU, NULL);
    struct kvm_run *run = vitrine_mmap(4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd[2], 0);
    if (run == MAP_FAILED)
        exit(1);
    for (unsigned i = 0; i < CALLS_PER_BATCH; i++)
        fuzz_call(fd, 3, run, page);
    for (unsigned i = 3; i-- > 0;)
        vitrine_close(fd[i]);
    exit(0);
}

int main(void)
{
    const char *seconds = getenv("VITRINE_FUZZ_SECONDS"), *seed_text = getenv("VITRINE_FUZZ_SEED");
    time_t end = time(NULL) + (seconds ? atoi(seconds) : 0);
    unsigned n = 0;
    do {
        uint64_t seed = n + 1;
        if (seed_text)
            seed = strtoull(seed_text, NULL, 0);
        else if (seconds)
            (void)!getrandom(&seed, sizeof seed, 0);
        state = seed * 0x9e3779b97f4a7c15 | 1;
        fflush(stdout);
        pid_t child = fork();
        if (child == 0)
            fuzz_batch();
        int status;
        if (child < 0 || waitpid(child, &status, 0) != child)
            return 1;
        n++;
        if (status) {
            printf("# status %#x; repeat with VITRINE_FUZZ_SEED=%#llx\n", (unsigned)status, (unsigned long long)seed);
            printf("not ok - random calls\n");
            return 1;
        }
    } while (!seed_text && (seconds ? time(NULL) < end : n < FIXED_BATCHES));
    printf("# %u batches of %u calls\n", n, CALLS_PER_BATCH);
    printf("ok - random calls\n");
    return 0;
}
