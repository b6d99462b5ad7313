/* SPDX-License-Identifier: MIT */
/*
 * `vitrine complete`: what could come next on a command line, for the shells' completion (cli/completion). It is taken from the commands' own table and help
 * texts, so there is nothing to keep in step with them. Prints one word per line; nothing where any file name may come.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "vitrine/inspect.h"

#define HELP_BYTES 16384
#define VMS_MAX 256

static const char usage[] = "usage: vitrine complete [WORD]...\n\n"
                            "Prints what the last WORD of a vitrine command could be, given those before it: for shells, which ask when Tab is pressed.\n";

/* What the command says of itself, by a child, since it says it to standard output. */
static void help_of(const struct cli_command *c, char text[HELP_BYTES])
{
    char name[32], flag[] = "--help", *argv[] = { name, flag, NULL };
    size_t n = 0;
    int pipes[2];
    text[0] = '\0';
    if (pipe(pipes))
        return;
    snprintf(name, sizeof name, "%s", c->name);
    pid_t child = fork();
    if (child == 0) {
        dup2(pipes[1], STDOUT_FILENO);
        close(STDERR_FILENO); /* help and version have none */
        c->run(2, argv);
        _exit(fflush(stdout) ? 1 : 0);
    }
    close(pipes[1]);
    for (ssize_t got; n < HELP_BYTES - 1 && (got = read(pipes[0], text + n, HELP_BYTES - 1 - n)) > 0;)
        n += (size_t)got;
    text[n] = '\0';
    close(pipes[0]);
    if (child > 0)
        waitpid(child, NULL, 0);
}

static void offer(const char *word, size_t n, const char *begin)
{
    if (!strncmp(word, begin, strlen(begin) < n ? strlen(begin) : n) && strlen(begin) <= n)
        printf("%.*s\n", (int)n, word);
}

static void offer_commands(const char *begin)
{
    for (const struct cli_command *c = cli_commands; c->name; c++)
        offer(c->name, strlen(c->name), begin);
}

static void offer_machines(const char *begin)
{
    static struct vitrine_vm_info vm[VMS_MAX];
    char pid[16];
    int n = vitrine_vm_list(vm, VMS_MAX);
    for (int i = 0; i < n && i < VMS_MAX; i++) {
        snprintf(pid, sizeof pid, "%" PRIu32, vm[i].pid);
        offer(vm[i].name, strlen(vm[i].name), begin);
        if (isdigit((unsigned char)begin[0]))
            offer(pid, strlen(pid), begin);
    }
}

/* ---- the help text ---- */

static size_t option_length(const char *at)
{
    return 2 + strspn(at + 2, "abcdefghijklmnopqrstuvwxyz-");
}

/* The next option, not in the middle of a word. */
static const char *next_option(const char *text, const char *at)
{
    while ((at = strstr(at, "--")) && (!islower((unsigned char)at[2]) || (at > text && (isalnum((unsigned char)at[-1]) || at[-1] == '-'))))
        at += 2;
    return at;
}

static void offer_options(const char *text, const char *begin)
{
    for (const char *at = text; (at = next_option(text, at)); at += option_length(at)) {
        const char *before = text;
        while ((before = next_option(text, before)) < at && (option_length(before) != option_length(at) || strncmp(before, at, option_length(at))))
            before += option_length(before);
        if (before == at) /* not seen yet */
            offer(at, option_length(at), begin);
    }
}

/* What stands for the value of an option, as "FILE" or "raw|elf"; NULL: it takes none. */
static const char *value_of(const char *text, const char *option, size_t *n)
{
    for (const char *at = text; (at = next_option(text, at)); at += option_length(at)) {
        if (option_length(at) != strlen(option) || strncmp(at, option, strlen(option)) || at[strlen(option)] != ' ')
            continue;
        const char *value = at + strlen(option) + 1;
        *n = strcspn(value, " ]\n[,.");
        if (isupper((unsigned char)*value) || memchr(value, '|', *n))
            return value;
    }
    return NULL;
}

static void offer_values(const char *value, size_t n, const char *begin)
{
    for (size_t piece; n; value += piece + (n > piece), n -= piece + (n > piece)) {
        for (piece = 0; piece < n && value[piece] != '|';)
            piece++;
        if (islower((unsigned char)*value))
            offer(value, piece, begin);
    }
}

/* The words of a usage line behind the command: "vitrine mem read ..." has one. */
static bool offer_actions(const char *text, const char *command, const char *begin, bool is_quiet)
{
    char start[64];
    bool has_any = false;
    snprintf(start, sizeof start, "vitrine %s ", command);
    for (const char *at = text; (at = strstr(at, start));) {
        at += strlen(start);
        size_t n = strspn(at, "abcdefghijklmnopqrstuvwxyz");
        if (n && (at[n] == ' ' || at[n] == '\n')) {
            has_any = true;
            if (!is_quiet)
                offer(at, n, begin);
        }
    }
    return has_any;
}

/* ---- the command ---- */

/* How many of the words are neither options nor their values. */
static int count_arguments(const char *text, char **words, int n)
{
    int count = 0;
    size_t length;
    for (int i = 0; i < n; i++) {
        if (words[i][0] != '-' || !words[i][1])
            count++;
        else if (value_of(text, words[i], &length))
            i++;
    }
    return count;
}

/* By the usage lines, which end with an empty one. */
static bool takes_machine(const char *text)
{
    const char *end = strstr(text, "\n\n"), *machine = strstr(text, " VM");
    return machine && (!end || machine < end);
}

static void complete_argument(const struct cli_command *c, const char *text, int n_before, const char *begin)
{
    bool has_actions = offer_actions(text, c->name, begin, true);
    if (!strcmp(c->name, "help") && n_before == 0)
        offer_commands(begin);
    else if (has_actions && n_before == 0)
        offer_actions(text, c->name, begin, false);
    else if (n_before == (has_actions ? 1 : 0) && takes_machine(text))
        offer_machines(begin);
}

int complete_main(int argc, char **argv)
{
    static char text[HELP_BYTES];
    const char *begin = argc > 1 ? argv[argc - 1] : "", *value;
    size_t n;
    if (argc == 2 && !strcmp(begin, "--help"))
        return fputs(usage, stdout) < 0 ? CLI_FAILED : CLI_DONE;
    if (argc <= 2) {
        offer_commands(begin);
        return CLI_DONE;
    }
    const struct cli_command *c = cli_find(argv[1]);
    if (!c || !strcmp(c->name, "complete"))
        return CLI_DONE;
    for (int i = 2; i < argc - 1; i++)
        if (!strcmp(argv[i], "--"))
            return CLI_DONE;
    help_of(c, text);
    if (argc > 3 && argv[argc - 2][0] == '-' && (value = value_of(text, argv[argc - 2], &n)))
        offer_values(value, n, begin);
    else if (begin[0] == '-')
        offer_options(text, begin);
    else
        complete_argument(c, text, count_arguments(text, argv + 2, argc - 3), begin);
    return CLI_DONE;
}
