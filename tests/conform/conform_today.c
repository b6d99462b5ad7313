/* SPDX-License-Identifier: MIT */
/*
 * The KVM ABI of today's <linux/kvm.h>. Cases: conform_today_calls.c, conform_today_chips.c, conform_today_run.c. Chosen differences stand here.
 */
#include "tests/conform/machine_today.h"

static const struct conform_difference differences[] = {
    { "host", "get_cpuid2_count", "the kernel does not write the count back" },
    { "pvm", "software_breakpoint", "it breaks on INT3" },
};

int main(int argc, char **argv)
{
    struct conform_case all[96];
    size_t n = 0;
    REQUIRE(n_cases_today_calls + n_cases_today_chips + n_cases_today_run <= 96);
    for (size_t i = 0; i < n_cases_today_calls; i++)
        all[n++] = cases_today_calls[i];
    for (size_t i = 0; i < n_cases_today_chips; i++)
        all[n++] = cases_today_chips[i];
    for (size_t i = 0; i < n_cases_today_run; i++)
        all[n++] = cases_today_run[i];
    return conform_main(argc, argv, all, n, differences, sizeof differences / sizeof *differences);
}
