.DEFAULT_GOAL := help
.PHONY: help demo test soak bench lint wheel setup clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup ## examples/site.yml in containers made on the spot: runc, and Docker when a daemon answers
	scripts/demo

test: setup ## every test; says what it skips and why (one core: scripts/test -s runc-2.21 core-2.21 docker-2.21 pods-2.21)
	scripts/test

soak: setup ## every test on every ansible-core and with large data: hours
	GANGWAY_SOAK=1 scripts/test

bench: wheel ## gangway beside its peers, about 35 minutes (BENCH=quick: 4); bench/README.md
	.venv/bin/python bench/run --plan $(or $(BENCH),full)

lint: setup ## formatting, clippy, ruff, mypy, and the native module against its stub
	scripts/lint

wheel: setup ## dist/ansible_gangway-*-manylinux_2_28_x86_64.whl
	scripts/wheel

setup: ## .venv with the tools and the native module
	scripts/setup

clean: ## what was built, and the virtual environments
	rm -rf target dist .venv .nox .mypy_cache .pytest_cache .ruff_cache
