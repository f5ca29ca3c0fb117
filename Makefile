# podnet. The commands a newcomer needs:
#
#   make lab               build the binaries and bring up a cluster network on this machine (root)
#   make lab-kubernetes    the same with a real Kubernetes control plane (root)
#   make lab-ipvs          its Services in mode ipvs, in a guest whose kernel has IPVS
#   make test              run every check and test (as root also those on the real kernel)

SHELL := /bin/bash
export PATH := $(PATH):/usr/sbin:/sbin
GO ?= go
LAB ?=
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
BUILD := CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"

.PHONY: help build lab lab-kubernetes lab-ipvs test check unit race vm-test vm-self-test bench sim faults fuzz dist clean

help:
	@sed -n 's/^#   //p' Makefile

build:
	@mkdir -p bin
	$(BUILD) -o bin/ ./cmd/... ./examples/lab

# LAB holds flags: make lab LAB="--backend host-gw --nodes 5"
lab:
	@[ "$$(id -u)" -eq 0 ] || { echo "make lab: needs root, to make network namespaces. Run: sudo make lab" >&2; exit 1; }
	@test/install-tools lab
	@$(MAKE) --no-print-directory build
	bin/lab $(LAB)

# The same with nodes, podCIDRs and rights from a real Kubernetes control plane, which is built once: that takes minutes.
lab-kubernetes:
	@[ "$$(id -u)" -eq 0 ] || { echo "make lab-kubernetes: needs root, to make network namespaces. Run: sudo make lab-kubernetes" >&2; exit 1; }
	@test/install-tools lab
	@GO="$(GO)" test/kube/build
	@$(MAKE) --no-print-directory build
	bin/lab --kubernetes $(LAB)

# The lab's Services in mode ipvs, in the guest of test/vm, which is made once. Needs no root. Other modes meet an older kernel there: make lab-ipvs LAB="--proxy nftables".
lab-ipvs:
	@test/install-tools vm
	@test/vm/build
	@$(MAKE) --no-print-directory build
	$(GO) run ./test/vm/run -limit 20m -- bin/lab --checks services --slow 5 --proxy ipvs $(LAB)

test: check unit race
	@if [ "$$(id -u)" -eq 0 ]; then $(MAKE) --no-print-directory vm-test lab; \
	else echo "make test: not root: the kernel tests were skipped (each says so with go test -v), and the guest kernel and the lab were not run"; fi

# Formatting, vet and staticcheck, on Linux and for people who write code on a Mac.
check:
	@test/install-tools test
	@out=$$(gofmt -l .); [ -z "$$out" ] || { echo "gofmt would change:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	GOOS=darwin $(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	$(GO) mod verify >/dev/null
	$(GO) mod tidy -diff

unit:
	$(GO) test -timeout 15m ./...

# The race detector needs cgo, that is, a C compiler.
race:
	@if [ "$$($(GO) env CGO_ENABLED)" = 1 ] && command -v "$$($(GO) env CC)" >/dev/null; then \
		echo "$(GO) test -race -short ./..."; $(GO) test -race -short -timeout 15m ./...; \
	else echo "race: skipped: no C compiler for cgo"; fi

# The tests that meet another kernel: Debian's, which has IPVS, in a guest of qemu (test/vm). What meets only fakes is left out, since the guest is slow, and of
# the random states there are fewer. Others: make vm-test VM=./masq VM_FLAGS='-v -run Kernel'.
VM ?= ./test/vm/vmtest ./rtnl/... ./internal/nfnl ./service/conntrack ./service/nft/... ./service/ipvs/... ./service/internal/wire ./examples/service-ipvs
VM_FLAGS ?= -short -skip '^(TestFlows|TestRandom|TestContract|TestContractRefused|TestFailEach)$$'
vm-test:
	@test/install-tools vm
	@test/vm/build
	$(GO) run ./test/vm/run -limit 40m $(VM_FLAGS) $(VM)

# The guest's own tests boot five of them.
vm-self-test:
	@test/install-tools vm
	@test/vm/build
	REQUIRE_VM=1 $(GO) test ./test/vm/...

# Measured beside the peers, in one run each: every figure is a ratio. Needs root.
bench:
	@test/install-tools bench
	@$(MAKE) --no-print-directory build
	cd test/bench && $(GO) run . -bin ../../bin

# 5,000 nodes on fake kernels and a fake API server: needs no root, but 3 GB and some minutes.
sim:
	$(GO) test ./cmd/podnet-agent/internal/sim -count=1 -run Simulation -v -timeout 60m -args -sim.nodes 5000 -sim.agents 250

# Every fault of the catalogue (docs/faults.md) done to real binaries, kernel and API server; prints the table with what was felt of it. Needs root, and
# test/kube, which is built once: that takes minutes. Some rows: make faults ROW='K13|A.*'. A new record for docs/faults.md: RECORD=1.
ROW ?=
RECORD ?=
faults:
	@[ "$$(id -u)" -eq 0 ] || { echo "make faults: needs root, to make network namespaces. Run: sudo make faults" >&2; exit 1; }
	@test/install-tools bench
	@GO="$(GO)" test/kube/build
	GO="$(GO)" REQUIRE_KERNEL=1 REQUIRE_KUBE=1 $(GO) run ./test/faults $(if $(ROW),-only '$(ROW)') $(if $(RECORD),-record test/faults/testdata/outcomes.json)
	$(if $(RECORD),$(GO) test ./test/faults -update)

FUZZTIME ?= 30s
fuzz:
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep ^Fuzz); do \
			echo "fuzz $$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; done; done

# A release: static binaries for amd64 and arm64, SBOMs, manifests, checksums, in dist/. make dist VERIFY=1 builds it twice, the second time elsewhere and
# from an empty cache, and compares.
VERIFY ?=
dist:
	$(GO) run ./deploy/dist -version "$(VERSION)" $(if $(VERIFY),-verify)

clean:
	rm -rf bin dist
