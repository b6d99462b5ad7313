# SPDX-License-Identifier: MIT
# The front door: meson and ninja do the work in build/. Every target sets up what it needs (tools/setup).

BUILD ?= build
MESON_OPTS ?=
export BUILD

.PHONY: all setup demo test bench fuzz soak docs install clean lint format

all: setup
	@ninja -C $(BUILD)

setup:
	@tools/setup $(MESON_OPTS)

demo: setup
	@ninja -C $(BUILD) vitrine
	@tools/demo

test: all
	@tools/setup --programs $(MESON_OPTS) || echo "test: going on without the programs that could not be installed"
	@tools/run-tests $(BUILD)

lint: all
	@tools/run-tests $(BUILD) --suite lint

bench: all
	@tools/setup --programs $(MESON_OPTS) || echo "bench: going on without QEMU"
	@tools/run-tests $(BUILD) --bench

fuzz: all
	@VITRINE_FUZZ_SECONDS=$${VITRINE_FUZZ_SECONDS:-60} tools/run-tests $(BUILD) --suite fuzz

soak: all
	@tests/guest/soak $(BUILD)
	@tests/guest/run-harassed $(BUILD)

docs: all
	@ninja -C $(BUILD) docs

# PREFIX=/usr DESTDIR=/some/stage; without them what meson was set up with, /usr/local
install: all
	@[ -z "$(PREFIX)" ] || meson configure $(BUILD) --prefix=$(PREFIX)
	@DESTDIR=$(DESTDIR) ninja -C $(BUILD) install

clean:
	@rm -rf $(BUILD)

format:
	@find src vmm cli tests bench examples guests include -name '*.[ch]' | xargs -r clang-format -i
