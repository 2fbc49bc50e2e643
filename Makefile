# make test is all that a fresh machine with Go needs: it installs the servers and runs every test on them.

GO      ?= go
SUDO    ?= $(if $(filter 0,$(shell id -u)),,sudo)
MODULES  = $(shell $(GO) list -m -f '{{.Dir}}')
# More flags for go test, such as TESTFLAGS=-v.
TESTFLAGS ?=
# The stores that have to run: a test that cannot have its server fails. Set it empty to skip those that are missing.
REQUIRE ?= etcd,consul,zookeeper,redis,bolt

# The linter, built from its module once into .cache.
LINT_VERSION := v2.15.0
LINT := $(CURDIR)/.cache/golangci-lint-$(LINT_VERSION)

# The one race that is not reported: see the file.
export GORACE := suppressions=$(CURDIR)/backend/zookeeperkv/testdata/race-suppressions.txt

# in-modules runs a command in every module and goes on after a failure, so that one run shows them all.
in-modules = @failed=; for dir in $(MODULES); do (cd $$dir && $(1)) || failed="$$failed $$dir"; done; \
	if [ -n "$$failed" ]; then echo "failed in:$$failed" >&2; exit 1; fi

.PHONY: test quick containers versions setup packages servers alone format lint fuzz bench light prove

## test: set up, then run all tests of all modules, each by itself as its users get it, with the race detector and real servers
test: setup
	$(call in-modules,GOWORK=off KV_TEST_REQUIRE=$(REQUIRE) $(GO) test -race -timeout 30m $(TESTFLAGS) ./...)

## quick: the tests that need no server
quick:
	$(call in-modules,KV_TEST_PROVIDER=none $(GO) test $(TESTFLAGS) ./...)
	@echo "not run: the tests on etcd, Consul, ZooKeeper and Redis, which make test installs or builds"

## containers: the suites on servers in containers, of images that are made of the servers which the other tests use
containers: setup
	cd integration && images=$$(images/build) && export $$images TESTCONTAINERS_RYUK_DISABLED=true && \
		KV_TEST_PROVIDER=containers $(GO) test -race -timeout 30m $(TESTFLAGS) ./containers

# The newest of each line of etcd, and the oldest that Debian has.
VERSIONS ?= debian,v3.5.35,v3.6.16

## versions: the suites on other versions of etcd, see docs/versions.md
versions:
	cd integration && KV_TEST_VERSIONS=$(VERSIONS) $(GO) test -race -timeout 30m $(TESTFLAGS) -run TestVersions .

## setup: what the tests need besides Go
setup: packages servers

## packages: Redis, ZooKeeper, a C compiler for the race detector and iproute2 for networks to cut, from Debian if they are missing
packages:
	@missing=; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	command -v redis-cli >/dev/null || missing="$$missing redis-tools"; \
	[ -n "$$KV_TEST_ZOOKEEPER_CLASSPATH" ] || [ -e /usr/share/java/zookeeper.jar ] || missing="$$missing zookeeper"; \
	command -v ip >/dev/null || missing="$$missing iproute2"; \
	command -v gcc >/dev/null || missing="$$missing gcc libc6-dev"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
		echo "please install:$$missing, or see integration/README.md" >&2; exit 1; \
	fi; \
	$(SUDO) apt-get update -q && \
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing

## servers: build etcd and Consul, once, into the user's cache directory
servers:
	$(GO) run ./internal/testserver/install

## alone: each module builds, and passes vet, by itself, as its users get it
alone:
	$(call in-modules,GOWORK=off $(GO) build -o /dev/null ./... && GOWORK=off $(GO) vet ./...)

## format: fail if a file is not gofmt's
format:
	@unformatted=$$(git ls-files '*.go' | xargs gofmt -l); \
	if [ -n "$$unformatted" ]; then echo "not gofmt-ed:" $$unformatted >&2; exit 1; fi

## lint: see .golangci.yml
lint: $(LINT)
	$(call in-modules,$(LINT) run ./...)

$(LINT):
	GOWORK=off GOBIN=$(CURDIR)/.cache $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	mv .cache/golangci-lint $@

## fuzz: every fuzz test of all modules for five seconds
# Before Go 1.27 the end of that time can fail a fuzz test that found nothing (golang/go#75804). What it did find is
# saved beside the test, and then the plain run of that test fails too.
fuzz:
	@set -e; for file in $$(grep -l '^func Fuzz' $$(git ls-files '*_test.go')); do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\).*/\1/p' $$file); do \
			(cd $$(dirname $$file) && \
				$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $${FUZZTIME:-5s} . || \
				$(GO) test -count 1 -v -run "^$$name\$$" .); \
		done; \
	done

## bench: the raw clients against this library, in turns on the same servers; x-raw is ours over theirs
bench: setup
	cd integration && $(GO) test -run '^$$' -bench . -benchtime $${BENCHTIME:-200x} $(TESTFLAGS) .

## light: a program that imports only the core depends on no network store's client
light:
	.ci/light

## prove: at least 100,000 operations on every store while things break, judged by porcupine; writes docs/proof.md.
## PROVEFLAGS="-stores etcd -ops 10000 -soak 1m" for less, "-seed N" for the same faults again
prove: setup
	cd integration && $(GO) run ./cmd/prove -report $(CURDIR)/docs/proof.md $(PROVEFLAGS)
