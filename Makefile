# make demo    fill a sample scene and draw it before and after
# make test    the test suite, without what is marked slow or gpu
# make check   lint, format and types
# make test-gpu   the tests that need a GPU, with the PyTorch and Triton of $(PYTHON) as they are
# make bench-gpu  figures from a GPU, likewise
# make check-tensorrt   on a machine with TensorRT and a GPU: every claim of docs/tensorrt.md, put to the test
# make all-tests, make clean

PYTHON ?= python3
# Pinned: an unpinned torch may bring gigabytes of CUDA libraries that nothing here needs.
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
DEMO := demo

.PHONY: demo test all-tests test-gpu bench-gpu check check-tensorrt clean

demo: $(READY)
	@mkdir -p $(DEMO)
	$(BIN)/python -m ecea.runtime.sample $(DEMO)/scene.tif
	$(BIN)/ecea-export training/weights/unet.safetensors -o $(DEMO)/unet.ecea --engine fp32 --engine fp16
	$(BIN)/ecea-run $(DEMO)/scene.tif -o $(DEMO)/scene_filled.tif --bundle $(DEMO)/unet.ecea
	$(BIN)/python -m ecea.runtime.picture $(DEMO)/scene.tif $(DEMO)/scene_filled.tif $(DEMO)/before_after.png
	@echo
	@echo "The scene:        $(DEMO)/scene.tif"
	@echo "The filled scene: $(DEMO)/scene_filled.tif"
	@echo "Before and after: $(DEMO)/before_after.png"
	@echo "What fills is a U-Net that was trained for some hours on other land, without ECEA's own generator, of which no"
	@echo "trained one is here: docs/training.md says how good that is, scene by scene."

# Two processes, however many cores there are: each takes up to 4 GB.
test: $(READY)
	$(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist worksteal

all-tests: $(READY)
	$(BIN)/python -m pytest -m "not gpu" -n 2 --dist worksteal

# The folders as the package that they install as: nothing is installed where PyTorch is one for CUDA.
LINKS := build/links
$(LINKS):
	@mkdir -p $@/ecea
	@for folder in calibration export kernels model runtime; do ln -s $(CURDIR)/$$folder $@/ecea/$$folder; done

test-gpu: $(LINKS)
	@$(PYTHON) -c "import sys, torch; torch.cuda.is_available() or sys.exit('no GPU here: nothing would be tested')"
	PYTHONPATH=$(LINKS) $(PYTHON) -m pytest -m gpu tests/gpu $(ARGUMENTS)

bench-gpu: $(LINKS)
	PYTHONPATH=$(LINKS) $(PYTHON) benchmarks/gpu.py $(ARGUMENTS)

# Types are checked on the installed package, as its users see it.
check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(BIN)/pip install --quiet --no-deps --target build/installed .
	MYPYPATH=build/installed $(BIN)/mypy -p ecea
	rm -rf build

# Says of each claim that it was proved, failed, or not run and why; status 0 if all are proved but those for information.
check-tensorrt: $(READY)
	@if command -v nvidia-smi > /dev/null && ! $(BIN)/python -c "import tensorrt, pycuda" 2> /dev/null; then \
	    $(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,tensorrt]' || true; fi
	$(BIN)/python benchmarks/check_tensorrt.py

$(READY): pyproject.toml
	@echo "Installing into $(VENV): a few minutes, 3 GB"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
