# Where pip finds PyTorch's CPU build; off this default: make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
export PYTHONHASHSEED = 0

.PHONY: demo test lint

BUILD = build -C examples/kiosk -t this-host -t this-host-int8 -t x86-openvino-int8

# Ends with 0 once there is a verdict and a report, whatever the verdict; its own exit code is printed.
demo: .venv/.demo
	@echo "\$$ fairdeploy $(BUILD)"
	@.venv/bin/fairdeploy $(BUILD); code=$$?; \
	case $$code in 0|1|4) test -f examples/kiosk/build/latest/report.html;; *) exit $$code;; esac

test: .venv/.dev
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m mypy
	@.venv/bin/lint-imports
	@.venv/bin/python -m pytest --numprocesses 2 --dist loadfile

.venv/.base: pyproject.toml constraints.txt Makefile
	@echo "making .venv (PyTorch's CPU build is 200 MB; a minute or two)"
	@$(PYTHON) -m venv .venv
	@$(PIP) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch==2.13.0
	@touch $@

.venv/.demo: .venv/.base
	@$(PIP) --editable '.[torch,openvino]'
	@touch $@

.venv/.dev: .venv/.base
	@$(PIP) --editable '.[torch,openvino,parquet,images,hf,dev]'
	@touch $@ .venv/.demo
