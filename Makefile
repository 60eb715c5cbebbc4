# `make` alone prints the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build run test e2e bench bench-quick soak lint fuzz packages clean

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
BUILT   ?= $(shell git log -1 --format=%ct 2>/dev/null)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.dated=$(BUILT)
# Everything but the tests with the race detector is compiled in one way, as it is released: each other way compiles all
# packages once more.
export GOFLAGS := $(filter-out -trimpath,$(or $(GOFLAGS),-buildvcs=false)) -trimpath
export CGO_ENABLED ?= 0

# The race detector needs cgo and a C compiler.
CC_FOUND := $(shell command -v gcc || command -v cc || command -v clang)
RACE     := $(if $(CC_FOUND),-race,)
TOOL     := go tool -modfile=packaging/tools/go.mod
GOTEST   ?= go test

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "%-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/casemate
	@mkdir -p bin
	CGO_ENABLED=0 go build -ldflags '$(LDFLAGS)' -o bin/casemate ./cmd/casemate

run: build ## start a node on 127.0.0.1, put a sample in, show DNS, TLS, pull and download by upstream name
	go build -o bin/demo ./cmd/casemate/demo
	@# With job control Ctrl-C reaches the demo alone. Else make gets it too and ends with an error.
	@set -m; bin/demo -casemate bin/casemate -dir run; exit $$?

# The timeouts of tests end what hangs, also on a machine with ten times the load. Tests of clusters mostly wait, so
# more of them run at a time than there are cores. Lint vets all packages; go test would vet them, and everything that
# they import, once more.
test: ## unit and in-process tests (about four minutes on two quiet cores)
	$(if $(RACE),,@echo "no C compiler found: running without the race detector" >&2)
	$(if $(RACE),CGO_ENABLED=1) $(GOTEST) $(RACE) -vet=off -shuffle=on -parallel 6 -timeout 60m ./...

e2e: build ## end-to-end tests with real clients in network namespaces (root, Debian)
	./cmd/casemate/e2e/prepare
	$(GOTEST) -tags e2e -vet=off -parallel 3 -timeout 60m -count 1 -v ./cmd/casemate/e2e/...

bench: build ## compare with public peers on this machine, side by side; prints ratios and what is missed
	./cmd/casemate/e2e/prepare bench
	go test -tags bench -timeout 60m -count 1 -v -run '^TestBench' ./cluster ./dnssrv
	go test -tags bench -timeout 180m -count 1 -v -run '^TestBench' ./cmd/casemate/e2e

bench-quick: build ## the same comparison in five minutes, with fewer rounds and less of everything
	./cmd/casemate/e2e/prepare bench
	CASEMATE_BENCH=quick go test -tags bench -timeout 60m -count 1 -v -run '^TestBench' ./cmd/casemate/e2e

soak: build ## long tests: many seeds, many kills, an hour of siege, 1 GiB for many (the last two as e2e: root, Debian)
	CASEMATE_SOAK=1 go test -timeout 180m -count 1 -parallel 6 -skip '^TestFaults$$' ./cluster -seeds 2000
	go test -timeout 360m -count 1 -parallel 3 -run '^TestFaults$$' ./cluster -seeds 3000
	CASEMATE_SOAK=1 go test -timeout 120m -count 1 -run 'TestKilledDuring(Pushes|Imports)' -v ./cmd/casemate
	CASEMATE_SOAK=1 go test -timeout 60m -count 1 ./appliance/... ./bundle/... ./dnssrv
	cd packaging/tools && go run ./mutations -root ../..
	./cmd/casemate/e2e/prepare
	CASEMATE_SOAK=1 go test -tags e2e -timeout 120m -count 1 -run '^Test(Siege|FetchForMany)$$' -v ./cmd/casemate/e2e

lint: ## gofmt, tidy modules, vet, staticcheck, the import rules, govulncheck where its database can be had
	@mkdir -p bin
	@out=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$out" ]; then echo "gofmt would change:"; echo "$$out"; exit 1; fi
	go mod tidy -diff
	cd packaging/tools && go mod tidy -diff
	go vet ./...
	go vet -tags e2e,bench ./dnssrv ./cmd/casemate/e2e/...
	cd packaging/tools && go vet ./...
	cd packaging/tools && go run ./mutations -root ../.. -check
	GOOS=darwin CGO_ENABLED=0 go build -o /dev/null ./cmd/casemate
	$(TOOL) staticcheck ./...
	@dead=$$($(TOOL) deadcode ./cmd/casemate ./cmd/casemate/demo | \
	  grep -vFf <(sed -n 's/ # .*//p' packaging/tools/deadcode.txt) || true); \
	if [ -n "$$dead" ]; then echo "only tests call:"; echo "$$dead"; exit 1; fi
	go test -vet=off -count 1 -run '^Test(Imports|Words|Phrases|Width)$$' ./cmd/casemate
	@if $(TOOL) govulncheck $(if $(VULNDB),-db $(VULNDB)) ./... > bin/govulncheck.txt 2>&1; then \
	  echo "govulncheck: nothing found"; \
	elif grep -qE 'fetching vulnerabilities|dial tcp|no such host|403|connection refused' bin/govulncheck.txt; then \
	  echo "govulncheck: its database cannot be had here, not checked"; \
	else cat bin/govulncheck.txt; exit 1; fi

packages: ## DEB and RPM for amd64 and arm64, in dist/
	@mkdir -p dist
	cd packaging/tools && go run ./packages -root ../.. -out "$(CURDIR)/dist" -version '$(VERSION)' -commit '$(COMMIT)'

# Each package's test binary is linked once, not once for each of its targets.
FUZZTIME ?= 20s
fuzz: ## every fuzz target for FUZZTIME: a time (20s) or a number of inputs (2000x)
	@mkdir -p bin
	@for pkg in $$(git grep -l '^func Fuzz' -- '*_test.go' | xargs -n 1 dirname | sort -u); do \
	  go test -c -fuzz . -o bin/fuzz.test "./$$pkg"; \
	  ( cd "$$pkg"; \
	    for f in $$("$(CURDIR)/bin/fuzz.test" -test.list '^Fuzz'); do \
	      echo "$$pkg $$f"; \
	      "$(CURDIR)/bin/fuzz.test" -test.run '^$$' -test.fuzz "^$$f\$$" -test.fuzztime $(FUZZTIME) \
	        -test.fuzzminimizetime 100x -test.fuzzcachedir "$$(go env GOCACHE)/fuzz/casemate/$$pkg"; \
	    done ); \
	done

clean: ## remove what the other targets made
	rm -rf bin dist run
