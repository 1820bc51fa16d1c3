# `make help` lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# What test needs is checked in the order in which it is written.
.NOTPARALLEL:

# Queries are checked against common/store/.sqlx, so that no build needs a database.
export SQLX_OFFLINE := true
CARGO ?= cargo
# Runs a command with the addresses of the servers, and starts those that the environment does not name.
WITH_STACK := topology/stack/with

# Points at which a test has a worker stop or end itself; never in a release build.
FAULTS := --features dat/faults

# The Python client that a test speaks to the broker with, as an outsider would.
PIKA := pika==1.3.2
VENV := target/venv

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r target text; do printf '  %-14s %s\n' "$$target" "$$text"; done

.PHONY: demo
demo: ## Start the whole system, run scenario plans on it, and show what came of them
	@$(CARGO) build --release --locked --package dat --package dat-tests --bin dat --bin demo
	@$(WITH_STACK) target/release/demo

.PHONY: test
test: lint sqlx-check python-env monitoring-tools ## Check format, lints and stored queries, run every test on real servers, check licences
	@export DAT_TEST_PYTHON='$(CURDIR)/$(VENV)/bin/python'; \
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(WITH_STACK) $(CARGO) test --quiet --workspace --locked --doc; \
		$(WITH_STACK) $(CARGO) nextest run --workspace --locked $(FAULTS); \
	else \
		$(WITH_STACK) $(CARGO) test --workspace --locked $(FAULTS); \
	fi
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny --locked check licenses bans sources; \
	else \
		echo 'cargo-deny is not installed: licences and banned crates are not checked' >&2; \
	fi

.PHONY: token-trace
token-trace: ## Run the whole token stream against half its budget, with Redis lost three times, and print the figures
	@export DAT_TEST_TOKEN_CALLS=all; \
	$(WITH_STACK) $(CARGO) test --quiet --locked --package dat $(FAULTS) --no-run; \
	$(WITH_STACK) $(CARGO) test --locked --package dat-tests --test e2e token_trace -- --nocapture

.PHONY: http-mock
http-mock: ## Run the connector http against a mock server from npm, made from a public OpenAPI document
	@$(CARGO) test --quiet --locked --package dat-connectors --test http --no-run
	@topology/stack/http-mock target/http-mock common/connectors/tests/http/petstore.json $(CARGO) test --locked --package dat-connectors --test http -- --nocapture mock

.PHONY: lint
lint: ## Check format and lints
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --workspace --all-targets --locked $(FAULTS) -- -D warnings

.PHONY: fmt
fmt: ## Format the code
	@$(CARGO) fmt --all

# What a fleet does and costs, on fleets of their own: each prints its figures, and fails where they are not as promised.
.PHONY: bench bench-peers bench-tenants bench-history bench-backlog bench-overload bench-idle bench-fairness bench-rate bench-guards-ratio
bench: ## Measure throughput, latency and cost with everything on, at 1, 2 and 4 workers, and as a share of the servers' limit
	@$(CARGO) build --release --locked --workspace --bins
	@$(WITH_STACK) target/release/fleet-bench throughput
bench-peers: ## Measure Restate, DBOS and Celery beside DAT: npm and pip install them into target/peers
	@loadtest/peers/install target/peers
	@$(CARGO) build --release --locked --workspace --bins
	@$(WITH_STACK) env DAT_PEERS=target/peers target/release/fleet-bench peers
bench-tenants: ## Measure the throughput with 1,000 tenants beside that with one
bench-history: ## Measure the throughput with DAT_BENCH_PLANS (200,000) finished plans in the database beside that with none
bench-backlog: ## Measure the throughput with DAT_BENCH_PLANS (200,000) waiting plans beside that with 200
bench-overload: ## Measure two minutes of twice what the fleet bears
bench-idle: ## Measure what 20 idle workers ask of PostgreSQL
bench-fairness: ## Measure a small plan beside a tenant with 20,000 steps waiting
bench-rate: ## Measure what a rate lets pass, and what PostgreSQL does for it, with 20,000 steps waiting
bench-guards-ratio: ## Measure what governance costs: the throughput with everything on, as a ratio of that without guards, sealing, approvals
bench-tenants bench-history bench-backlog bench-overload bench-idle bench-fairness bench-rate bench-guards-ratio: bench-%:
	@$(CARGO) build --release --locked --workspace --bins
	@$(WITH_STACK) target/release/fleet-bench $(patsubst guards-%,%,$*)

.PHONY: bench-guards
bench-guards: ## Measure what the guards cost: constraints, claims with accounts, windows and rates
	@$(WITH_STACK) $(CARGO) bench --locked --package dat-guards --bench guards
	@$(WITH_STACK) $(CARGO) bench --locked --package dat-store --bench claims

.PHONY: bench-audit
bench-audit: ## Measure the audit of DAT_BENCH_PLANS (100,000) plans: events a second, and memory beside that of a tenth
	@$(WITH_STACK) $(CARGO) bench --locked --package dat-store --bench audit

.PHONY: soak
soak: ## Throw the dice of the books' property test 2,000 times
	@$(CARGO) test --no-run --quiet --locked --package dat-tests --test e2e
	@DAT_TEST_CASES=2000 $(WITH_STACK) $(CARGO) test --locked --package dat-tests --test e2e -- --nocapture a_random_fleet_keeps_its_books

.PHONY: faults
faults: ## Kill workers at every passing of every write and send, once and twice (DAT_TEST_KILLS=10000 of them), and take servers away amid 500 plans
	@$(CARGO) build --profile faults --quiet --locked --workspace $(FAULTS) --bin dat
	@$(CARGO) test --profile faults --no-run --quiet --locked --workspace $(FAULTS) --test e2e
	@DAT_TEST_KILLS=$${DAT_TEST_KILLS:-10000} DAT_TEST_LANES=$${DAT_TEST_LANES:-10} $(WITH_STACK) \
		$(CARGO) test --profile faults --locked --workspace $(FAULTS) --test e2e -- --nocapture faults::
	@DAT_TEST_OUTAGE_PLANS=$${DAT_TEST_OUTAGE_PLANS:-500} $(WITH_STACK) \
		$(CARGO) test --profile faults --locked --workspace $(FAULTS) --test e2e -- --nocapture --test-threads=1 outages::

# What comes from outside; seeds in fuzz/seeds, what is found interesting in target/fuzz.
FUZZ_KINDS := plan verdict constraints limits predicate export

.PHONY: fuzz
fuzz: ## Fuzz what comes from outside by coverage, DAT_FUZZ_SECONDS (60) for each kind of input; installs cargo-fuzz
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz
	@for kind in $(FUZZ_KINDS); do \
		echo "fuzz: $$kind, $${DAT_FUZZ_SECONDS:-60} s"; \
		mkdir -p target/fuzz/corpus/$$kind target/fuzz/found/$$kind; \
		$(CARGO) fuzz run --sanitizer none --target-dir target/fuzz $$kind target/fuzz/corpus/$$kind fuzz/seeds/$$kind -- \
			-max_total_time=$${DAT_FUZZ_SECONDS:-60} -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
			-artifact_prefix=target/fuzz/found/$$kind/ -print_final_stats=1 2>&1 | \
			grep -E '^(Done|stat::|SUMMARY|.*(panicked|ERROR))' ; \
	done

.PHONY: up
up: ## Start PostgreSQL, Redis and RabbitMQ of this checkout's own
	@topology/stack/up
	@echo "The stack is up: 'make -s env' prints its addresses, 'make down' ends it." >&2

.PHONY: down
down: ## Stop them and keep their data
	@topology/stack/down

.PHONY: env
env: ## Print their addresses as KEY=value lines: eval "$(make -s env)"
	@topology/stack/env

.PHONY: clean-stack
clean-stack: ## Stop them and delete their data
	@topology/stack/down --delete-data

.PHONY: sqlx-prepare
sqlx-prepare: ## Store what the queries of common/store look like, after a change of a query or a migration
	@$(WITH_STACK) topology/stack/sqlx prepare

.PHONY: sqlx-check
sqlx-check: ## Check that what is stored of the queries is current
	@$(WITH_STACK) topology/stack/sqlx check

.PHONY: monitoring-tools
monitoring-tools: ## Install Prometheus and promtool where they are missing: tests run the rules in them
	@topology/stack/monitoring

.PHONY: python-env
python-env: $(VENV)/$(PIKA).stamp ## Make the Python environment that a test uses

$(VENV)/$(PIKA).stamp:
	@topology/stack/python $(VENV) $(PIKA)
	@touch $@
