/* SPDX-License-Identifier: MIT */
/*
 * The command table's entry and what commands share. A command gets its own arguments (argv[0] is its name), prints its messages and returns the
 * exit status.
 */
#ifndef VITRINE_CLI_CLI_H
#define VITRINE_CLI_CLI_H

#include <stdbool.h>

#include "vmm/port.h"

enum cli_status { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

struct cli_command {
    const char *name, *help;
    int (*run)(int argc, char **argv);
};

extern const struct cli_command cli_commands[];       /* ends with a NULL name */
const struct cli_command *cli_find(const char *name); /* NULL: there is none */

extern const struct port port_vitrine; /* vitrine's own engine, in this process */

int attach_main(int argc, char **argv);
int boot_main(int argc, char **argv);
int complete_main(int argc, char **argv);
int detach_main(int argc, char **argv);
int doctor_main(int argc, char **argv);
int info_main(int argc, char **argv);
int inject_main(int argc, char **argv);
int list_main(int argc, char **argv);
int mem_main(int argc, char **argv);
int pause_main(int argc, char **argv);
int regs_main(int argc, char **argv);
int resume_main(int argc, char **argv);
int run_main(int argc, char **argv);
int step_main(int argc, char **argv);
int trace_main(int argc, char **argv);
int translate_main(int argc, char **argv);
/* Becomes the program `name` of the PATH, with argv's arguments, as `vitrine run` does; this program itself is passed over. */
int run_wrapped(char *name, char **argv);

/* Prints "vitrine <command>: <text>" and, for usage errors, where help is. Returns the status. */
__attribute__((format(printf, 3, 4))) int cli_error(enum cli_status status, const char *command, const char *format, ...);

#endif
