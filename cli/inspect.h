/* SPDX-License-Identifier: MIT */
/*
 * What the commands that look into VMs share: finding the VM, with a message that helps, and numbers as users write and read them.
 */
#ifndef VITRINE_CLI_INSPECT_H
#define VITRINE_CLI_INSPECT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "vitrine/inspect.h"

/* NULL after a message; the command's status is CLI_FAILED then. */
struct vitrine_vm *inspect_open(const char *command, const char *which);
/* "vitrine COMMAND: cannot WHAT: reason", by errno. CLI_FAILED. */
int inspect_failed(const char *command, const char *what);

/* A message about what getopt_long did not like, ':' or another. CLI_USAGE. */
int inspect_bad_option(const char *command, int c, const char *text);
/* The value of --vcpu: CLI_DONE, or CLI_USAGE after a message. */
int inspect_vcpu(const char *command, const char *text, uint32_t *out);
/* Decimal, 0x hexadecimal, 0 octal, with K M G T behind it if `has_units`. False: not a number. */
bool inspect_number(const char *text, bool has_units, uint64_t *out);
/* Hexadecimal digits, spaces allowed between bytes. How many bytes, or -1: something else, or more than max. */
int inspect_bytes(const char *text, uint8_t *out, unsigned max);
/* "512 MiB", "4 KiB", "12 bytes". Returns text. */
const char *inspect_size(uint64_t bytes, char text[32]);
/* Addresses and register values: JSON has no 64-bit integers that all readers keep. */
json_t *inspect_hex(uint64_t value);
/* Whether a slot can be mapped by readers: a word; nothing if it can, else a sentence that says why not. */
const char *inspect_share_word(const struct vitrine_slot *s);
const char *inspect_share_sentence(const struct vitrine_slot *s);
/* `vitrine mem map`. */
int inspect_memory_map(struct vitrine_vm *vm, bool is_json);
/* Prints one line and takes the reference. CLI_DONE, or CLI_FAILED after a message. */
int inspect_print_json(const char *command, json_t *value);

#endif
