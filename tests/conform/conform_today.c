/* SPDX-License-Identifier: MIT */
/*
 * The KVM ABI of today's <linux/kvm.h>. The cases are in conform_today_*.c, a group each. Chosen differences stand here.
 */
#include "tests/conform/machine_today.h"

static const struct conform_difference differences[] = {
    { "host", "get_cpuid2_count", "the kernel does not write the count back" },
    { "host", "log_bad_pointer", "the kernel forgets the pages that it could not tell of" },
    { "pvm", "ring_reports_once", "its emulator of real mode reports a page at every write" },
    { "pvm", "ring_loses_nothing", "its emulator of real mode reports a page at every write" },
    { "pvm", "tsc_offset", "it has no TSC offset" },
    { "pvm", "ring_full", "its emulator of real mode goes on when the ring is full" },
    { "pvm", "debug_watchpoints", "its emulator of real mode has none" },
    { "pvm", "debug_injects_bp", "it breaks on INT3" },
    { "host", "memory_fault_info", "the kernel says it of some faults only" },
    { "pvm", "stats_io", "its emulator of real mode counts no exits" },
    { "pvm", "software_breakpoint", "it breaks on INT3" },
    { "pvm", "interrupt_window_today", "its real-mode emulator opens the window late" },
    { "pvm", "triple_fault", "its real-mode emulator ignores the IDT limit" },
    { "pvm", "step_over_output", "its real-mode emulator forgets the step over what leaves for the client" },
    { "pvm", "step_over_mmio", "its real-mode emulator forgets the step over what leaves for the client" },
    { "pvm", "step_over_halt", "its real-mode emulator halts after the step's exit" },
    { "pvm", "init_and_sipi", "KVM_SIGNAL_MSI says that INIT was not delivered" },
    { "pvm", "pv_calls", "its emulator of real mode does not get past VMCALL" },
    { "pvm", "pv_kick", "its emulator of real mode does not get past VMCALL" },
    { "pvm", "pv_calls_enforced", "its emulator of real mode does not get past VMCALL" },
    { "pvm", "split_eoi", "no exit follows an APIC access of its emulator of real mode" },
    { "pvm", "split_eoi_kept", "no exit follows an APIC access of its emulator of real mode" },
    { "pvm", "tpr_reports", "no exit follows an APIC access of its emulator of real mode" },
    { "pvm", "vapic_page", "its emulator of real mode does not take the TPR from the page" },
    { "pvm", "client_withdraws_data", "its emulator of real mode takes memory that it cannot read for MMIO" },
    { "pvm", "client_withdraws_code", "its emulator of real mode takes memory that it cannot read for MMIO" },
    { "pvm", "client_withdraws_tables", "it does not translate by two-level tables" },
};

static const struct {
    const struct conform_case *cases;
    const size_t *n;
} groups[] = {
#define TODAY_GROUP(name) { cases_today_##name, &n_cases_today_##name },
    TODAY_GROUPS(TODAY_GROUP)
};

int main(int argc, char **argv)
{
    struct conform_case all[256];
    size_t n = 0;
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
        for (size_t i = 0; i < *groups[g].n; i++) {
            REQUIRE(n < 256);
            all[n++] = groups[g].cases[i];
        }
    return conform_main(argc, argv, all, n, differences, sizeof differences / sizeof *differences);
}
