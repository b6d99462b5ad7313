/* SPDX-License-Identifier: MIT */
/*
 * The KVM ABI of Linux 2.6.20, seen by a program that knows nothing else. Cases: conform_2007_calls.c, conform_2007_exits.c, conform_2007_modes.c.
 * Chosen differences stand here, with the reason.
 */
#include "tests/conform/machine2007.h"

#include <string.h>

/* kvm_pvm, a KVM without hardware: runs the kernel mode of an unmodified guest in the kernel's instruction emulator. */
#define PVM_NO_VECTORS "it emulates kernel mode, without x87 and SSE"

static const struct conform_difference differences[] = {
    { "host", "string_io", "today's kernels leave once per item of REP OUTS; the 2007 rule is one exit with a count" },
    { "host", "set_fpu_reaches_guest", "the kernel stores XMM registers without marking them in use, so the guest starts with zeros" },
    { "pvm", "interrupt_window", "its real-mode emulator opens the window late" },
    { "pvm", "shutdown", "its real-mode emulator ignores the IDT limit" },
    { "pvm", "paging_32", "it cannot run 32-bit paging" },
    { "pvm", "long_mode", PVM_NO_VECTORS },
    { "pvm", "mmio_vector", PVM_NO_VECTORS },
};

int main(int argc, char **argv)
{
    struct conform_case all[64];
    size_t n = 0;
    REQUIRE(n_cases_2007_calls + n_cases_2007_exits + n_cases_2007_modes <= 64);
    for (size_t i = 0; i < n_cases_2007_calls; i++)
        all[n++] = cases_2007_calls[i];
    for (size_t i = 0; i < n_cases_2007_exits; i++)
        all[n++] = cases_2007_exits[i];
    for (size_t i = 0; i < n_cases_2007_modes; i++)
        all[n++] = cases_2007_modes[i];
    return conform_main(argc, argv, all, n, differences, sizeof differences / sizeof *differences);
}
